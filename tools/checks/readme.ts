// Runs the first ```ts block of a package's README against the built package.
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { stripTypeScriptTypes } from "node:module";

export interface ReadmeRun {
  readonly result: unknown;
  readonly expected: unknown;
}

export interface ReadmeExample {
  readonly code: string;
  readonly expected: unknown;
}

/** The example of `packageDir`/README.md: its code as JavaScript, and the value its last line promises. */
export function readExample(packageDir: string): ReadmeExample {
  const readme = readFileSync(join(packageDir, "README.md"), "utf8");
  const block = /```ts\n([\s\S]*?)```/.exec(readme)?.[1];
  if (block === undefined) throw new Error(`${packageDir}/README.md has no ts block`);
  const expected = /^\/\/ result: (.*)$/m.exec(block)?.[1];
  if (expected === undefined) throw new Error(`${packageDir}/README.md: the example has no "// result:" line`);
  return { code: stripTypeScriptTypes(block), expected: JSON.parse(expected) as unknown };
}

/** Executes the example inside `packageDir`, so that it resolves what the package resolves, itself included. */
export async function runReadmeExample(packageDir: string): Promise<ReadmeRun> {
  const { code, expected } = readExample(packageDir);
  const scratch = mkdtempSync(join(packageDir, "test/.readme-"));
  try {
    const file = join(scratch, "example.mjs");
    writeFileSync(file, code);
    // eslint-disable-next-line no-restricted-syntax -- the file is the README's own text
    const module = (await import(/* @vite-ignore */ file)) as { result: unknown };
    return { result: JSON.parse(JSON.stringify(module.result)) as unknown, expected };
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}
