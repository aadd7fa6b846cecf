// A packed package: its files as text, and what must and must not be among them.
import { execFileSync } from "node:child_process";
import { mkdirSync, readdirSync, readFileSync } from "node:fs";
import { join, posix } from "node:path";
import type { Manifest } from "./workspace.ts";

/** The files of a tarball by their path in the package. */
export type Contents = ReadonlyMap<string, string>;

export function extract(tarball: string, into: string): void {
  mkdirSync(into, { recursive: true });
  execFileSync("tar", ["-xzf", tarball, "--strip-components=1", "-C", into]);
}

export function readContents(dir: string): Contents {
  const contents = new Map<string, string>();
  for (const entry of readdirSync(dir, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile()) continue;
    const file = join(entry.parentPath, entry.name);
    contents.set(posix.relative(dir, file), readFileSync(file, "utf8"));
  }
  return contents;
}

/** The targets of an exports map and of a bin, as paths in the package; those with a star are patterns. */
function targets(value: unknown): readonly string[] {
  if (typeof value === "string") return [posix.normalize(value)];
  if (typeof value !== "object" || value === null) return [];
  return Object.values(value).flatMap(targets);
}

const TEST_FILE = /(^|\/)(tests?|bench|__tests__)\/|\.(test|spec|bench)\.[cm]?[jt]s|\.tsbuildinfo$/;
const BUILT = /^dist\/(?!bundles\/)(.*?)(\.d)?\.(js|ts)(\.map)?$/;

/**
 * What is wrong with `contents`, one sentence each. `machinePaths` are the directories of the machine that packed, none
 * of which may appear in a text.
 */
export function judge(contents: Contents, machinePaths: readonly string[]): readonly string[] {
  const problems: string[] = [];
  const files = [...contents.keys()].sort();
  for (const required of ["LICENSE", "README.md", "package.json", "dist/index.js", "dist/index.d.ts"]) {
    if (!contents.has(required)) problems.push(`lacks ${required}`);
  }
  const manifestText = contents.get("package.json") ?? "{}";
  if (manifestText.includes("workspace:") || manifestText.includes("catalog:")) {
    problems.push("package.json still has a workspace: or catalog: range");
  }
  const manifest = JSON.parse(manifestText) as Manifest;
  for (const target of targets([manifest.exports, manifest.bin])) {
    const [before = "", after] = target.split("*");
    const isThere = after === undefined
      ? contents.has(target)
      : files.some((file) => file.startsWith(before) && file.endsWith(after));
    if (!isThere) problems.push(`lacks ${target}, which package.json names`);
  }
  for (const file of files) {
    if (TEST_FILE.test(file)) problems.push(`${file} does not belong in a package`);
    const source = BUILT.exec(file)?.[1];
    if (source !== undefined && !contents.has(`src/${source}.ts`)) problems.push(`${file} is left from a source that is gone`);
    const path = machinePaths.find((one) => contents.get(file)!.includes(one));
    if (path !== undefined) problems.push(`${file} holds a path of this machine, ${path}`);
  }
  return problems;
}
