import { execFileSync, spawnSync } from "node:child_process";
import { copyFileSync, mkdirSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { afterAll, describe, expect, test, vi } from "vitest";
import { analyse, type BundleStats, measureCode, type Metafile } from "./bundle-lib.ts";
import { Tree } from "./test-tree.ts";

vi.setConfig({ testTimeout: 60_000 });

describe("measureCode", () => {
  test.each<[string, string, number, number]>([
    ["nothing", "", 0, 0],
    ["blank lines and comments", "\n// a\n/* b\n c */\n\n/** d */\n//# sourceMappingURL=a.js.map\n", 0, 0],
    ["a statement", "const a = 1;\n", 1, 1],
    ["two statements on a line", "const a = 1; const b = 2;", 1, 2],
    ["a comment behind code", "const a = 1; // why\n", 1, 1],
    ["a function: braces are lines, its block is no statement", "function f() {\n  return 1;\n}\n", 3, 2],
    ["a comment in a body", "function f() {\n  // why\n\n  return 1;\n}\n", 3, 2],
    ["branches without blocks", "if (a)\n  b();\nelse\n  c();\n", 4, 3],
    ["loops, try and switch", "for (;;) { a(); }\ntry { b(); } catch { c(); }\nswitch (d) { case 1: e(); break; }\n", 3, 8],
    ["a class: members are lines, not statements", "class A {\n  b = 1;\n  /** c */\n  c() {\n    return 2;\n  }\n}\n", 6, 2],
    ["a template over several lines", "const a = `\n// text\n\n${b}\n`;\n", 5, 1],
    ["an expression over several lines", "const a = [\n  1,\n  2,\n];\n", 4, 1],
    ["an empty statement", ";;\n", 1, 0],
    ["a docstring before code", "/**\n * Why.\n */\nexport const a = 1;\n", 1, 1],
  ])("%s", (_, text, lines, statements) => {
    expect(measureCode("a.js", text)).toEqual({ lines, statements });
  });
});

describe("analyse", () => {
  const files: Record<string, string> = {
    "packages/a/package.json": '{ "name": "@x/a" }',
    "packages/a/dist/el2.js": 'import { b } from "@x/b";\nexport const a = b;\n',
    "packages/b/package.json": '{ "name": "@x/b" }',
    "packages/b/dist/index.js": "// why\nexport const b = 1;\n",
    "packages/b/dist/shaken.js": "export const c = 1;\n",
  };
  const metafile: Metafile = {
    inputs: {},
    outputs: {
      "packages/a/dist/bundles/el2.js": {
        bytes: 90,
        exports: ["z", "a"],
        imports: [],
        inputs: {
          "packages/b/dist/index.js": { bytesInOutput: 12 },
          "packages/b/dist/shaken.js": { bytesInOutput: 0 },
          "packages/a/dist/el2.js": { bytesInOutput: 20 },
        },
      },
    },
  };
  const read = (changed: Record<string, string> = {}) => (path: string): string | undefined => ({ ...files, ...changed })[path];

  test("counts the modules that reach the output, in order", () => {
    expect(analyse(metafile, read())).toEqual({
      bytes: 90,
      lines: 3,
      statements: 3,
      exports: ["a", "z"],
      modules: [
        { package: "@x/a", file: "packages/a/dist/el2.js", bytesInOutput: 20, lines: 2, statements: 2 },
        { package: "@x/b", file: "packages/b/dist/index.js", bytesInOutput: 12, lines: 1, statements: 1 },
      ],
    });
  });

  test("100 planted lines are 100 more, whatever stands between them", () => {
    const planted = Array.from({ length: 100 }, (_, i) => `export const planted${i} = ${i};\n// why\n\n`).join("");
    const before = analyse(metafile, read());
    const file = "packages/b/dist/index.js";
    const after = analyse(metafile, read({ [file]: files[file]! + planted }));
    expect(after.lines - before.lines).toBe(100);
    expect(after.statements - before.statements).toBe(100);
  });

  test("lines planted in a module that is shaken out count for nothing", () => {
    const file = "packages/b/dist/shaken.js";
    expect(analyse(metafile, read({ [file]: "a();\n".repeat(100) }))).toEqual(analyse(metafile, read()));
  });

  test("refuses a module that cannot be read, one outside a package, and several outputs", () => {
    const without = (path: string) => (one: string): string | undefined => (one === path ? undefined : files[one]);
    expect(() => analyse(metafile, without("packages/b/dist/index.js"))).toThrow("cannot be read");
    expect(() => analyse(metafile, without("packages/b/package.json"))).toThrow("is in no package");
    const outputs = { ...metafile.outputs, second: metafile.outputs["packages/a/dist/bundles/el2.js"]! };
    expect(() => analyse({ ...metafile, outputs }, read())).toThrow("exactly one output");
  });
});

describe("bundle.ts", () => {
  const tree = new Tree();
  afterAll(() => { tree.remove(); });
  mkdirSync(join(tree.root, "tools/checks"), { recursive: true });
  for (const file of ["bundle.ts", "bundle-lib.ts", "imports.ts"]) {
    copyFileSync(join(import.meta.dirname, file), join(tree.root, "tools/checks", file));
  }
  symlinkSync(join(import.meta.dirname, "../../node_modules"), join(tree.root, "node_modules"));
  const manifest = (name: string): object => ({ name, type: "module", sideEffects: false, exports: { ".": "./dist/index.js" } });
  tree.writeAll({
    "package.json": { type: "module" },
    "packages/hyp/package.json": manifest("@x/hyp"),
    "packages/hyp/dist/index.js": 'export { start } from "./start.js";\nexport { unused } from "./unused.js";\n',
    "packages/hyp/dist/start.js": "// why\nexport function start() {\n  return 7;\n}\n//# sourceMappingURL=start.js.map\n",
    "packages/hyp/dist/unused.js": "export const unused = 1;\n",
    "packages/arch-x/package.json": manifest("@x/arch-x"),
    "packages/arch-x/dist/el1.js": "export const level = 1;\n",
    "packages/arch-x/dist/el2.js": 'import { start } from "@x/hyp";\nexport const run = () => start();\n',
  });
  mkdirSync(join(tree.root, "packages/arch-x/node_modules/@x"), { recursive: true });
  symlinkSync("../../../hyp", join(tree.root, "packages/arch-x/node_modules/@x/hyp"));

  const dir = "packages/arch-x";
  const bundle = (): { status: number | null; stderr: string } =>
    spawnSync(process.execPath, ["../../tools/checks/bundle.ts"], { cwd: join(tree.root, dir), encoding: "utf8" });
  const outputs = (): readonly string[] =>
    ["el1", "el2"].flatMap((level) => [".js", ".meta.json", ".stats.json"].map((end) => tree.read(`${dir}/dist/bundles/${level}${end}`)));

  test("makes self-contained bundles that run, the same every time, without a trace of the machine", () => {
    expect(bundle()).toMatchObject({ status: 0, stderr: "" });
    const first = outputs();
    expect(bundle().status).toBe(0);
    expect(outputs()).toEqual(first);
    expect(first.join("")).not.toContain(tree.root);
    expect(tree.read(`${dir}/dist/bundles/el2.js`)).not.toMatch(/import|sourceMappingURL/);
    const url = pathToFileURL(join(tree.root, dir, "dist/bundles/el2.js")).href;
    const print = `import { run } from ${JSON.stringify(url)}; console.log(run());`;
    expect(execFileSync(process.execPath, ["--input-type=module", "--eval", print], { encoding: "utf8" })).toBe("7\n");
  });

  test("names inputs from the root, with their hashes", () => {
    const { inputs } = tree.readJson(`${dir}/dist/bundles/el2.meta.json`) as Metafile;
    expect(Object.keys(inputs)).toEqual([
      `${dir}/dist/el2.js`, "packages/hyp/dist/index.js", "packages/hyp/dist/start.js", "packages/hyp/dist/unused.js",
    ]);
    for (const { sha256 } of Object.values(inputs)) expect(sha256).toMatch(/^[0-9a-f]{64}$/);
  });

  test("counts what reaches EL2", () => {
    const stats = tree.readJson(`${dir}/dist/bundles/el2.stats.json`) as BundleStats;
    expect(stats).toMatchObject({ exports: ["run"], lines: 5, statements: 4 });
    expect(stats.modules.map(({ package: name, file }) => [name, file])).toEqual([
      ["@x/arch-x", `${dir}/dist/el2.js`], ["@x/hyp", "packages/hyp/dist/start.js"],
    ]);
    expect(stats.minifiedBytes).toBeGreaterThan(0);
    expect(stats.minifiedBytes).toBeLessThan(stats.bytes);
  });

  test("100 lines planted in EL2 are 100 lines in its stats, none in EL1's", async () => {
    const file = "packages/hyp/dist/start.js";
    const sizes = (): readonly number[] => ["el1", "el2"].map((level) => (tree.readJson(`${dir}/dist/bundles/${level}.stats.json`) as BundleStats).lines);
    const before = sizes();
    const text = tree.read(file).replace("  return 7;\n", `${"  start.calls = 1;\n\n".repeat(100)}  return 7;\n`);
    await tree.planted({ [file]: text }, () => {
      expect(bundle().status).toBe(0);
      expect(sizes()).toEqual([before[0]!, before[1]! + 100]);
    });
  });

  test.each([
    ["no EL1 entry", { [`${dir}/dist/el1.js`]: undefined }, "dist/el1.js is missing"],
    ["a package that is not there", { [`${dir}/dist/el1.js`]: 'export * from "@x/absent";' }, "Could not resolve"],
    ["a Node module", { [`${dir}/dist/el1.js`]: 'export * from "node:fs";' }, "Could not resolve"],
    ["an import of an expression", { [`${dir}/dist/el1.js`]: "export const load = (a) => import(a);" }, "el1.js:2: import() of an expression is left"],
  ])("refuses %s", async (_, files, message) => {
    const { status, stderr } = await tree.planted(files, bundle);
    expect(status).toBe(1);
    expect(stderr).toContain(message);
  });

  test("leaves no bundle of a level that is gone", async () => {
    await tree.planted({ [`${dir}/dist/el2.js`]: undefined }, () => {
      expect(bundle().status).toBe(0);
      expect(() => tree.read(`${dir}/dist/bundles/el2.js`)).toThrow("ENOENT");
    });
  });
});
