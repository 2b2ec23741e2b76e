// What the tests of the page share: the server, a proxy that makes it slow, the browser.
import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import http from "node:http";
import { chromium } from "playwright-core";

const BINARY = process.env.STERNA_BIN;
if (!BINARY) throw new Error("STERNA_BIN must name the sterna binary; tests/page/run.sh sets it");
const BROWSER = process.env.CHROMIUM ?? "/usr/bin/chromium";
if (!existsSync(BROWSER)) throw new Error(`no browser at ${BROWSER}; CHROMIUM may name another`);

/** Starts `sterna serve demo` with more arguments; gives its address and a way to end it. */
export async function serve(...args) {
  const port = args.includes("--port") ? [] : ["--port", "0"];
  const child = spawn(BINARY, ["serve", "demo", ...port, ...args], { stdio: ["ignore", "ignore", "pipe"] });
  let said = "";
  const url = await new Promise((resolve, reject) => {
    child.once("error", reject);
    child.once("exit", (code) => reject(new Error(`the server ended with ${code}: ${said}`)));
    child.stderr.on("data", (data) => {
      said += data;
      const found = /listening on (http:\/\/\S+?)\/?\s/.exec(said);
      if (found) resolve(found[1]);
    });
  });
  child.removeAllListeners("exit");
  const stop = () =>
    new Promise((resolve) => {
      if (child.exitCode !== null || child.signalCode !== null) resolve();
      child.once("exit", resolve);
      child.kill("SIGTERM");
    });
  return { url, stop, port: new URL(url).port };
}

/** A proxy in front of `target` that lets an event of a stream pass each `delay` milliseconds. */
export async function slowly(target, delay) {
  const proxy = http.createServer((request, response) => {
    const upstream = http.request(
      target + request.url,
      { method: request.method, headers: request.headers },
      async (answer) => {
        response.writeHead(answer.statusCode, answer.headers);
        if (!answer.headers["content-type"]?.startsWith("text/event-stream")) {
          answer.pipe(response);
          return;
        }
        let rest = "";
        try {
          for await (const chunk of answer.setEncoding("utf8")) {
            const events = (rest + chunk).split("\n\n");
            rest = events.pop();
            for (const event of events) {
              response.write(`${event}\n\n`);
              await new Promise((resolve) => setTimeout(resolve, delay));
            }
          }
          response.end();
        } catch {
          response.destroy();
        }
      },
    );
    upstream.on("error", () => response.destroy());
    // The browser went away: so does the request to the server.
    response.on("close", () => upstream.destroy());
    request.pipe(upstream);
  });
  await new Promise((resolve) => proxy.listen(0, "127.0.0.1", resolve));
  return {
    url: `http://127.0.0.1:${proxy.address().port}`,
    stop() {
      proxy.closeAllConnections();
      return new Promise((resolve) => proxy.close(resolve));
    },
  };
}

export function launch() {
  return chromium.launch({
    executablePath: BROWSER,
    args: [
      "--no-sandbox",
      "--disable-gpu",
      "--disable-quic",
      "--no-first-run",
      "--disable-background-networking",
      "--disable-component-update",
      "--disable-sync",
    ],
  });
}

/**
 * Opens the page in a browser of its own. `page.problems` collects what the browser complains about (errors of scripts,
 * what the content security policy stopped), except failed requests, which some tests make on purpose.
 */
export async function open(browser, url, options = {}) {
  const context = await browser.newContext({
    viewport: { width: 1280, height: 800 },
    colorScheme: "light",
    ...options,
  });
  context.setDefaultTimeout(15_000);
  if (options.before) await context.addInitScript(options.before);
  return openTab(context, url);
}

/** Opens the page in another tab of a browser. */
export async function openTab(context, url) {
  const page = await context.newPage();
  page.problems = [];
  page.on("pageerror", (error) => page.problems.push(error.message));
  page.on("console", (message) => {
    if (message.type() === "error" && !message.text().startsWith("Failed to load resource"))
      page.problems.push(message.text());
  });
  await page.goto(url);
  return page;
}

/** Writes a message and sends it with Enter, once there is a model to answer. */
export async function say(page, text) {
  await page.locator("#model option").first().waitFor({ state: "attached" });
  await page.locator("#composer").fill(text);
  await page.locator("#composer").press("Enter");
}

/** Waits until no answer is being written. */
export async function answered(page) {
  await page.locator('.message.assistant:last-child:not([aria-busy="true"])').waitFor();
}

/** The texts of the shown messages, in order. */
export const texts = (page) => page.locator(".message .body").allInnerTexts();

/** Sets a number in the settings. */
export async function set(page, name, value) {
  await page.locator("#settings-open").click();
  await page.locator(`#setting-${name}`).fill(value);
  await page.locator("#settings-close").click();
}

/** A stream of chat chunks as the server sends it: `texts` as they come, then what `end` has. */
export function stream(texts, end = [{ choices: [{ index: 0, delta: {}, finish_reason: "stop" }] }, "[DONE]"]) {
  const chunks = texts.map((content) => ({ choices: [{ index: 0, delta: { content }, finish_reason: null }] }));
  return [...chunks, ...end]
    .map((data) => `data: ${typeof data === "string" ? data : JSON.stringify(data)}\n\n`)
    .join("");
}

/** Answers the page's next requests for answers with these bodies of streams or responses, one after the other. */
export async function answerWith(page, ...answers) {
  await page.route("**/v1/chat/completions", (route) => {
    const answer = answers.length > 1 ? answers.shift() : answers[0];
    return route.fulfill(typeof answer === "string" ? { contentType: "text/event-stream", body: answer } : answer);
  });
}
