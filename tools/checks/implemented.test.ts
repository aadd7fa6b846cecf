import { describe, expect, test } from "vitest";
import { parseTitle, renderRows, rowsOf } from "./implemented.ts";

describe("the section that a title names", () => {
  test.each([
    ["5.2 S2TTB: out of range", "5.2 S2TTB", "out of range"],
    ["7.4 overflow", "7.4", "overflow"],
    ["6.3.42, 6.3.43: need MPAM", "6.3.42, 6.3.43", "need MPAM"],
    ["6.3.1 to 6.3.8: a preset", "6.3.1 to 6.3.8", "a preset"],
    ["4.3.1", "4.3.1", ""],
    ["chapter 8: records", "8", "records"],
    ["ILLEGAL STE (5.2.2)", "5.2.2", "ILLEGAL STE"],
    ["secondWrite: ignore (6.3.9)", "6.3.9", "secondWrite: ignore"],
    ["v3.0 has a stride of 4K", undefined, "v3.0 has a stride of 4K"],
    ["16 concatenated tables", undefined, "16 concatenated tables"],
    ["a count of 1.5 is a RangeError", undefined, "a count of 1.5 is a RangeError"],
    ["64K, 52 bits", undefined, "64K, 52 bits"],
  ])("%s", (title, section, text) => {
    expect(parseTitle(title)).toEqual({ section, text });
  });
});

test("the nearest title counts, cases are told apart, what names no section is no row", () => {
  const rows = rowsOf([
    { titles: ["5.2 legal", "nothing | {}"], passed: true },
    { titles: ["5.2 legal", "nothing | { V: 1 }"], passed: true },
    { titles: ["5.2 legal", "5.10: other"], passed: false },
    { titles: ["5.9: not implemented", "this"], passed: true },
    { titles: ["anything"], passed: true },
  ]);
  expect(rows).toEqual([
    { section: "5.2", rule: "legal: nothing", absent: false, cases: 2, passed: 2 },
    { section: "5.9", rule: "not implemented: this", absent: true, cases: 1, passed: 1 },
    { section: "5.10", rule: "legal: other", absent: false, cases: 1, passed: 0 },
  ]);
  const text = renderRows("a", rows);
  expect(text).toContain("## 5 Data structure formats");
  expect(text).toContain("3 rows, 4 cases");
  for (const line of ["| 5.2 | legal: nothing | pass (2) |", "| 5.9 | not implemented: this | absent |", "| 5.10 | legal: other | 1 of 1 FAIL |"]) {
    expect(text.split("\n")).toContain(line);
  }
});
