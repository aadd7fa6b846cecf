// Bundles the exception levels of the architecture in the current directory: dist/el1.js, and dist/el2.js if it has one, in all
// its variants (dist/el2-*.js).
// Each bundle is self-contained, so that what is measured is what runs.
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join, relative } from "node:path";
import { build, type BuildOptions } from "esbuild";
import { analyse, type BundleStats, type Metafile } from "./bundle-lib.ts";
import { listImports } from "./imports.ts";

const root = join(import.meta.dirname, "../..");
const packageDir = process.cwd();
const outDir = join(packageDir, "dist/bundles");

function readFile(path: string): string | undefined {
  const file = join(root, path);
  return existsSync(file) ? readFileSync(file, "utf8") : undefined;
}

function json(value: unknown): string {
  return `${JSON.stringify(value, undefined, 2)}\n`;
}

/** The metafile with the hash of every input: the boundary check compares the modules of two bundles by content. */
function withHashes(metafile: Metafile): Metafile {
  const inputs = Object.entries(metafile.inputs)
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([file, input]) => {
      const sha256 = createHash("sha256").update(readFileSync(join(root, file))).digest("hex");
      return [file, { ...input, sha256 }] as const;
    });
  return { ...metafile, inputs: Object.fromEntries(inputs) };
}

async function bundle(level: string): Promise<string> {
  const options = {
    absWorkingDir: root,
    entryPoints: [join(packageDir, `dist/${level}.js`)],
    outfile: join(outDir, `${level}.js`),
    bundle: true,
    format: "esm",
    platform: "neutral",
    target: "es2023",
    legalComments: "none",
    write: false,
    metafile: true,
    logLevel: "error",
  } as const satisfies BuildOptions;
  const plain = await build(options);
  const minified = await build({ ...options, minify: true });
  const text = plain.outputFiles[0]!.text;
  const [left] = listImports(`${level}.js`, text);
  if (left !== undefined) throw new Error(`${level}.js:${left.line}: ${left.kind} of ${left.specifier ?? "an expression"} is left`);
  const { lines, statements, bytes, exports, modules } = analyse(plain.metafile, readFile);
  const minifiedBytes = minified.outputFiles[0]!.contents.byteLength;
  const stats: BundleStats = { bytes, minifiedBytes, statements, lines, exports, modules };
  writeFileSync(join(outDir, `${level}.js`), text);
  writeFileSync(join(outDir, `${level}.meta.json`), json(withHashes(plain.metafile)));
  writeFileSync(join(outDir, `${level}.stats.json`), json(stats));
  return `${level}: ${modules.length} modules, ${lines} lines, ${statements} statements, ${minifiedBytes} bytes minified`;
}

async function main(): Promise<void> {
  rmSync(outDir, { recursive: true, force: true });
  mkdirSync(outDir, { recursive: true });
  if (!existsSync(join(packageDir, "dist/el1.js"))) throw new Error("dist/el1.js is missing: an architecture needs src/el1.ts");
  const levels = readdirSync(join(packageDir, "dist"))
    .filter((file) => /^el[12](-\w+)?\.js$/.test(file))
    .map((file) => file.replace(".js", ""))
    .sort();
  for (const level of levels) console.log(await bundle(level));
}

try {
  await main();
} catch (error) {
  console.error(`bundle: ${relative(root, packageDir)}: ${error instanceof Error ? error.message : String(error)}`);
  process.exitCode = 1;
}
