// The page when something goes wrong: the server, the model, the browser's storage. Some answers are made up here.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { answerWith, answered, launch, open, say, serve, set, stream, texts } from "./harness.mjs";

let server, browser;
before(async () => {
  server = await serve();
  browser = await launch();
});
after(async () => {
  await browser.close();
  await server.stop();
});

const failure = (status, message, code, headers = {}) => ({
  status,
  headers,
  contentType: "application/json",
  body: JSON.stringify({ error: { message, type: "invalid_request_error", param: null, code } }),
});
const problem = (page) => page.locator(".problem:visible");

test("a busy server is tried again when it says", async () => {
  const page = await open(browser, server.url);
  await answerWith(
    page,
    failure(429, "the queue is full", "rate_limit_exceeded", { "retry-after": "1" }),
    stream(["Here it is."]),
  );
  await say(page, "Hello");
  await page.getByText("The server is busy. Trying again in 1 s").waitFor();
  await page.getByText("Here it is.").waitFor();
  assert.equal(await page.locator(".message").count(), 2);
});

test("waiting for a busy server can be stopped", async () => {
  const page = await open(browser, server.url);
  await answerWith(page, failure(429, "the queue is full", "rate_limit_exceeded", { "retry-after": "60" }));
  await say(page, "Hello");
  await page.getByText("The server is busy").waitFor();
  await page.keyboard.press("Escape");
  await page.locator(".stats").getByText("Stopped").waitFor({ timeout: 500 });
});

test("an error is shown with the server's words, and the text can be sent again", async () => {
  const page = await open(browser, server.url);
  await answerWith(page, failure(500, "the model failed: out of memory", null), stream(["Now it works."]));
  await say(page, "Hello");
  await problem(page).getByText("the model failed: out of memory").waitFor();
  await page.reload();
  assert.equal((await texts(page))[0], "Hello");
  await problem(page).getByRole("button", { name: "Try again" }).click();
  await page.getByText("Now it works.").waitFor();
  assert.equal(await page.locator(".message").count(), 2);
  assert.equal(await problem(page).count(), 0);
});

test("an error in the middle of a stream keeps what was written", async () => {
  const page = await open(browser, server.url);
  await answerWith(
    page,
    stream(["Half of", " an answer"], [{ error: { message: "the device was lost", type: "server_error" } }]),
  );
  await say(page, "Hello");
  await problem(page).getByText("the device was lost").waitFor();
  assert.equal((await texts(page))[1], "Half of an answer");
});

test("a stream that ends early is not taken for an answer", async () => {
  const page = await open(browser, server.url);
  await answerWith(page, stream(["Half of"], []));
  await say(page, "Hello");
  await problem(page).getByText("ended before the answer was complete").waitFor();
  assert.equal((await texts(page))[1], "Half of");
});

test("a conversation that does not fit offers a new one", async () => {
  const page = await open(browser, server.url);
  await answerWith(page, failure(400, "600 tokens do not fit into the context of 512", "context_length_exceeded"));
  await say(page, "Hello");
  await problem(page).getByText("600 tokens do not fit").waitFor();
  await problem(page).getByRole("button", { name: "New conversation" }).click();
  await page.getByRole("heading", { name: "How does the story begin?" }).waitFor();
});

test("the real server says it when the context is full", async () => {
  const page = await open(browser, server.url);
  await say(page, "Once upon a time there was a king. ".repeat(120));
  await answered(page);
  await problem(page).getByText("context").waitFor();
  await problem(page).getByRole("button", { name: "New conversation" }).waitFor();
});

test("use of the context is warned of when nearly all is used", async () => {
  const page = await open(browser, server.url);
  const usage = {
    prompt_tokens: 400,
    completion_tokens: 80,
    total_tokens: 480,
    prompt_tokens_details: { cached_tokens: 384 },
  };
  const timings = { prompt_seconds: 0.1, first_token_seconds: 0.25, decode_seconds: 2, decode_tokens_per_second: 40 };
  await answerWith(page, stream(["So it was."], [{ choices: [], usage, timings }, "[DONE]"]));
  await say(page, "Hello");
  await page.getByText("480 of 512 tokens: the context is nearly full").waitFor();
  assert.equal(
    (await page.locator(".assistant .stats").innerText()).replace(/\s+/g, " "),
    "40.0 tokens/s first token 250 ms 80 tokens prompt 400 (384 cached)",
  );
});

test("a server that goes away and comes back", async () => {
  const first = await serve();
  const page = await open(browser, first.url);
  await page.locator("#server-facts").getByText("Device").waitFor();
  await first.stop();
  await page.locator(".banner").getByText("The server does not answer").waitFor();
  await say(page, "Are you there?");
  await problem(page).getByText("The server does not answer").waitFor();
  assert.equal((await texts(page))[0], "Are you there?");
  const second = await serve("--port", first.port);
  try {
    await page.locator(".banner").waitFor({ state: "detached" });
    await set(page, "max_tokens", "10");
    await problem(page).getByRole("button", { name: "Try again" }).click();
    await answered(page);
    assert.equal(await problem(page).count(), 0);
    assert.ok((await texts(page))[1].length > 0);
  } finally {
    await second.stop();
  }
});

test("a full storage is told, and the page goes on", async () => {
  const full = () => {
    Storage.prototype.setItem = () => {
      throw new DOMException("full", "QuotaExceededError");
    };
  };
  const page = await open(browser, server.url, { before: full });
  await answerWith(page, stream(["An answer."]));
  await say(page, "Hello");
  await page.getByText("An answer.").waitFor();
  await page.locator(".banner").getByText("storage for the page is full").waitFor();
  await page.locator("#new").click();
  await say(page, "Another one");
  await page.locator("#conversations .open", { hasText: "Hello" }).click();
  assert.deepEqual(await texts(page), ["Hello", "An answer."]);
});

test("without any storage the page works", async () => {
  const disabled = () =>
    Object.defineProperty(window, "localStorage", {
      get() {
        throw new DOMException("denied", "SecurityError");
      },
    });
  const page = await open(browser, server.url, { before: disabled });
  await answerWith(page, stream(["An answer."]));
  await say(page, "Hello");
  await page.getByText("An answer.").waitFor();
  await page.locator(".banner").getByText("does not let the page store anything").waitFor();
  assert.deepEqual(page.problems, []);
});

test("damaged values in the storage do not stop the page", async () => {
  const damage = () => {
    localStorage.setItem("sterna.conversation.a", "{");
    localStorage.setItem("sterna.conversation.b", '{"id":"b","messages":7}');
    localStorage.setItem("sterna.settings", '{"temperature":{"a":1}}');
  };
  const page = await open(browser, server.url, { before: damage });
  await answerWith(page, stream(["An answer."]));
  await say(page, "Hello");
  await page.getByText("An answer.").waitFor();
  assert.equal(await page.locator("#conversations .open").count(), 1);
  assert.deepEqual(page.problems, []);
});

test("events of a stream are read however they are cut", async () => {
  const page = await open(browser, server.url);
  const read = await page.evaluate(async () => {
    const { eventData } = await import("./sse.js");
    const bytes = new TextEncoder().encode(
      ': a comment\r\n\r\ndata: {"a":"ü🐦"}\r\n\r\nevent: x\ndata:two\ndata: lines\n\ndata: \n\ndata: [DONE]\r\rdata: cut',
    );
    const all = [];
    for (const size of [1, 2, 3, 7, 1000]) {
      const cut = [];
      for (let at = 0; at < bytes.length; at += size) cut.push(bytes.slice(at, at + size));
      const body = new ReadableStream({
        pull: (controller) => (cut.length > 0 ? controller.enqueue(cut.shift()) : controller.close()),
      });
      const read = [];
      for await (const data of eventData(body)) read.push(data);
      all.push(read);
    }
    return all;
  });
  for (const each of read) assert.deepEqual(each, ['{"a":"ü🐦"}', "two\nlines", "", "[DONE]"]);
});
