import { expect, test } from "vitest";
import { listImports } from "./imports.ts";

test.each([
  ["static", 'import { a } from "x";', "import", "x"],
  ["side effect", 'import "x";', "import", "x"],
  ["type-only", 'import type { A } from "x";', "import", "x"],
  ["inline type", 'import { type A } from "x";', "import", "x"],
  ["export from", 'export { a } from "x";', "export", "x"],
  ["export star", 'export * from "x";', "export", "x"],
  ["export type", 'export type { A } from "x";', "export", "x"],
  ["dynamic", 'const a = await import("x");', "import()", "x"],
  ["dynamic, template without holes", "const a = await import(`x`);", "import()", "x"],
  ["dynamic, computed", "const a = await import(b);", "import()", undefined],
  ["type position", 'type A = import("x").A;', "import type", "x"],
  ["typeof import", 'type A = typeof import("x");', "import type", "x"],
  ["nested type position", 'function f(a: Map<string, import("x").A>): void {}', "import type", "x"],
  ["import equals", 'import a = require("x");', "import =", "x"],
  ["reference path", '/// <reference path="x" />', "reference path", "x"],
  ["reference types", '/// <reference types="x" />', "reference types", "x"],
])("sees: %s", (_, text, kind, specifier) => {
  expect(listImports("a.ts", text)).toMatchObject([{ kind, specifier, line: 1 }]);
});

test.each([
  ["a local export", "export { a };\nconst a = 1;"],
  ["a string that looks like an import", "const a = 'import \"x\"';"],
  ["a comment", '// import "x"\n/* import("x") */'],
])("does not see: %s", (_, text) => {
  expect(listImports("a.ts", text)).toEqual([]);
});

test("counts lines from 1", () => {
  expect(listImports("a.ts", 'const a = 1;\n\n// why\nimport "x";\n')).toMatchObject([{ line: 4 }]);
});
