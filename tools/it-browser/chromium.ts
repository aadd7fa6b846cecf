// Where Chromium is, and a page of it whose scripts come from a plain local server.
import { existsSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { chromium } from "playwright-core";

const PLACES = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome-stable", "/usr/bin/google-chrome"];

/** What is printed where there is no Chromium: the test of the package is then no evidence of anything. */
export const NOT_RUN = "browser test NOT RUN: no Chromium";

/** The executable: that of the environment variable CHROMIUM, or the first usual place that has one. */
export function findChromium(): string | undefined {
  return [process.env["CHROMIUM"] ?? "", ...PLACES].find((path) => path !== "" && existsSync(path));
}

const ARGUMENTS = [
  "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update",
  "--disable-sync",
];

/** What a module gave in the browser, and what the page around it was like. */
export interface PageRun {
  /** The module's export `result`. */
  readonly result: unknown;
  readonly crossOriginIsolated: boolean;
  readonly sharedArrayBuffer: string;
  readonly errors: readonly string[];
}

const PAGE = `<!doctype html><meta charset="utf-8"><title>module</title><script type="module">
try { window.done = { result: (await import("/module.js")).result }; }
catch (error) { window.done = { error: String(error) }; }
</script>`;

interface Done {
  readonly result?: unknown;
  readonly error?: string;
}

/** Runs a module in a new, empty profile. The server sends neither COOP nor COEP, as most static hosts do. */
export async function runInChromium(executablePath: string, module: string): Promise<PageRun> {
  const server = createServer((request, response) => {
    const script = request.url === "/module.js";
    response.writeHead(script || request.url === "/" ? 200 : 404, { "content-type": script ? "text/javascript" : "text/html" });
    response.end(script ? module : request.url === "/" ? PAGE : "");
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const browser = await chromium.launch({ executablePath, headless: true, args: ARGUMENTS });
  try {
    const page = await browser.newPage();
    const errors: string[] = [];
    page.on("pageerror", (error) => errors.push(error.message));
    await page.goto(`http://127.0.0.1:${(server.address() as AddressInfo).port}/`);
    await page.waitForFunction("window.done !== undefined", undefined, { timeout: 60_000 });
    const done = await page.evaluate<Done>("window.done");
    if (done.error !== undefined) errors.push(done.error);
    return {
      result: done.result,
      crossOriginIsolated: await page.evaluate<boolean>("crossOriginIsolated"),
      sharedArrayBuffer: await page.evaluate<string>("typeof SharedArrayBuffer"),
      errors,
    };
  } finally {
    await browser.close();
    server.close();
  }
}
