// The page with the real server: sending, stopping, repeating, editing, keeping.
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { after, before, test } from "node:test";
import { answered, launch, open, openTab, say, serve, set, slowly, texts } from "./harness.mjs";

let server, slow, browser;
before(async () => {
  server = await serve();
  slow = await slowly(server.url, 40);
  browser = await launch();
});
after(async () => {
  await browser.close();
  await slow.stop();
  await server.stop();
});

const running = async () => (await (await fetch(`${server.url}/sterna/status`)).json()).requests.running;
const list = (page) => page.locator("#conversations .open");

test("a message is sent and answered", async () => {
  const page = await open(browser, server.url);
  await page.getByRole("heading", { name: "How does the story begin?" }).waitFor();
  await say(page, "Once upon a time");
  await answered(page);
  const [asked, answer] = await texts(page);
  assert.equal(asked, "Once upon a time");
  assert.ok(answer.length > 100, answer);
  assert.equal(await page.locator("#composer").inputValue(), "");
  assert.match(
    await page.locator(".assistant .stats").innerText(),
    /[\d.]+ tokens\/s.*first token.*\d+ tokens.*prompt \d+/s,
  );
  assert.match(await page.locator("#context-text").innerText(), /^\d+ of 512 tokens/);
  assert.equal(await list(page).innerText(), "Once upon a time");
  assert.equal(await page.title(), "Once upon a time · Sterna");
  assert.deepEqual(page.problems, []);
});

test("device, placement and speed of the server are shown", async () => {
  const page = await open(browser, server.url);
  const facts = page.locator("#server-facts");
  await facts.getByText("Device").waitFor();
  assert.match(
    await facts.innerText(),
    /Device\s+CPU.*Placement\s+cpu.*Model\s+BitNetForCausalLM, context 512.*Sterna \d/s,
  );
  const path = page.locator("#chart .chart-line");
  const first = await path.getAttribute("d");
  await page.waitForFunction((old) => document.querySelector("#chart .chart-line").getAttribute("d") !== old, first);
  assert.match(await path.getAttribute("d"), /^M[\d.]+ [\d.]+(L[\d.]+ [\d.]+)+$/);
});

test("an example begins a conversation", async () => {
  const page = await open(browser, server.url);
  await page.getByRole("button", { name: "Once upon a time" }).click();
  await answered(page);
  assert.equal((await texts(page))[0], "Once upon a time");
});

test("an answer grows while it is written, and Escape stops it", async () => {
  const page = await open(browser, slow.url);
  await set(page, "max_tokens", "400");
  await say(page, "Once upon a time");
  const body = page.locator(".assistant .body");
  await page.waitForFunction(() => document.querySelector(".assistant .body")?.textContent.length > 20);
  const early = await body.innerText();
  await page.waitForFunction(
    (length) => document.querySelector(".assistant .body").textContent.length > length + 20,
    early.length,
  );
  assert.ok((await body.innerText()).startsWith(early.trimEnd()));
  assert.equal(await page.locator("#send").getAttribute("aria-label"), "Stop");
  await page.keyboard.press("Escape");
  await answered(page);
  assert.match(await page.locator(".assistant .stats").innerText(), /^Stopped/);
  const kept = await body.innerText();
  for (let tries = 0; (await running()) > 0; tries++) {
    assert.ok(tries < 50, "the server goes on with a stopped answer");
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  await page.reload();
  assert.equal((await texts(page))[1], kept);
  assert.deepEqual(page.problems, []);
});

test("the button stops too, and what is typed meanwhile stays", async () => {
  const page = await open(browser, slow.url);
  await set(page, "max_tokens", "400");
  await say(page, "Once upon a time");
  await page.locator("#composer").fill("Then");
  await page.locator("#composer").press("Enter");
  await page.locator("#send.stops").click();
  await answered(page);
  assert.equal(await page.locator(".message").count(), 2);
  assert.equal(await page.locator("#composer").inputValue(), "Then");
});

test("an answer is repeated, and the earlier one stays", async () => {
  const page = await open(browser, server.url);
  await set(page, "temperature", "1");
  await set(page, "max_tokens", "40");
  await say(page, "Once upon a time");
  await answered(page);
  const [, first] = await texts(page);
  await page.getByRole("button", { name: "Another answer" }).click();
  await page.getByText("2/2").waitFor();
  await answered(page);
  const [, second] = await texts(page);
  assert.notEqual(first, second);
  await page.getByRole("button", { name: "Earlier version" }).click();
  assert.equal((await texts(page))[1], first);
  await page.reload();
  assert.equal((await texts(page))[1], first);
  await page.getByRole("button", { name: "Later version" }).click();
  assert.equal((await texts(page))[1], second);
});

test("a text goes on where it ended", async () => {
  const page = await open(browser, server.url);
  await set(page, "max_tokens", "20");
  await say(page, "Once upon a time");
  await answered(page);
  const [, first] = await texts(page);
  const requested = page.waitForRequest("**/v1/chat/completions");
  await page.getByRole("button", { name: "Go on" }).click();
  const { messages } = (await requested).postDataJSON();
  assert.deepEqual(
    messages.map(({ role }) => role),
    ["user", "assistant"],
  );
  assert.equal(messages[1].content.trim(), first);
  await page.waitForFunction(
    (length) => document.querySelector(".assistant .body").textContent.length > length,
    first.length,
  );
  await answered(page);
  assert.ok((await texts(page))[1].startsWith(first));
  assert.equal(await page.locator(".message").count(), 2);
  const next = page.waitForRequest("**/v1/chat/completions");
  await say(page, "Then");
  assert.match((await next).postDataJSON().messages[2].content, /^ ?Then$/);
  await answered(page);
  assert.equal(await page.getByRole("button", { name: "Go on" }).count(), 1, "only the last answer goes on");
});

test("a message is edited and sent again from there", async () => {
  const page = await open(browser, server.url);
  await set(page, "max_tokens", "20");
  await say(page, "Once upon a time");
  await answered(page);
  await say(page, "And then");
  await answered(page);
  const before = await texts(page);
  assert.equal(before.length, 4);
  const first = page.locator(".user").first();
  await first.hover();
  await first.getByRole("button", { name: "Edit and send again" }).click();
  const edit = first.locator("textarea");
  await edit.press("Escape");
  assert.deepEqual(await texts(page), before);
  await first.hover();
  await first.getByRole("button", { name: "Edit and send again" }).click();
  await edit.fill("There was once a king");
  await page.reload();
  assert.equal(await edit.inputValue(), "There was once a king", "an edit outlives a reload");
  await edit.press("Enter");
  await page.getByText("2/2").waitFor();
  await answered(page);
  const now = await texts(page);
  assert.equal(now.length, 2);
  assert.equal(now[0], "There was once a king");
  await page.locator(".user").hover();
  await page.locator(".user").getByRole("button", { name: "Earlier version" }).click();
  assert.deepEqual(await texts(page), before);
});

test("a reload keeps the conversation, the draft and the place", async () => {
  const page = await open(browser, server.url);
  await set(page, "max_tokens", "20");
  await say(page, "Once upon a time");
  await answered(page);
  await page.locator("#composer").fill("a draft");
  const before = await texts(page);
  await page.reload();
  assert.deepEqual(await texts(page), before);
  assert.equal(await page.locator("#composer").inputValue(), "a draft");
  assert.match(page.url(), /#\w+$/);
  await page.keyboard.press("Control+Shift+O");
  assert.equal(await page.locator("#composer").inputValue(), "", "a draft belongs to its conversation");
  await page.locator("#composer").fill("another draft");
  await page.reload();
  assert.equal(await page.locator("#composer").inputValue(), "another draft");
});

test("a page that goes away while an answer is written keeps what was written", async () => {
  const page = await open(browser, slow.url);
  await set(page, "max_tokens", "400");
  await say(page, "Once upon a time");
  await page.waitForFunction(() => document.querySelector(".assistant .body")?.textContent.length > 20);
  const early = (await texts(page))[1];
  await page.reload();
  assert.match(await page.locator(".assistant .stats").innerText(), /^Interrupted/);
  assert.ok((await texts(page))[1].startsWith(early.trimEnd()));
});

test("conversations are switched, renamed, exported, deleted and brought back", async () => {
  const page = await open(browser, server.url);
  await set(page, "max_tokens", "10");
  const long = "A conversation with a title that is certainly too long for the list ".repeat(3);
  for (const text of [long, "The first one", "The second one"]) {
    await page.locator("#new").click();
    await say(page, text);
    await answered(page);
  }
  assert.match(await list(page).last().innerText(), /^A conversation with a title.*…$/);
  assert.ok(
    await page.evaluate(() => document.querySelector("nav").scrollWidth <= document.querySelector("nav").clientWidth),
  );
  await list(page).last().hover();
  await page.getByRole("button", { name: "Delete “A conv" }).click();
  assert.deepEqual(await list(page).allInnerTexts(), ["The second one", "The first one"]);
  await list(page).last().click();
  assert.equal((await texts(page))[0], "The first one");
  await page.goBack();
  assert.equal((await texts(page))[0], "The second one");

  await list(page).last().hover();
  await page.getByRole("button", { name: "Rename “The first one”" }).click();
  await page.getByRole("textbox", { name: "Title" }).fill("Renamed");
  await page.keyboard.press("Enter");
  await page.reload();
  assert.deepEqual(await list(page).allInnerTexts(), ["The second one", "Renamed"]);

  await list(page).last().hover();
  const downloading = page.waitForEvent("download");
  await page.getByRole("button", { name: "Export “Renamed” as JSON" }).click();
  const download = await downloading;
  assert.equal(download.suggestedFilename(), "Renamed.json");
  const exported = JSON.parse(await readFile(await download.path(), "utf8"));
  assert.equal(exported.format, "sterna-conversation");
  assert.deepEqual(
    exported.messages.map(({ role }) => role),
    ["user", "assistant"],
  );
  assert.equal(exported.messages[0].content, "The first one");

  await page.getByRole("button", { name: "Delete “Renamed”" }).click();
  assert.deepEqual(await list(page).allInnerTexts(), ["The second one"]);
  await page.getByRole("button", { name: "Undo" }).click();
  assert.equal((await texts(page))[0], "The first one");
  await list(page).last().hover();
  await page.getByRole("button", { name: "Delete “Renamed”" }).click();
  await page.reload();
  assert.deepEqual(await list(page).allInnerTexts(), ["The second one"]);
  assert.deepEqual(page.problems, []);
});

test("another tab sees a new conversation", async () => {
  const page = await open(browser, server.url);
  const other = await openTab(page.context(), server.url);
  await set(page, "max_tokens", "10");
  await say(page, "Once upon a time");
  await answered(page);
  await list(other).filter({ hasText: "Once upon a time" }).click();
  assert.deepEqual(await texts(other), await texts(page));
});

test("settings persist and are sent", async () => {
  const page = await open(browser, server.url);
  await set(page, "temperature", "0.5");
  await set(page, "max_tokens", "12");
  await set(page, "seed", "7");
  await set(page, "top_p", "7");
  await set(page, "stop", "The end\nEnde");
  await page.reload();
  await page.locator("#settings-open").click();
  assert.equal(await page.locator("#setting-temperature").inputValue(), "0.5");
  assert.equal(await page.locator("#setting-top_p").getAttribute("aria-invalid"), "true");
  await page.keyboard.press("Escape");
  const requested = page.waitForRequest("**/v1/chat/completions");
  await say(page, "Once upon a time");
  const body = (await requested).postDataJSON();
  await answered(page);
  assert.deepEqual(body, {
    model: "demo",
    messages: [{ role: "user", content: "Once upon a time" }],
    max_tokens: 12,
    temperature: 0.5,
    seed: 7,
    stop: ["The end", "Ende"],
    stream: true,
    stream_options: { include_usage: true },
  });
  const [, first] = await texts(page);
  assert.match(await page.locator(".assistant .stats").innerText(), /12 tokens.*ended at the limit of 12 tokens/s);
  await page.getByRole("button", { name: "Another answer" }).click();
  await page.getByText("2/2").waitFor();
  await answered(page);
  assert.equal((await texts(page))[1], first, "the same seed gives the same answer");
  await page.locator("#settings-open").click();
  await page.locator("#settings-reset").click();
  assert.equal(await page.locator("#setting-temperature").inputValue(), "");
});

test("a key is asked for, kept and sent", async () => {
  const guarded = await serve("--api-key", "s3cret-key");
  try {
    const page = await open(browser, guarded.url);
    const input = page.locator("#key-input");
    await input.fill("wrong");
    await input.press("Enter");
    await page.locator("#key-reason").getByText("did not accept").waitFor();
    await input.fill("s3cret-key");
    await input.press("Enter");
    await page.locator("#key-dialog").waitFor({ state: "hidden" });
    await set(page, "max_tokens", "10");
    await say(page, "Once upon a time");
    await answered(page);
    assert.equal(await page.locator(".problem:visible").count(), 0);
    await page.reload();
    await page.locator("#server-facts").getByText("Device").waitFor();
    assert.equal(await page.locator("#key-dialog").isVisible(), false);
    await page.locator("#settings-open").click();
    await page.getByRole("button", { name: "Forget it" }).click();
    await page.keyboard.press("Escape");
    await page.reload();
    await input.waitFor();
  } finally {
    await guarded.stop();
  }
});
