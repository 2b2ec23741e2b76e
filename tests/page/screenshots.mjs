// Takes the pictures of the page that docs/ shows.
import { fileURLToPath } from "node:url";
import { answered, launch, open, say, serve, set } from "./harness.mjs";

const docs = fileURLToPath(new URL("../../docs/", import.meta.url));
const server = await serve();
const browser = await launch();

async function picture(name, options) {
  const page = await open(browser, server.url, options);
  await set(page, "seed", "4");
  await set(page, "max_tokens", "110");
  for (const text of ["Once upon a time", "The king had three sons, and the youngest"]) {
    await page.keyboard.press("Control+Shift+O");
    await say(page, text);
    await answered(page);
  }
  await page.mouse.move(0, 0);
  // The chart shows what the server does meanwhile: one answer after the other, and more at a time later.
  const ends = Date.now() + 40_000;
  const body = JSON.stringify({ prompt: "Once upon a time", max_tokens: 400, ignore_eos: true });
  const headers = { "content-type": "application/json" };
  const busy = async (from) => {
    await page.waitForTimeout(from);
    while (Date.now() < ends) {
      await (await fetch(`${server.url}/v1/completions`, { method: "POST", headers, body })).text();
    }
  };
  await Promise.all([0, 15_000, 25_000].map(busy));
  await page.screenshot({ path: `${docs}page-${name}.png` });
  await page.context().close();
}

await picture("light", { viewport: { width: 1120, height: 700 } });
await picture("dark", { viewport: { width: 1120, height: 700 }, colorScheme: "dark" });
await picture("phone", { viewport: { width: 360, height: 700 }, deviceScaleFactor: 2, isMobile: true, hasTouch: true });
await browser.close();
await server.stop();
