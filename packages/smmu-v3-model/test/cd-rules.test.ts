import { describe, expect, test } from "vitest";
import { CD, CD_WORDS, setAddress, setField } from "@smmuv3/smmu-v3-defs";
import { CD_RULES, decodeFeatures, findCdViolation, PRESETS } from "../src/index.ts";
import type { CdContext, IdRegisters } from "../src/index.ts";
import { CdChecker } from "../src/cd-rules.ts";
import type { CdValues } from "./rig.ts";

const { qemuNested, reference } = PRESETS;
const GOOD: CdValues = { V: 1, AA64: 1, A: 1, R: 1, T0SZ: 16, EPD1: 1, IPS: 4, TTB0: 0x4000_0000 };
const BOTH: CdValues = { ...GOOD, EPD1: 0, T1SZ: 16, TG1: 2, TTB1: 0x4000_0000 };
const EL1: CdContext = { s1Stalld: false, single: false };

function idr0(clear: number, set = 0): IdRegisters {
  return { ...qemuNested, IDR0: (qemuNested.IDR0 & ~clear) | set };
}

function cd(values: CdValues): Int32Array {
  const words = new Int32Array(CD_WORDS);
  for (const [name, value] of Object.entries(values)) {
    const field = CD[name as keyof typeof CD];
    if ("loMask" in field) setAddress(words, 0, field, value);
    else setField(words, 0, field, value);
  }
  return words;
}

const ILLEGAL: readonly (readonly [rule: string, values: CdValues, id: IdRegisters, context?: CdContext])[] = [
  ["V = 0", { ...GOOD, V: 0 }, qemuNested],
  ["S with STE.S1STALLD", { ...GOOD, S: 1 }, idr0(3 << 24), { s1Stalld: true, single: false }],
  ["A = 0 with TERM_MODEL", { ...GOOD, A: 0 }, qemuNested],
  ["S against STALL_MODEL", { ...GOOD, S: 1 }, qemuNested],
  ["S against STALL_MODEL", GOOD, idr0(3 << 24, 2 << 24)],
  ["ENDI against TTENDIAN", { ...GOOD, ENDI: 1 }, qemuNested],
  ["AA64 does not match TTF", { ...GOOD, AA64: 0 }, qemuNested],
  ["AA64 does not match TTF", { ...GOOD, AA64: 0 }, idr0(0, 1 << 2), { s1Stalld: false, single: true }],
  ["AA64 does not match TTF", GOOD, idr0(3 << 2, 1 << 2)],
  ["HA or HD beyond HTTU", { ...GOOD, HA: 1 }, qemuNested],
  ["HA or HD beyond HTTU", { ...GOOD, HD: 1 }, idr0(0, 1 << 6)],
  ["ASID[15:8] without ASID16", { ...GOOD, ASID: 0x100 }, idr0(1 << 12)],
  ["TG0", { ...GOOD, TG0: 3 }, qemuNested],
  ["TG0", { ...GOOD, TG0: 2 }, { ...qemuNested, IDR5: 0x54 }],
  ["T0SZ", { ...GOOD, T0SZ: 15 }, qemuNested],
  ["T0SZ", { ...GOOD, T0SZ: 40 }, qemuNested],
  ["TTB0 out of range", { ...GOOD, TTB0: 2 ** 44 }, qemuNested],
  ["TTB0 out of range", { ...GOOD, IPS: 0, TTB0: 2 ** 32 }, qemuNested],
  ["TG1", { ...BOTH, TG1: 0 }, qemuNested],
  ["T1SZ", { ...BOTH, T1SZ: 15 }, qemuNested],
  ["TTB1 out of range", { ...BOTH, TTB1: 2 ** 44 }, qemuNested],
];

describe("ILLEGAL", () => {
  const cases = ILLEGAL.map(([rule, values, id, context]) => ({ rule, values, id, context: context ?? EL1 }));
  test.each(cases)("$rule: $values", ({ rule, values, id, context }) => {
    expect(findCdViolation(cd(values), 0, decodeFeatures(id), context)?.name).toBe(rule);
  });

  test("every rule has a case", () => {
    const tested = new Set(ILLEGAL.map(([rule]) => rule));
    expect(CD_RULES.map(({ name }) => name).filter((name) => !tested.has(name))).toEqual([]);
  });
});

describe("legal", () => {
  test.each<[string, CdValues, IdRegisters, CdContext]>([
    ["one half", GOOD, qemuNested, EL1],
    ["both halves", BOTH, qemuNested, EL1],
    ["EPD0 makes TTB0's fields IGNORED", { ...BOTH, EPD0: 1, T0SZ: 1, TG0: 3, TTB0: 2 ** 47 }, qemuNested, EL1],
    ["EPD1 makes TTB1's fields IGNORED", { ...GOOD, T1SZ: 1, TTB1: 2 ** 47 }, qemuNested, EL1],
    ["no half: ENDI does not matter", { ...GOOD, EPD0: 1, ENDI: 1 }, qemuNested, EL1],
    ["A = 0 without TERM_MODEL", { ...GOOD, A: 0 }, reference, EL1],
    ["IPS beyond OAS", { ...GOOD, IPS: 6 }, qemuNested, EL1],
    ["EL2 has no second half", { ...BOTH, TG1: 0 }, reference, { s1Stalld: false, single: true }],
  ])("%s", (_name, values, id, context) => {
    expect(findCdViolation(cd(values), 0, decodeFeatures(id), context)).toBeUndefined();
  });
});

test("the checker agrees with the rules after any legal CD", () => {
  const features = decodeFeatures(qemuNested);
  for (const first of [GOOD, BOTH]) {
    for (const [, values] of ILLEGAL) {
      const checker = new CdChecker(features);
      expect(checker.check(cd(first), 0, false, false)).toBe(true);
      expect(checker.check(cd(values), 0, false, false)).toBe(findCdViolation(cd(values), 0, features, EL1) === undefined);
    }
  }
});
