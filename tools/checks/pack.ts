// Packs the package in the current directory, then judges the tarball rather than the tree.
import { execFileSync } from "node:child_process";
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { homedir, tmpdir } from "node:os";
import { join } from "node:path";
import { extract, judge, readContents } from "./tarball.ts";

const root = join(import.meta.dirname, "../..");

function run(command: string, ...args: string[]): void {
  execFileSync(command, args, { stdio: "inherit" });
}

const scratch = mkdtempSync(join(tmpdir(), "pack-"));
try {
  run("pnpm", "pack", "--pack-destination", scratch);
  const name = readdirSync(scratch).find((entry) => entry.endsWith(".tgz"));
  if (name === undefined) throw new Error(`pnpm pack left no tarball in ${scratch}`);
  const tarball = join(scratch, name);
  extract(tarball, join(scratch, "package"));
  const problems = judge(readContents(join(scratch, "package")), [`${root}/`, `${homedir()}/`, `${scratch}/`]);
  for (const problem of problems) console.error(`pack: ${name} ${problem}`);
  if (problems.length > 0) process.exitCode = 1;
  run("publint", "run", tarball, "--strict");
  run("attw", tarball, "--profile", "esm-only");
} catch (error) {
  console.error(`pack: ${error instanceof Error ? error.message : String(error)}`);
  process.exitCode = 1;
} finally {
  rmSync(scratch, { recursive: true, force: true });
}
