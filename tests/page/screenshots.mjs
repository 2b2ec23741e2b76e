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
  // The chart shows what the server did meanwhile.
  await page.waitForTimeout(4000);
  await page.screenshot({ path: `${docs}page-${name}.png` });
  await page.context().close();
}

await picture("light", { viewport: { width: 1120, height: 700 } });
await picture("dark", { viewport: { width: 1120, height: 700 }, colorScheme: "dark" });
await picture("phone", { viewport: { width: 360, height: 700 }, deviceScaleFactor: 2, isMobile: true, hasTouch: true });
await browser.close();
await server.stop();
