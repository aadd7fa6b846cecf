import { execFileSync } from "node:child_process";
import { join } from "node:path";
import { expect, test } from "vitest";
import { extract, judge, readContents } from "./tarball.ts";
import { Tree } from "./test-tree.ts";

const MANIFEST = {
  name: "@x/a",
  bin: { a: "./dist/cli.js" },
  exports: {
    ".": "./dist/index.js",
    "./el1": { types: "./dist/el1.d.ts", default: "./dist/bundles/el1.js" },
    "./bundles/*.json": "./dist/bundles/*.json",
  },
  dependencies: { "@x/b": "^0.1.0" },
};

const GOOD: Readonly<Record<string, string>> = {
  LICENSE: "Apache",
  "README.md": "# a",
  "package.json": JSON.stringify(MANIFEST),
  "src/index.ts": "", "src/el1.ts": "", "src/cli.ts": "", "src/deep/walk.ts": "",
  "dist/index.js": "", "dist/index.d.ts": "", "dist/index.js.map": "", "dist/index.d.ts.map": "",
  "dist/el1.js": "", "dist/el1.d.ts": "", "dist/cli.js": "", "dist/deep/walk.js": "",
  "dist/bundles/el1.js": "", "dist/bundles/el1.stats.json": "{}",
};

function problems(changed: Readonly<Record<string, string | undefined>>): readonly string[] {
  const files = Object.entries({ ...GOOD, ...changed }).filter((file): file is [string, string] => file[1] !== undefined);
  return judge(new Map(files), ["/the/repository/", "/the/home/"]);
}

test.each<[string, Readonly<Record<string, string | undefined>>, readonly string[]]>([
  ["a good one", {}, []],
  ["no licence", { LICENSE: undefined }, ["lacks LICENSE"]],
  ["no README", { "README.md": undefined }, ["lacks README.md"]],
  ["no build", { "dist/index.js": undefined }, ["lacks dist/index.js", "lacks dist/index.js, which package.json names"]],
  ["no types", { "dist/index.d.ts": undefined }, ["lacks dist/index.d.ts"]],
  ["no command", { "dist/cli.js": undefined }, ["lacks dist/cli.js, which package.json names"]],
  ["no bundle", { "dist/bundles/el1.js": undefined }, ["lacks dist/bundles/el1.js, which package.json names"]],
  ["nothing for a pattern", { "dist/bundles/el1.stats.json": undefined }, ["lacks dist/bundles/*.json, which package.json names"]],
  ["a workspace range", { "package.json": GOOD["package.json"]!.replace("^0.1.0", "workspace:^") }, ["package.json still has a workspace: or catalog: range"]],
  ["a catalog range", { "package.json": GOOD["package.json"]!.replace("^0.1.0", "catalog:") }, ["package.json still has a workspace: or catalog: range"]],
  ["a test", { "src/a.test.ts": "" }, ["src/a.test.ts does not belong in a package"]],
  ["a test directory", { "test/a.ts": "" }, ["test/a.ts does not belong in a package"]],
  ["a build cache", { "dist/a.tsbuildinfo": "" }, ["dist/a.tsbuildinfo does not belong in a package"]],
  ["a stale build", { "dist/old.js": "", "dist/old.d.ts.map": "" }, ["dist/old.d.ts.map is left from a source that is gone", "dist/old.js is left from a source that is gone"]],
  ["a machine's path", { "dist/index.js.map": "/the/repository/src" }, ["dist/index.js.map holds a path of this machine, /the/repository/"]],
])("judges %s", (_, changed, expected) => {
  expect(problems(changed)).toEqual(expected);
});

test("reads back what was packed", () => {
  const tree = new Tree().writeAll({ "package/package.json": "{}", "package/dist/deep/a.js": "a();\n" });
  try {
    const tarball = join(tree.root, "a.tgz");
    execFileSync("tar", ["-czf", tarball, "-C", tree.root, "package"]);
    extract(tarball, join(tree.root, "out"));
    expect([...readContents(join(tree.root, "out"))].sort()).toEqual([["dist/deep/a.js", "a();\n"], ["package.json", "{}"]]);
  } finally {
    tree.remove();
  }
});
