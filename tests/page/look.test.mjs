// What the page shows and lets happen: untrusted text, Markdown, scrolling, themes, narrow screens, keyboard, accessibility.
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { after, before, test } from "node:test";
import { answerWith, answered, launch, open, say, serve, set, slowly, stream, texts } from "./harness.mjs";

const axe = await readFile(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

const HOSTILE = [
  "<script>window.harm = 1</script>",
  '<img src="x" onerror="window.harm = 2">',
  "[a link](javascript:window.harm=3)",
  "[another](  JaVaScRiPt:window.harm=4 )",
  "<javascript:window.harm=5>",
  "![picture](https://example.invalid/leak.png)",
  '![picture](x" onerror="window.harm=6)',
  '<svg onload="window.harm=7"></svg><iframe srcdoc="<script>parent.harm=8</script>"></iframe>',
  '<a href="javascript:window.harm=9">click</a> <b>not bold</b> **bold**',
  "`<script>window.harm = 10</script>`",
  '```"><img src=x onerror=window.harm=11>\n<script>window.harm = 12</script>\n```',
  "[data](data:text/html,<script>opener.harm=13</script>) [relative](/v1/models)",
  "| <img src=x onerror=window.harm=14> |\n|---|\n| <style>* { display: none }</style> |",
  '<form action="https://example.invalid"><input name="q"></form>',
].join("\n\n");

const MARKDOWN = `# A title

Some **bold** and *slanted* text with \`code\`, and [a link](https://example.org/?a=1&b=2).

- one
- two
  1. nested

- [x] done

| a | b |
|---|--:|
| 1 | 2 |

\`\`\`rust
fn main() {
    println!("<b>&amp;</b>");
}
\`\`\`

> quoted
`;

let server, browser;
before(async () => {
  server = await serve();
  browser = await launch();
});
after(async () => {
  await browser.close();
  await server.stop();
});

/** The page with an answer in it that is `text`. */
async function answeredWith(text, options) {
  const page = await open(browser, server.url, options);
  await answerWith(page, stream(text.match(/.{1,7}/gsu)));
  await say(page, "Hello");
  await page.waitForFunction(() => document.querySelector(".assistant .body")?.childElementCount > 0);
  await answered(page);
  return page;
}

test("hostile text of a model stays text and runs nothing", async () => {
  const page = await open(browser, server.url);
  const requests = [];
  page.on("request", (request) => requests.push(request.url()));
  await answerWith(page, stream(HOSTILE.match(/.{1,7}/gs)));
  await say(page, HOSTILE);
  await answered(page);
  const body = page.locator(".assistant .body");
  const shown = await body.innerText();
  for (const part of [
    "<script>window.harm = 1</script>",
    '<img src="x" onerror="window.harm = 2">',
    "<b>not bold</b> bold",
    "<style>*",
  ]) {
    assert.ok(shown.includes(part), `${part} in ${shown}`);
  }
  const tags = await page.evaluate(() =>
    [...new Set([...document.querySelectorAll(".body *")].map((node) => node.localName))].sort(),
  );
  const expected = [
    "a",
    "button",
    "code",
    "div",
    "p",
    "path",
    "pre",
    "span",
    "strong",
    "svg",
    "table",
    "tbody",
    "td",
    "th",
    "thead",
    "tr",
  ];
  assert.deepEqual(tags, expected);
  const links = await body
    .locator("a")
    .evaluateAll((nodes) => nodes.map(({ href, target, rel }) => [href, target, rel]));
  assert.deepEqual(links, [["https://example.invalid/leak.png", "_blank", "noopener noreferrer nofollow"]]);
  const handlers = await page.evaluate(() =>
    [...document.querySelectorAll(".body *")].flatMap((node) =>
      node.getAttributeNames().filter((name) => /^on|^style$|^src/.test(name)),
    ),
  );
  assert.deepEqual(handlers, []);
  await page.reload();
  await body.waitFor();
  assert.equal(await page.evaluate(() => window.harm), undefined);
  assert.deepEqual(
    requests.filter((url) => !url.startsWith(server.url)),
    [],
  );
  assert.deepEqual(page.problems, []);
});

test("a title made of markup stays text", async () => {
  const page = await open(browser, server.url);
  await answerWith(page, stream(["Well."]));
  await say(page, "<img src=x onerror=window.harm=1>");
  await answered(page);
  assert.equal(await page.locator("#title").innerText(), "<img src=x onerror=window.harm=1>");
  assert.equal(await page.evaluate(() => window.harm), undefined);
});

test("the page's policy forbids what the page does not need", async () => {
  const answer = await fetch(server.url);
  const policy = answer.headers.get("content-security-policy");
  for (const part of ["default-src 'none'", "script-src 'self'", "frame-ancestors 'none'"])
    assert.ok(policy.includes(part), policy);
  assert.doesNotMatch(policy, /unsafe/);
});

test("Markdown is shown and copied", async () => {
  const page = await answeredWith(MARKDOWN);
  await page.context().grantPermissions(["clipboard-read", "clipboard-write"]);
  const body = page.locator(".assistant .body");
  await body.getByRole("heading", { name: "A title" }).waitFor();
  assert.equal(await body.locator("strong").innerText(), "bold");
  assert.equal(await body.locator("a").getAttribute("href"), "https://example.org/?a=1&b=2");
  assert.equal(await body.locator("ul ol li").innerText(), "nested");
  assert.equal(await body.locator("td").last().getAttribute("align"), "right");
  const clipboard = () => page.evaluate(() => navigator.clipboard.readText());
  await body.getByRole("button", { name: "Copy" }).click();
  await body.getByText("Copied").waitFor();
  assert.equal((await clipboard()).trimEnd(), 'fn main() {\n    println!("<b>&amp;</b>");\n}');
  await page.locator(".assistant .actions").getByRole("button", { name: "Copy" }).click();
  await page.waitForFunction(async (text) => (await navigator.clipboard.readText()) === text, MARKDOWN);
});

test("a growing answer is drawn at most once a frame, and only its end", async () => {
  const page = await open(browser, server.url);
  await answerWith(
    page,
    stream(Array.from({ length: 3000 }, (_, index) => `word${index}${index % 30 === 29 ? "\n\n" : " "}`)),
  );
  await page.evaluate(() => {
    window.frames_ = 0;
    window.drawn = 0;
    const frame = () => {
      window.frames_ += 1;
      requestAnimationFrame(frame);
    };
    frame();
    // A redraw replaces the last block; its records are the measure.
    new MutationObserver(() => (window.drawn += 1)).observe(document.querySelector("#messages"), {
      childList: true,
      subtree: true,
    });
  });
  await say(page, "Hello");
  await page.getByText("word2999").waitFor();
  await answered(page);
  const { frames, drawn } = await page.evaluate(() => ({ frames: window.frames_, drawn: window.drawn }));
  assert.ok(drawn <= frames + 5, `${drawn} redraws in ${frames} frames`);
  assert.equal(await page.locator(".assistant .block").count(), 100);
});

test("the view follows an answer until the reader scrolls up", async () => {
  const slow = await slowly(server.url, 15);
  try {
    const page = await open(browser, slow.url, { viewport: { width: 600, height: 420 } });
    await set(page, "max_tokens", "380");
    await say(page, "Once upon a time");
    const distance = () =>
      page.evaluate(() => {
        const area = document.querySelector("#scroll");
        return area.scrollHeight - area.clientHeight - area.scrollTop;
      });
    await page.waitForFunction(() => document.querySelector("#scroll").scrollTop > 60);
    assert.ok((await distance()) < 3);
    await page.locator("#scroll").hover();
    await page.mouse.wheel(0, -50);
    await page.locator("#to-end").waitFor();
    const top = await page.evaluate(() => document.querySelector("#scroll").scrollTop);
    const height = await page.evaluate(() => document.querySelector("#scroll").scrollHeight);
    await page.waitForFunction((old) => document.querySelector("#scroll").scrollHeight > old + 20, height);
    assert.equal(await page.evaluate(() => document.querySelector("#scroll").scrollTop), top, "the reader stays");
    await page.locator("#to-end").click();
    assert.ok((await distance()) < 3);
    await page.waitForFunction((old) => document.querySelector("#scroll").scrollHeight > old + 60, height);
    assert.ok((await distance()) < 3, "it follows again");
    await page.keyboard.press("Escape");
    await answered(page);
  } finally {
    await slow.stop();
  }
});

test("light and dark follow the system, and the switch wins", async () => {
  const ground = (page) =>
    page.evaluate(() => {
      const [red, green, blue] = getComputedStyle(document.querySelector("main"))
        .backgroundColor.match(/\d+/g)
        .map(Number);
      return red + green + blue > 382 ? "light" : "dark";
    });
  const page = await open(browser, server.url, { colorScheme: "dark" });
  assert.equal(await ground(page), "dark");
  await page.emulateMedia({ colorScheme: "light" });
  assert.equal(await ground(page), "light");
  await page.getByRole("button", { name: "Theme: system. Change" }).click();
  await page.getByRole("button", { name: "Theme: light. Change" }).click();
  assert.equal(await ground(page), "dark");
  await page.reload();
  assert.equal(await ground(page), "dark");
});

test("a phone's width needs no sideways scrolling", async () => {
  const code = `\`\`\`\n${"a long line of code ".repeat(20)}\n\`\`\``;
  const table = `|${" column |".repeat(12)}\n|${"---|".repeat(12)}`;
  const wide = [MARKDOWN, code, "unbroken".repeat(40), table].join("\n\n");
  const page = await answeredWith(wide, { viewport: { width: 360, height: 740 }, isMobile: true, hasTouch: true });
  const fits = () =>
    page.evaluate(() => {
      const area = document.querySelector("#scroll");
      return (
        document.documentElement.scrollWidth <= innerWidth && area.scrollWidth <= area.clientWidth && innerWidth === 360
      );
    });
  assert.ok(await fits());
  await page.locator("#sidebar-open").click();
  await page.locator("#conversations .open").waitFor();
  assert.ok(await fits());
  await page.keyboard.press("Escape");
  assert.equal(await page.locator("#sidebar-open").getAttribute("aria-expanded"), "false");
  await page.locator("#settings-open").tap();
  await page.locator("#setting-seed").waitFor();
  assert.ok(await fits());
  await page.locator("#settings-close").tap();
  await page.locator("#sidebar-open").tap();
  await page.locator("#new").tap();
  await page.getByRole("heading", { name: "How does the story begin?" }).waitFor();
  assert.ok(await fits());
});

test("everything is reached by Tab, with the focus seen", async () => {
  const page = await answeredWith(MARKDOWN);
  await page.locator(".skip").focus();
  const reached = new Set(["Skip to the message field"]);
  for (let presses = 0; presses < 40; presses++) {
    await page.keyboard.press("Tab");
    const focused = await page.evaluate(() => {
      const node = document.activeElement;
      const styles = [node, node.closest(".composer")].filter(Boolean).map((each) => getComputedStyle(each));
      const seen = styles.some(({ outlineStyle, boxShadow }) => outlineStyle !== "none" || boxShadow !== "none");
      return {
        name: node.getAttribute("aria-label") ?? (node.id || node.textContent),
        seen,
        body: node === document.body,
      };
    });
    if (focused.body) break;
    assert.ok(focused.seen, `the focus on ${focused.name} is not seen`);
    reached.add(focused.name);
  }
  for (const name of [
    "Skip to the message field",
    "Settings",
    "model",
    "composer",
    "Copy",
    "Another answer",
    "Edit and send again",
    "Rename “Hello”",
    "Export “Hello” as JSON",
    "Delete “Hello”",
    "new",
  ]) {
    assert.ok(
      [...reached].some((each) => each.startsWith(name)),
      `${name} is not among ${[...reached]}`,
    );
  }
});

test("no violations of accessibility rules", async () => {
  const violations = async (page) => {
    await page.evaluate(axe);
    const { violations, passes } = await page.evaluate(() => window.axe.run());
    assert.ok(passes.some(({ id }) => id === "color-contrast") && passes.length > 15, "the rules were applied");
    return violations.map(({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html).join(" | ")}`);
  };
  for (const options of [
    {},
    { colorScheme: "dark" },
    { viewport: { width: 360, height: 740 }, isMobile: true, hasTouch: true },
  ]) {
    const page = await answeredWith(MARKDOWN, options);
    await page.locator("#server-facts dt").first().waitFor({ state: "attached" });
    assert.deepEqual(await violations(page), []);
    await page.locator("#settings-open").click();
    assert.deepEqual(await violations(page), []);
    await page.keyboard.press("Escape");
    await answerWith(page, { status: 500, body: "no" });
    await say(page, "Hello again");
    await page.locator(".problem:visible").waitFor();
    assert.deepEqual(await violations(page), []);
    await page.keyboard.press("Control+Shift+O");
    assert.deepEqual(await violations(page), []);
  }
});
