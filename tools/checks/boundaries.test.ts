// Plants each kind of boundary violation in a copy of this repository and sees the tool that guards against it refuse.
import { spawnSync } from "node:child_process";
import { delimiter, join } from "node:path";
import { afterAll, describe, expect, test, vi } from "vitest";
import { RULES } from "./rules.ts";
import { copyRepository, transpile, transpileAll } from "./test-tree.ts";
import { type Manifest, readMembers } from "./workspace.ts";

const ROOT = join(import.meta.dirname, "../..");

// The tools share the machine with every other task of the build.
vi.setConfig({ testTimeout: 60_000 });

const tree = copyRepository(ROOT);
transpileAll(tree);
afterAll(() => { tree.remove(); });

interface Outcome {
  readonly passed: boolean;
  readonly output: string;
}

function run(command: string, args: readonly string[], dir: string = ""): Outcome {
  const { status, stdout, stderr, error } = spawnSync(command, args, {
    cwd: join(tree.root, dir),
    encoding: "utf8",
    env: {
      ...process.env,
      PATH: join(ROOT, "node_modules/.bin") + delimiter + (process.env["PATH"] ?? ""),
      TURBO_TELEMETRY_DISABLED: "1",
    },
  });
  if (error !== undefined) throw error;
  return { passed: status === 0, output: stdout + stderr };
}

function expectPass({ passed, output }: Outcome): void {
  expect(passed, output).toBe(true);
}

/** turbo breaks its messages at the terminal's width; here each is one line. */
function turbo(): Outcome {
  const { passed, output } = run("turbo", ["boundaries"]);
  return { passed, output: output.replace(/\n[ |]+/g, " ") };
}

function typecheck(dir: string): Outcome {
  return run("tsc", ["-p", "tsconfig.build.json", "--noEmit", "--pretty", "false"], dir);
}

function bundle(dir: string): Outcome {
  return run("node", ["../../tools/checks/bundle.ts"], dir);
}

/** What the rule of that name finds, printed as the command line does. */
function findings(rule: string): readonly string[] {
  return RULES[rule]!(tree.root).map(({ rule: prefix, file, message }) => `${prefix}: ${file}: ${message}`);
}

function manifestWith(dir: string, change: Partial<Manifest>): Record<string, string> {
  const file = `${dir}/package.json`;
  return { [file]: JSON.stringify({ ...(tree.readJson(file) as Manifest), ...change }) };
}

/** `key` of the manifest of `dir` with one more package. */
function withDependency(dir: string, key: "dependencies" | "devDependencies", name: string): Record<string, string> {
  const declared = (tree.readJson(`${dir}/package.json`) as Manifest)[key];
  return manifestWith(dir, { [key]: { ...declared, [name]: "workspace:^" } });
}

const architectures = readMembers(tree.root).filter(({ manifest }) => {
  return Object.hasOwn(manifest.exports ?? {}, "./el1");
});

describe("the tree as it is", () => {
  test("passes turbo", () => {
    expectPass(turbo());
  });

  test("passes tsc", () => {
    expectPass(typecheck("packages/vmsa-walk"));
  });

  test("bundles every architecture", () => {
    expect(architectures).not.toEqual([]);
    for (const { dir } of architectures) expectPass(bundle(dir));
  });

  test.each(Object.keys(RULES))("passes %s", (rule) => {
    expect(findings(rule)).toEqual([]);
  });
});

describe("turbo boundaries refuses", () => {
  const planted = "packages/vmsa-walk/src/planted.ts";
  const notDeclared = /cannot import package `@smmuv3\/iommu-core` because it is not a dependency/;
  test.each<[string, Record<string, string>, RegExp]>([
    ["an undeclared import", { [planted]: 'import { a } from "@smmuv3/iommu-core";\nexport const b = a;\n' }, notDeclared],
    ["a type-only import", { [planted]: 'import type { A } from "@smmuv3/iommu-core";\nexport type B = A;\n' }, notDeclared],
    ["an undeclared export from", { [planted]: 'export { a } from "@smmuv3/iommu-core";\n' }, notDeclared],
    ["an undeclared import()", { [planted]: 'export const a = await import("@smmuv3/iommu-core");\n' }, notDeclared],
    [
      "a relative import across packages",
      { [planted]: 'export * from "../../iommu-core/src/index.ts";\n' },
      /import `..\/..\/iommu-core\/src\/index.ts` leaves the package/,
    ],
    [
      "a relative import across packages from a test",
      { "packages/vmsa-walk/test/planted.test.ts": 'import "../../iommu-core/src/index.ts";\n' },
      /import `..\/..\/iommu-core\/src\/index.ts` leaves the package/,
    ],
    [
      "a declared dependency against policy",
      withDependency("packages/pkvm-iommu", "dependencies", "@smmuv3/smmu-v3-defs"),
      /`@smmuv3\/smmu-v3-defs` found without any tag listed in allowlist for `@smmuv3\/pkvm-iommu`/,
    ],
    [
      "a dev dependency that opens a world",
      withDependency("packages/pkvm-hyp", "devDependencies", "@smmuv3/smmu-v3-model"),
      /`@smmuv3\/smmu-v3-model` found without any tag listed in allowlist for `@smmuv3\/pkvm-hyp`/,
    ],
    [
      "a cycle",
      withDependency("packages/vmsa-walk", "dependencies", "@smmuv3/machine"),
      /Circular package dependency detected: @smmuv3\/machine -> @smmuv3\/vmsa-walk/,
    ],
  ])("%s", async (_, files, message) => {
    const { passed, output } = await tree.planted(files, turbo);
    expect(passed).toBe(false);
    expect(output).toMatch(message);
  });
});

describe("tsc refuses", () => {
  const cannotFind = (specifier: string): RegExp => new RegExp(`planted.ts.*TS2307: Cannot find module '${specifier}'`);
  test.each([
    ["a deep import of a source", '"@smmuv3/platform/src/memory.ts"', cannotFind("@smmuv3/platform/src/memory.ts")],
    ["a deep import of a build", '"@smmuv3/platform/dist/memory.js"', cannotFind("@smmuv3/platform/dist/memory.js")],
  ])("%s", async (_, specifier, message) => {
    const files = { "packages/vmsa-walk/src/planted.ts": `export { Memory } from ${specifier};\n` };
    const { passed, output } = await tree.planted(files, () => typecheck("packages/vmsa-walk"));
    expect(passed).toBe(false);
    expect(output).toMatch(message);
  });
});

describe("eslint refuses", () => {
  interface FileReport {
    readonly filePath: string;
    readonly messages: readonly { readonly message: string }[];
  }
  const cases = {
    "a non-literal import()": ["export const load = async (a: string): Promise<unknown> => import(a);", /non-literal import\(\) hides/],
    "an import of createRequire": [
      'import { createRequire } from "node:module";\nexport const load: unknown = createRequire(import.meta.url);',
      /createRequire goes around/,
    ],
    "a member createRequire": [
      'import * as module from "node:module";\nexport const load: unknown = module.createRequire(import.meta.url);',
      /createRequire goes around/,
    ],
    "state on globalThis": ["(globalThis as { x?: number }).x = 1;\nexport {};", /global state joins worlds/],
    "a computed member of globalThis": ['export const a: unknown = Reflect.get(globalThis, "x");', /global state joins worlds/],
    "a let of the module": ["let count = 0;\nexport const next = (): number => (count += 1);", /global state joins worlds/],
    "an exported let": ["export let count: number = 0;\ncount += 1;", /global state joins worlds/],
    "a static field": ["export class Count { static value = 0; }", /global state joins worlds/],
    "an empty map of the module": ["const seen = new Map<string, number>();\nexport const has = (a: string): boolean => seen.has(a);", /global state joins worlds/],
    "a var of the module": ["var count = 0;\nexport const next = (): number => (count += 1);", /Unexpected var/],
    "nothing in a clean file": [
      "const NAMES = new Map([[1, \"one\"]]);\nexport const nameOf = (a: number): string | undefined => NAMES.get(a);",
      undefined,
    ],
  } satisfies Record<string, readonly [string, RegExp | undefined]>;
  const files = Object.fromEntries(Object.values(cases).map(([text], index) => {
    return [`packages/vmsa-walk/test/planted-${index}.ts`, `${text}\n`];
  }));
  const reports = tree.planted(files, () => {
    const { output } = run("eslint", ["--config", "tools/eslint/config.js", "--format", "json", ...Object.keys(files)]);
    return JSON.parse(output) as readonly FileReport[];
  });

  test.each(Object.entries(cases).map(([name, [, message]], index) => [name, index, message] as const))(
    "%s",
    async (_, index, message) => {
      const report = (await reports).find(({ filePath }) => filePath.endsWith(`/planted-${index}.ts`))!;
      const text = report.messages.map((one) => one.message).join("\n");
      if (message === undefined) expect(text).toBe("");
      else expect(text).toMatch(message);
    },
  );
});

describe("boundaries.ts refuses", () => {
  const architecture = "ARCHITECTURE.md";
  const row = /^\| `vmsa-walk` .*\n/m;
  const source = "packages/pkvm-hyp/src/planted.ts";
  test.each<[string, string, Record<string, string | undefined>, RegExp]>([
    ["an untagged package", "boundary/tags", { "packages/vmsa-walk/turbo.json": undefined }, /vmsa-walk.*exactly one tag, has 0/],
    [
      "two tags",
      "boundary/tags",
      { "packages/vmsa-walk/turbo.json": '{ "extends": ["//"], "tags": ["hardware", "hyp"] }' },
      /vmsa-walk.*exactly one tag, has 2/,
    ],
    [
      "a tag without a policy",
      "boundary/tags",
      { "packages/vmsa-walk/turbo.json": '{ "extends": ["//"], "tags": ["free"] }' },
      /vmsa-walk.*tag free is not defined/,
    ],
    [
      "a package that ARCHITECTURE.md leaves out",
      "boundary/architecture-table",
      { [architecture]: tree.read(architecture).replace(row, "") },
      /vmsa-walk has no row/,
    ],
    [
      "a dependency that ARCHITECTURE.md leaves out",
      "boundary/architecture-table",
      withDependency("packages/vmsa-walk", "dependencies", "@smmuv3/smmu-v3-defs"),
      /vmsa-walk: the table's dependencies lacks? smmu-v3-defs/,
    ],
    [
      "an export of an internal file",
      "boundary/exports",
      manifestWith("packages/vmsa-walk", { exports: { ".": "./dist/index.js", "./walk": "./dist/walk.js" } }),
      /vmsa-walk.*exports .\/walk is not allowed/,
    ],
    [
      "a relative import across packages in a type",
      "boundary/relative-import",
      { [source]: 'export type A = import("../../arm-smmu-v3/src/index.ts").A;\n' },
      /planted.ts: import type of ..\/..\/arm-smmu-v3\/src\/index.ts leaves the package/,
    ],
    [
      "an import that turbo is told to ignore",
      "boundary/ignore",
      { [source]: `// ${["@boundaries", "ignore"].join("-")} because\nimport "@smmuv3/arm-smmu-v3";\n` },
      /planted.ts: .* hides an import/,
    ],
    [
      "a lint rule switched off",
      "boundary/ignore",
      { [source]: `// ${["eslint", "disable"].join("-")}-next-line no-restricted-syntax\nlet a = 1;\nexport const b = (): number => (a += 1);\n` },
      /planted.ts: switches off a lint rule/,
    ],
    [
      "a dev dependency in src",
      "boundary/source-import",
      { [source]: 'import type { Test } from "vitest";\nexport type A = Test;\n' },
      /planted.ts: import of vitest/,
    ],
    ["a file too long", "boundary/file-size", { [source]: "export {};\n".repeat(501) }, /planted.ts: 501 lines/],
  ])("%s", async (_, rule, files, message) => {
    const found = await tree.planted(files, () => findings(rule));
    expect(found).toHaveLength(1);
    expect(found[0]).toMatch(message);
    expect(found[0]!.startsWith(`${rule}: `)).toBe(true);
  });

  const rebuilt = async (dir: string, file: string, text: string, rule: string): Promise<readonly string[]> => {
    const owner = file.split("/src/")[0]!;
    const name = file.split("/src/")[1]!;
    try {
      return await tree.planted({ [file]: text }, () => {
        transpile(tree, owner, name);
        expectPass(bundle(dir));
        return findings(rule);
      });
    } finally {
      transpile(tree, owner, name);
      bundle(dir);
    }
  };

  test.each([
    ["el1", "@smmuv3/pkvm-hyp", /EL1 reaches packages\/pkvm-hyp\/.* tagged hyp/],
    ["el2", "@smmuv3/arm-smmu-v3", /EL2 reaches packages\/arm-smmu-v3\/.* tagged kernel-smmu/],
  ])("an entry %s that reaches %s", async (level, name, message) => {
    const dir = "packages/arch-single-driver";
    const file = `${dir}/src/${level}.ts`;
    const found = await rebuilt(dir, file, `export * from "${name}";\n${tree.read(file)}`, "boundary/bundle-levels");
    expect(found[0]).toMatch(message);
    expect(findings("boundary/bundle-levels")).toEqual([]);
  });

  test("a driver changed for one architecture", async () => {
    const file = "packages/arm-smmu-v3/src/index.ts";
    const text = `${tree.read(file)}export const planted: number = 1;\n`;
    const found = await rebuilt("packages/arch-trap-emulate", file, text, "boundary/identical-driver");
    expect(found).toHaveLength(1);
    expect(found[0]).toMatch(/arm-smmu-v3\/dist\/index.js differs/);
    expect(findings("boundary/identical-driver")).toEqual([]);
  });

  test("an architecture that is not built", async () => {
    const meta = "packages/arch-native/dist/bundles/el1.meta.json";
    const found = await tree.planted({ [meta]: undefined }, () => findings("boundary/bundle-levels"));
    expect(found).toEqual([`boundary/bundle-levels: ${meta}: ./el1 is exported but not built`]);
  });

  test("the command line prints the findings and fails", async () => {
    const command = (): Outcome => run("node", ["tools/checks/boundaries.ts"]);
    expectPass(command());
    const { passed, output } = await tree.planted({ "packages/vmsa-walk/turbo.json": undefined }, command);
    expect(passed).toBe(false);
    expect(output).toContain("boundary/tags: packages/vmsa-walk/turbo.json:1: needs exactly one tag, has 0");
  });
});
