// deploy/nginx.conf with nginx and two replicas: where requests go, how tokens pass, what a failure costs.
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import https from "node:https";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";

const BINARY = process.env.STERNA_BIN;
const NAME = "llm.example";
const KEY = "a-key-for-tests";
const folder = mkdtempSync(join(tmpdir(), "sterna-nginx-"));
const agent = new https.Agent({ keepAlive: true });
let replicas, nginx, port;

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

async function freePort() {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address();
  server.close();
  return port;
}

/** Starts a replica and waits until it takes requests. */
async function start(port) {
  const options = ["--port", `${port}`, "--api-key", KEY, "--grace", "20"];
  const process = spawn(BINARY, ["serve", "demo", ...options], { stdio: ["ignore", "ignore", "pipe"] });
  let said = "";
  process.stderr.on("data", (data) => (said += data));
  for (let tries = 0; tries < 200; tries++) {
    if (process.exitCode !== null) throw new Error(`the replica ended: ${said}`);
    const ready = await fetch(`http://127.0.0.1:${port}/ready`).catch(() => null);
    if (ready?.ok) return { port, process };
    await sleep(50);
  }
  throw new Error(`the replica is not ready: ${said}`);
}

async function end({ process }, signal = "SIGTERM") {
  if (process.exitCode !== null || process.signalCode !== null) return;
  process.kill(signal);
  await once(process, "exit");
}

/** A figure of each replica's metrics. */
async function figures(pattern) {
  const headers = { authorization: `Bearer ${KEY}` };
  const texts = replicas.map(async ({ port }) => (await fetch(`http://127.0.0.1:${port}/metrics`, { headers })).text());
  return (await Promise.all(texts)).map((text) => Number(pattern.exec(text)?.[1] ?? 0));
}

const total = async (pattern) => (await figures(pattern)).reduce((sum, each) => sum + each);

before(async () => {
  replicas = await Promise.all([await freePort(), await freePort()].map(start));
  port = await freePort();
  const certificate = [
    "req",
    "-x509",
    "-newkey",
    "rsa:2048",
    "-nodes",
    "-keyout",
    "key.pem",
    "-out",
    "cert.pem",
    "-subj",
    `/CN=${NAME}`,
  ];
  assert.equal(spawnSync("openssl", certificate, { cwd: folder }).status, 0);
  // The file as it is, but for ports and the certificate.
  const site = readFileSync(fileURLToPath(new URL("../../deploy/nginx.conf", import.meta.url)), "utf8")
    .replace("127.0.0.1:8081", `127.0.0.1:${replicas[0].port}`)
    .replace("127.0.0.1:8082", `127.0.0.1:${replicas[1].port}`)
    .replace("listen 443", `listen 127.0.0.1:${port}`)
    .replace("listen 80", `listen 127.0.0.1:${await freePort()}`)
    .replaceAll(/^.*listen \[::\].*$/gm, "")
    .replace(/ssl_certificate .*/, "ssl_certificate cert.pem;")
    .replace(/ssl_certificate_key .*/, "ssl_certificate_key key.pem;");
  const temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
    .map((each) => `${each}_temp_path ${each};`)
    .join(" ");
  writeFileSync(join(folder, "site.conf"), site);
  writeFileSync(
    join(folder, "nginx.conf"),
    `daemon off; pid pid; error_log error.log info; events {} http { access_log off; ${temporary} include site.conf; }`,
  );
  nginx = spawn("nginx", ["-p", folder, "-e", "error.log", "-c", "nginx.conf"], { stdio: "inherit" });
  for (let tries = 0; (await ask({ max_tokens: 1 })).failed; tries++) {
    assert.ok(tries < 50, "nginx does not answer");
    await sleep(100);
  }
});

after(async () => {
  await end({ process: nginx }, "SIGQUIT");
  await Promise.all(replicas.map((each) => end(each)));
  rmSync(folder, { recursive: true });
});

/** Asks through nginx. What comes back says when it began and ended, when pieces came, and `failed` why it failed. */
function ask({ prompt = "Once upon a time", session = "", stream = true, max_tokens = 60, giveUpAfter = Infinity }) {
  const began = Date.now();
  const body = JSON.stringify({
    model: "demo",
    messages: [{ role: "user", content: prompt }],
    max_tokens,
    stream,
    ignore_eos: true,
    ...(stream ? { stream_options: { include_usage: true } } : {}),
  });
  const headers = {
    "content-type": "application/json",
    authorization: `Bearer ${KEY}`,
    host: NAME,
    "x-session-id": session,
  };
  return new Promise((resolve) => {
    const pieces = [];
    let text = "";
    const finish = (failed) => resolve({ began, ended: Date.now(), stream, pieces, text, failed });
    const options = {
      host: "127.0.0.1",
      port,
      servername: NAME,
      rejectUnauthorized: false,
      agent,
      path: "/v1/chat/completions",
    };
    const request = https.request({ ...options, method: "POST", headers }, (response) => {
      response.setEncoding("utf8");
      response.on("data", (data) => {
        pieces.push(Date.now());
        text += data;
        if (pieces.length >= giveUpAfter) request.destroy();
      });
      response.on("end", () => {
        const complete = stream ? text.endsWith("data: [DONE]\n\n") && !text.includes('"error"') : text.endsWith("}");
        finish(response.statusCode === 200 && complete ? null : `${response.statusCode}: ${text.slice(-200)}`);
      });
      response.on("error", (error) => finish(error.message));
    });
    request.on("error", (error) => finish(error.message));
    request.end(body);
  });
}

/** Keeps asking with `clients` at a time while `work` runs; all that came back. */
async function underLoad(clients, work) {
  const results = [];
  let going = true;
  const client = async (number) => {
    for (let round = 0; going; round++) {
      results.push(await ask({ session: `${number}-${round}`, stream: number % 3 !== 0 }));
    }
  };
  const all = Promise.all(Array.from({ length: clients }, (_, number) => client(number)));
  try {
    await work();
  } finally {
    going = false;
    await all;
  }
  assert.ok(results.length > 2 * clients, `only ${results.length} requests`);
  return results;
}

test("tokens pass as they are written", async () => {
  const { pieces, failed, began } = await ask({ max_tokens: 400 });
  assert.equal(failed, null);
  assert.ok(pieces.length > 20, `${pieces.length} pieces`);
  assert.ok(pieces[0] - began < pieces.at(-1) - pieces[0], "the first token comes long before the last");
});

test("a session stays at the replica that knows its beginning", async () => {
  for (let session = 0; session < 12; session++) {
    const prompt =
      `Number ${session} was the ${session}th of all the ${session} kings who lived in the great old house by the sea. `.repeat(
        4,
      );
    const cached = async () => {
      const { text, failed } = await ask({ prompt, session: `s${session}`, max_tokens: 2 });
      assert.equal(failed, null);
      return JSON.parse(text.trim().split("\n\n").at(-2).slice(6)).usage.prompt_tokens_details.cached_tokens;
    };
    await cached();
    assert.ok((await cached()) > 16, `session ${session} went to another replica`);
  }
  const answered = await figures(/sterna_requests_total\{route="\/v1\/chat\/completions",status="200"\} (\d+)/);
  assert.ok(Math.min(...answered) > 0, `both replicas got requests: ${answered}`);
});

test("a client that goes away ends its answer", async () => {
  const before = await total(/sterna_generated_tokens_total\{.*\} (\d+)/);
  await ask({ max_tokens: 480, giveUpAfter: 5 });
  await sleep(1500);
  const written = (await total(/sterna_generated_tokens_total\{.*\} (\d+)/)) - before;
  assert.ok(written < 240, `the replica wrote ${written} tokens for nobody`);
});

test("a replica that is killed costs only the streams that it was writing", async () => {
  let killed;
  const results = await underLoad(8, async () => {
    await sleep(1500);
    killed = Date.now();
    await end(replicas[0], "SIGKILL");
    await sleep(2000);
    replicas[0] = await start(replicas[0].port);
    await sleep(1000);
  });
  const failed = results.filter(({ failed }) => failed);
  const inFlight = results.filter(({ began, ended }) => began <= killed && ended >= killed);
  for (const each of failed) {
    // Of an answer that is not streamed nothing has reached the client: the other replica writes it.
    assert.ok(each.stream, `an answer that was not streamed failed: ${each.failed}`);
    assert.ok(inFlight.includes(each), `failed ${each.began - killed} ms after the kill: ${each.failed}`);
  }
  assert.ok(results.filter(({ began }) => began > killed).length > 8);
});

test("restarting one replica after the other costs nothing", async () => {
  const results = await underLoad(8, async () => {
    for (const at of [0, 1]) {
      await sleep(800);
      await end(replicas[at]);
      assert.equal(replicas[at].process.exitCode, 0);
      replicas[at] = await start(replicas[at].port);
    }
    await sleep(500);
  });
  assert.deepEqual(
    results.filter(({ failed }) => failed).map(({ failed }) => failed),
    [],
  );
});

test("what is for operators is not open to the world", async () => {
  for (const path of ["/metrics", "/health", "/ready"]) {
    const request = https.get({ host: "127.0.0.1", port, servername: NAME, rejectUnauthorized: false, path });
    const [response] = await once(request, "response");
    response.resume();
    assert.equal(response.statusCode, 404);
  }
});
