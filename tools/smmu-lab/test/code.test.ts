// What is counted in the text of bundles: modules, lines, repeated code, code that ran.
import { describe, expect, test } from "vitest";
import { duplicatedLines, linesMatching, segments } from "../src/lab/code.ts";
import { coverage, linesOf } from "../src/lab/coverage.ts";

const bundle = (...modules: readonly (readonly [name: string, code: string])[]): string =>
  modules.map(([name, code]) => `// packages/${name}/dist/index.js\n${code}\n`).join("\n");

/** More than 50 tokens in 10 lines, of names that end in `suffix`. */
const body = (suffix: string, step = "1"): string =>
  Array.from({ length: 10 }, (_, i) => `let name${i}${suffix} = value${suffix}(${i} + ${step});`).join("\n");

describe("modules of a bundle", () => {
  const text = bundle(["a", "let x = 1;\n\n// note\n/** doc\n * more */\nlet quirk = 2;"], ["b", "let quirk = 3;"]);

  test("are told by the bundler's remarks", () => {
    expect(segments(text).map((one) => [one.package, one.file])).toEqual([
      ["a", "packages/a/dist/index.js"],
      ["b", "packages/b/dist/index.js"],
    ]);
  });

  test("lines are code only, of the packages that are asked for", () => {
    const count = (name: string, pattern: RegExp): number => linesMatching(text, (one) => one === name, pattern).length;
    expect([count("a", /./u), count("a", /quirk/u), count("b", /quirk/u), count("c", /./u)]).toEqual([2, 1, 1, 0]);
  });
});

describe("lines of EL2 that repeat code of EL1", () => {
  const repeated = (el1: readonly [string, string][], el2: readonly [string, string][]): number => duplicatedLines(bundle(...el1), bundle(...el2));

  test("a copy counts, whatever numbers the bundler gave its names", () => {
    expect(repeated([["kernel", body("_a")]], [["hyp", `let own = 1;\n${body("_b")}`]])).toBe(0);
    expect(repeated([["kernel", body("_a")]], [["hyp", `let own = 1;\n${body("_a")}`]])).toBe(10);
    expect(repeated([["kernel", body("_a2")]], [["hyp", `let own = 1;\n${body("_a3")}`]])).toBe(10);
  });

  test("other code, and a module that both link, do not", () => {
    expect(repeated([["kernel", body("_a", "1")]], [["hyp", body("_a", "other")]])).toBe(0);
    expect(repeated([["shared", body("_a")]], [["shared", body("_a")]])).toBe(0);
    expect(repeated([["kernel", "let short = 1;"]], [["hyp", "let short = 1;"]])).toBe(0);
  });
});

test("code that ran is told from code that did not, branch by branch", async () => {
  const text = bundle([
    "driver",
    "function used(flag) {\n  if (flag) {\n    return 1;\n  }\n  return 2;\n}\nfunction unused() {\n  return 3;\n}\nvar bootKernel = () => used(true);\nexport { bootKernel };",
  ]);
  const covered = await coverage(text, (bootKernel) => {
    (bootKernel as unknown as () => void)();
  });
  const { all, ran } = linesOf(covered, "driver");
  const numbers = [...ran].map((key) => Number(key.split(":")[1]));
  expect(all.size).toBe(11);
  expect(numbers).toContain(2);
  expect(numbers).not.toContain(4);
  expect(numbers).not.toContain(7);
});
