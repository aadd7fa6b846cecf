import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { parsePackageTable } from "./rules-manifest.ts";
import { RULES } from "./rules.ts";
import { Tree } from "./test-tree.ts";

interface Context {
  tree: Tree;
}

function member(dir: string, tag: string, more: object = {}): Record<string, string | object> {
  const name = `@smmuv3/${dir.split("/")[1]!}`;
  const exports = { ".": "./dist/index.js", "./package.json": "./package.json" };
  return {
    [`${dir}/package.json`]: { name, exports, ...more },
    [`${dir}/turbo.json`]: { extends: ["//"], tags: [tag] },
    [`${dir}/src/index.ts`]: "export {};\n",
  };
}

const LEVEL1 = { "./el1": { types: "./dist/el1.d.ts", default: "./dist/bundles/el1.js" } };
const LEVEL2 = { "./el2": { types: "./dist/el2.d.ts", default: "./dist/bundles/el2.js" } };
const meta = (inputs: Record<string, string>): object => ({
  inputs: Object.fromEntries(Object.entries(inputs).map(([file, sha256]) => [file, { bytes: 1, sha256 }])),
  outputs: {},
});
const DRIVER = { "packages/arm-smmu-v3/dist/index.js": "1", "packages/arm-smmu-v3/dist/probe.js": "2" };
const NATIVE_META = "packages/arch-native/dist/bundles/el1.meta.json";
const EMULATE_META = "packages/arch-trap-emulate/dist/bundles/el1.meta.json";
const EMULATE_META2 = "packages/arch-trap-emulate/dist/bundles/el2.meta.json";

/** A repository in which every rule is kept. */
const CLEAN: Readonly<Record<string, string | object>> = {
  "turbo.json": `{
    // Each world has a tag.
    "boundaries": { "tags": { "contract": {}, "hardware": {}, "hyp": {}, "kernel-smmu": {}, "composition": {}, "tool": {}, "data": {} } }
  }`,
  "ARCHITECTURE.md": [
    "| package | tag | owns | does not own | depends on |",
    "|---|:-:|---|---|---|",
    "| `platform` | contract | `Memory` | behaviour | – |",
    "| `pkvm-hyp` | `hyp` | EL2 | `SMMU` | `platform` |",
    "| `arm-smmu-v3` | kernel-smmu | the driver | pKVM | `@smmuv3/platform` |",
    "| `smmu-v3-model` | hardware | the SMMU | policy | `platform` |",
    "| `arch-native` | composition | boot | logic | `arm-smmu-v3` |",
    "| `arch-trap-emulate` | composition | boot | logic | `pkvm-hyp`, `arm-smmu-v3` |",
    "",
  ].join("\n"),
  ...member("packages/platform", "contract"),
  ...member("packages/pkvm-hyp", "hyp", { dependencies: { "@smmuv3/platform": "workspace:^" }, devDependencies: { vitest: "catalog:" } }),
  ...member("packages/arm-smmu-v3", "kernel-smmu", { dependencies: { "@smmuv3/platform": "workspace:^" } }),
  ...member("packages/smmu-v3-model", "hardware", { dependencies: { "@smmuv3/platform": "workspace:^" } }),
  ...member("packages/arch-native", "composition", {
    dependencies: { "@smmuv3/arm-smmu-v3": "workspace:^" },
    exports: { ".": "./dist/index.js", ...LEVEL1, "./bundles/*.json": "./dist/bundles/*.json" },
  }),
  ...member("packages/arch-trap-emulate", "composition", {
    dependencies: { "@smmuv3/arm-smmu-v3": "workspace:^", "@smmuv3/pkvm-hyp": "workspace:^" },
    exports: { ".": "./dist/index.js", ...LEVEL1, ...LEVEL2 },
  }),
  ...member("tools/data", "data", { private: true, exports: { ".": "./index.ts" } }),
  ...member("tools/checks", "tool", { private: true, exports: undefined, dependencies: { commander: "1" } }),
  "tools/checks/readme.ts": "export {};\n",
  [NATIVE_META]: meta({ "packages/arch-native/dist/el1.js": "0", ...DRIVER }),
  [EMULATE_META]: meta({ "packages/arch-trap-emulate/dist/el1.js": "3", ...DRIVER }),
  [EMULATE_META2]: meta({ "packages/arch-trap-emulate/dist/el2.js": "4", "packages/pkvm-hyp/dist/index.js": "5" }),
};

beforeEach<Context>((context) => { context.tree = new Tree().writeAll(CLEAN); });
afterEach<Context>(({ tree }) => { tree.remove(); });

function findings(tree: Tree, rule: string): readonly string[] {
  return RULES[rule]!(tree.root).map(({ file, line, message }) => `${file}:${line}: ${message}`);
}

const MARK = ["@boundaries", "ignore"].join("-");
const IGNORE = `// ${MARK} the shared helper`;
const LINT = `// ${["eslint", "disable"].join("-")}`;
const HYP = "packages/pkvm-hyp/src/index.ts";
const HYP_TEST = "packages/pkvm-hyp/test/readme.test.ts";
const HELPER = 'import { runReadmeExample } from "../../../tools/checks/readme.ts";';
const ROW = "| `platform` | contract | a | b | `pkvm-hyp` |";
const LAST = "| `arch-trap-emulate`";

/** A change to the clean repository and what the rule then finds. */
type Case = readonly [rule: string, what: string, files: Readonly<Record<string, string | object>>, expected: readonly string[]];

const CASES: readonly Case[] = [
  ["boundary/tags", "two tags", { "packages/platform/turbo.json": { tags: ["contract", "hyp"] } }, ["packages/platform/turbo.json:1: needs exactly one tag, has 2"]],
  ["boundary/tags", "no tag", { "tools/data/turbo.json": {} }, ["tools/data/turbo.json:1: needs exactly one tag, has 0"]],
  ["boundary/tags", "no turbo.json", { "tools/new/package.json": { name: "new" } }, ["tools/new/turbo.json:1: needs exactly one tag, has 0"]],
  ["boundary/tags", "an unknown tag", { "packages/platform/turbo.json": { tags: ["a"] } }, ["packages/platform/turbo.json:1: tag a is not defined in turbo.json"]],
  ["boundary/tags", "a directory that is no package", { "tools/eslint/config.js": "" }, []],

  ["boundary/architecture-table", "a package without a row", member("packages/new", "hyp"), ["ARCHITECTURE.md:1: new has no row"]],
  ["boundary/architecture-table", "a tool without a row", member("tools/new", "tool"), []],
  ["boundary/architecture-table", "a row without a package", { "ARCHITECTURE.md": `${CLEAN["ARCHITECTURE.md"] as string}| \`gone\` | hyp | a | b | – |` }, ["ARCHITECTURE.md:9: gone is not a package"]],
  ["boundary/architecture-table", "a wrong tag", { "packages/platform/turbo.json": { tags: ["hyp"] } }, ["ARCHITECTURE.md:3: platform: the table says tag contract, turbo.json says hyp"]],
  [
    "boundary/architecture-table", "a second row, another dependency",
    { "ARCHITECTURE.md": (CLEAN["ARCHITECTURE.md"] as string).replace(LAST, `${ROW}\n${LAST}`) },
    ["ARCHITECTURE.md:8: platform has two rows"],
  ],
  [
    "boundary/architecture-table", "a dependency too few and one too many",
    { "ARCHITECTURE.md": (CLEAN["ARCHITECTURE.md"] as string).replace("| `arm-smmu-v3` |\n", "| `pkvm-hyp` |\n") },
    ["ARCHITECTURE.md:7: arch-native: the table's dependencies lacks arm-smmu-v3, has pkvm-hyp too many"],
  ],
  ["boundary/architecture-table", "a dev dependency", member("packages/platform", "contract", { devDependencies: { "@smmuv3/pkvm-hyp": "workspace:^" } }), []],
  ["boundary/architecture-table", "an outside dependency", member("packages/platform", "contract", { dependencies: { commander: "1" } }), []],

  ["boundary/exports", "a deep entry", member("packages/platform", "contract", { exports: { ".": "./dist/index.js", "./src/*": "./src/*" } }), ["packages/platform/package.json:1: exports ./src/* is not allowed"]],
  ["boundary/exports", "another main file", member("packages/platform", "contract", { exports: { ".": "./src/index.ts" } }), ["packages/platform/package.json:1: exports . is not allowed"]],
  ["boundary/exports", "a level of a package that is no architecture", member("packages/platform", "contract", { exports: LEVEL1 }), ["packages/platform/package.json:1: exports ./el1 is not allowed"]],
  ["boundary/exports", "no map", member("packages/platform", "contract", { exports: undefined }), ["packages/platform/package.json:1: has no exports map"]],
  ["boundary/exports", "an imports map", member("packages/platform", "contract", { imports: { "#a": "b" } }), ["packages/platform/package.json:1: an imports map gives a dependency a second name"]],

  ["boundary/relative-import", "within the package", { [HYP]: 'import "../test/a.ts";\nimport "./b.ts";\n' }, []],
  ["boundary/relative-import", "another package", { [HYP]: '\nexport * from "../../platform/src/index.ts";' }, [`${HYP}:2: export of ../../platform/src/index.ts leaves the package`]],
  ["boundary/relative-import", "another package's build, dynamically", { [HYP]: 'await import("../../platform/dist/index.js");' }, [`${HYP}:1: import() of ../../platform/dist/index.js leaves the package`]],
  ["boundary/relative-import", "a package whose name begins alike", { [HYP]: 'import "../../pkvm-hyp2/a.ts";' }, [`${HYP}:1: import of ../../pkvm-hyp2/a.ts leaves the package`]],
  ["boundary/relative-import", "an absolute path", { [HYP]: 'import "/etc/a.ts";' }, [`${HYP}:1: import of /etc/a.ts leaves the package`]],
  ["boundary/relative-import", "a file URL", { [HYP]: 'import "file:///etc/a.ts";' }, [`${HYP}:1: import of file:///etc/a.ts leaves the package`]],
  ["boundary/relative-import", "a reference path", { [HYP]: '/// <reference path="../../a.d.ts" />' }, [`${HYP}:1: reference path of ../../a.d.ts leaves the package`]],
  ["boundary/relative-import", "from a bench", { "packages/platform/bench/a.ts": 'import "../../pkvm-hyp/src/index.ts";' }, ["packages/platform/bench/a.ts:1: import of ../../pkvm-hyp/src/index.ts leaves the package"]],
  ["boundary/relative-import", "from a tool", { "tools/checks/a.ts": 'import "../data/index.ts";' }, ["tools/checks/a.ts:1: import of ../data/index.ts leaves the package"]],
  ["boundary/relative-import", "the README helper", { [HYP_TEST]: HELPER }, []],
  ["boundary/relative-import", "the README helper from elsewhere", { "packages/pkvm-hyp/test/a.test.ts": HELPER }, ["packages/pkvm-hyp/test/a.test.ts:1: import of ../../../tools/checks/readme.ts leaves the package"]],
  ["boundary/relative-import", "another tool from the README test", { [HYP_TEST]: 'import "../../../tools/checks/pack.ts";' }, [`${HYP_TEST}:1: import of ../../../tools/checks/pack.ts leaves the package`]],

  ["boundary/ignore", "for the README helper", { [HYP_TEST]: `${IGNORE}\n${HELPER}\n` }, []],
  ["boundary/ignore", "for another import", { [HYP_TEST]: `${IGNORE}\nimport "@smmuv3/platform";\n` }, [`${HYP_TEST}:1: ${MARK} hides an import from turbo`]],
  ["boundary/ignore", "in another file", { [HYP]: `${IGNORE}\n${HELPER}\n` }, [`${HYP}:1: ${MARK} hides an import from turbo`]],
  ["boundary/ignore", "all of lint", { [HYP]: `\n${LINT}-next-line\nlet a = 1;` }, [`${HYP}:2: switches off a lint rule that guards boundaries`]],
  ["boundary/ignore", "the lint rule", { [HYP]: `${LINT}-next-line no-restricted-syntax -- why` }, [`${HYP}:1: switches off a lint rule that guards boundaries`]],
  ["boundary/ignore", "another lint rule", { [HYP]: `${LINT}-next-line no-empty -- why` }, []],
  ["boundary/ignore", "the lint rule in the README helper", { "tools/checks/readme.ts": `${LINT}-next-line no-restricted-syntax` }, []],

  ["boundary/source-import", "a dependency", { [HYP]: 'import "@smmuv3/platform";\nimport "@smmuv3/pkvm-hyp";\n' }, []],
  ["boundary/source-import", "a dev dependency, as a type", { [HYP]: 'export type A = import("vitest").A;' }, [`${HYP}:1: import type of vitest, which is not among the dependencies the package ships with`]],
  ["boundary/source-import", "a dev dependency in a test", { [HYP_TEST]: 'import "vitest";' }, []],
  ["boundary/source-import", "a part of an undeclared package", { [HYP]: 'import "@smmuv3/arm-smmu-v3/a";' }, [`${HYP}:1: import of @smmuv3/arm-smmu-v3, which is not among the dependencies the package ships with`]],
  ["boundary/source-import", "Node", { [HYP]: 'import "node:fs";' }, [`${HYP}:1: import of node:fs, which is not among the dependencies the package ships with`]],
  ["boundary/source-import", "Node's types", { [HYP]: '/// <reference types="node" />' }, [`${HYP}:1: reference types of node, which is not among the dependencies the package ships with`]],
  ["boundary/source-import", "Node in a tool", { "tools/checks/src/a.ts": 'import "node:fs";\nimport "fs";\nimport "commander";' }, []],

  ["boundary/file-size", "500 lines", { [HYP]: "a();\n".repeat(500) }, []],
  ["boundary/file-size", "501 lines", { [HYP]: "a();\n".repeat(501) }, [`${HYP}:501: 501 lines, 500 at most`]],
  ["boundary/file-size", "501 lines, the last one open", { [HYP]: `${"a();\n".repeat(500)}a();` }, [`${HYP}:501: 501 lines, 500 at most`]],
  ["boundary/file-size", "a long test", { [HYP_TEST]: "a();\n".repeat(900) }, []],
  ["boundary/file-size", "a long tool", { "tools/checks/a.ts": "a();\n".repeat(501) }, ["tools/checks/a.ts:501: 501 lines, 500 at most"]],

  ["boundary/bundle-levels", "EL1 with a hypervisor", { [NATIVE_META]: meta({ ...DRIVER, "packages/pkvm-hyp/dist/a.js": "" }) }, [`${NATIVE_META}:1: EL1 reaches packages/pkvm-hyp/dist/a.js, of a package tagged hyp`]],
  ["boundary/bundle-levels", "EL1 with hardware", { [NATIVE_META]: meta({ "packages/smmu-v3-model/dist/a.js": "" }) }, [`${NATIVE_META}:1: EL1 reaches packages/smmu-v3-model/dist/a.js, of a package tagged hardware`]],
  ["boundary/bundle-levels", "EL2 with a kernel", { [EMULATE_META2]: meta(DRIVER) }, Object.keys(DRIVER).map((file) => `${EMULATE_META2}:1: EL2 reaches ${file}, of a package tagged kernel-smmu`)],
  ["boundary/bundle-levels", "EL2 with hardware", { [EMULATE_META2]: meta({ "packages/smmu-v3-model/dist/a.js": "" }) }, [`${EMULATE_META2}:1: EL2 reaches packages/smmu-v3-model/dist/a.js, of a package tagged hardware`]],
  ["boundary/bundle-levels", "a module from a registry", { [NATIVE_META]: meta({ "node_modules/a/index.js": "" }) }, [`${NATIVE_META}:1: node_modules/a/index.js is no package's build output`]],
  ["boundary/bundle-levels", "a bundle too many", { "packages/arch-native/dist/bundles/el2.meta.json": meta({}) }, ["packages/arch-native/dist/bundles/el2.meta.json:1: a bundle that the package does not export as ./el2"]],

  ["boundary/identical-driver", "another driver module", { [EMULATE_META]: meta({ ...DRIVER, "packages/arm-smmu-v3/dist/new.js": "6" }) }, [`${EMULATE_META}:1: packages/arm-smmu-v3/dist/new.js is in one of the two bundles only`]],
  ["boundary/identical-driver", "a driver module too few", { [EMULATE_META]: meta({ "packages/arm-smmu-v3/dist/index.js": "1" }) }, [`${EMULATE_META}:1: packages/arm-smmu-v3/dist/probe.js is in one of the two bundles only`]],
  ["boundary/identical-driver", "other content", { [EMULATE_META]: meta({ ...DRIVER, "packages/arm-smmu-v3/dist/probe.js": "7" }) }, [`${EMULATE_META}:1: packages/arm-smmu-v3/dist/probe.js differs from the one in ${NATIVE_META}`]],
  ["boundary/identical-driver", "no driver at all", { [NATIVE_META]: meta({}), [EMULATE_META]: meta({}) }, [`${EMULATE_META}:1: ${NATIVE_META} holds no module of packages/arm-smmu-v3/`]],
];

describe.each(Object.keys(RULES))("%s", (rule) => {
  test<Context>("finds nothing in a clean repository", ({ tree }) => {
    expect(findings(tree, rule)).toEqual([]);
  });

  for (const [, what, files, expected] of CASES.filter(([name]) => name === rule)) {
    test<Context>(`${what}: ${expected.length === 0 ? "allowed" : "refused"}`, ({ tree }) => {
      tree.writeAll(files);
      expect(findings(tree, rule)).toEqual(expected);
      for (const found of RULES[rule]!(tree.root)) expect(found.rule).toBe(rule);
    });
  }
});

test<Context>("a missing ARCHITECTURE.md is a finding", async ({ tree }) => {
  await tree.planted({ "ARCHITECTURE.md": undefined }, () => {
    expect(findings(tree, "boundary/architecture-table")).toEqual(["ARCHITECTURE.md:1: is missing"]);
  });
});

test<Context>("a level that is exported must be built", async ({ tree }) => {
  await tree.planted({ [NATIVE_META]: undefined, [EMULATE_META2]: undefined }, () => {
    expect(findings(tree, "boundary/bundle-levels")).toEqual([
      `${NATIVE_META}:1: ./el1 is exported but not built`, `${EMULATE_META2}:1: ./el2 is exported but not built`,
    ]);
    expect(findings(tree, "boundary/identical-driver")).toEqual([`${EMULATE_META}:1: cannot compare, ${NATIVE_META} not built`]);
  });
});

test("other tables are not the package table", () => {
  expect(parsePackageTable("| package | tag |\n|---|---|\n| `a` | b |\n")).toEqual([]);
  const header = "| Package | tag | owns | does **not** own | depends on |\n|---|---|---|---|---|\n";
  expect(parsePackageTable(`${header}| \`a\` | b | c | d | \`f\`, \`e\` |\n\n| \`g\` | h | i | j | k |\n`)).toEqual([
    { line: 3, name: "a", tag: "b", dependencies: ["e", "f"] },
  ]);
});
