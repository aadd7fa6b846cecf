// One self-contained module for a browser, made by esbuild of JavaScript or TypeScript text.
import { build } from "esbuild";

/**
 * Bundles `contents` as a file of `resolveDir` would be. For the browser: an import of a Node module is an error.
 * Throws with esbuild's message.
 */
export async function bundleForBrowser(contents: string, resolveDir: string): Promise<string> {
  const { outputFiles } = await build({
    stdin: { contents, resolveDir, loader: "ts", sourcefile: "entry.ts" },
    bundle: true,
    write: false,
    format: "esm",
    platform: "browser",
    target: "es2022",
    logLevel: "silent",
  });
  return outputFiles[0]!.text;
}
