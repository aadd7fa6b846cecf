import { describe, expect, test } from "vitest";
import { CD, CD_WORDS, setAddress, setField } from "@smmuv3/smmu-v3-defs";
import { CD_RULES, decodeFeatures, findCdViolation, PRESETS } from "../src/index.ts";
import type { CdContext, IdRegisters } from "../src/index.ts";
import { CD_CONTEXT, CdChecker } from "../src/cd-rules.ts";
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

const SINGLE: CdContext = { s1Stalld: false, single: true };
const E2H: CdContext = { ...EL1, e2h: true };
const HTTU_AF = idr0(3 << 6, 1 << 6);
const HTTU_DIRTY = idr0(3 << 6, 2 << 6);
const HTTU_TABLES = idr0(3 << 6, 3 << 6);
const LPAE = idr0(3 << 2, 3 << 2);
const WIDE = { ...qemuNested, IDR5: 0x76 | (1 << 10) };
const DS = { ...WIDE, IDR5: WIDE.IDR5 | (1 << 7) };
const STT = { ...qemuNested, IDR3: qemuNested.IDR3 | (1 << 9) };
const S1PI = { ...qemuNested, IDR3: qemuNested.IDR3 | (1 << 18) };
const PIE: CdContext = { ...EL1, s1pie: true };

const ILLEGAL: readonly (readonly [rule: string, values: CdValues, id: IdRegisters, context?: CdContext])[] = [
  ["V = 0", { ...GOOD, V: 0 }, qemuNested],
  ["S with STE.S1STALLD", { ...GOOD, S: 1 }, idr0(3 << 24), { s1Stalld: true, single: false }],
  ["A = 0 with TERM_MODEL", { ...GOOD, A: 0 }, qemuNested],
  ["S against STALL_MODEL", { ...GOOD, S: 1 }, qemuNested],
  ["S against STALL_MODEL", GOOD, idr0(3 << 24, 2 << 24)],
  ["ENDI against TTENDIAN", { ...GOOD, ENDI: 1 }, qemuNested],
  ["ENDI against TTENDIAN", GOOD, idr0(3 << 21, 3 << 21)],
  ["AA64 = 0 without VMSAv8-32, or with E2H", { ...GOOD, AA64: 0 }, qemuNested],
  ["AA64 = 0 without VMSAv8-32, or with E2H", { ...GOOD, AA64: 0 }, LPAE, E2H],
  ["AA64 = 1 without VMSAv8-64, or over a VMSAv8-32 stage 2", GOOD, idr0(3 << 2, 1 << 2)],
  ["AA64 = 1 without VMSAv8-64, or over a VMSAv8-32 stage 2", GOOD, LPAE, { ...EL1, lpaeStage2: true }],
  ["HA or HD without HTTU", { ...GOOD, HA: 1 }, qemuNested],
  ["HA or HD without HTTU", { ...GOOD, HD: 1 }, qemuNested],
  ["HD where only access flags are updated", { ...GOOD, HD: 1 }, HTTU_AF],
  ["HAFT without HA", { ...GOOD, HAFT: 1 }, HTTU_TABLES],
  ["ASID[15:8] without ASID16", { ...GOOD, ASID: 0x100 }, idr0(1 << 12)],
  ["T0SZ", { ...GOOD, T0SZ: 15 }, qemuNested],
  ["T0SZ", { ...GOOD, T0SZ: 40 }, qemuNested],
  ["T0SZ", { ...GOOD, T0SZ: 49 }, STT],
  ["T0SZ", { ...GOOD, T0SZ: 48, TG0: 1 }, STT],
  ["T0SZ", { ...GOOD, T0SZ: 15 }, WIDE],
  ["T0SZ", { ...GOOD, T0SZ: 11, TG0: 1 }, WIDE],
  ["T0SZ", { ...GOOD, T0SZ: 1, EPD0: 1 }, reference, SINGLE],
  ["T1SZ", { ...BOTH, T1SZ: 15 }, qemuNested],
  ["TG0", { ...GOOD, TG0: 3 }, qemuNested],
  ["TG0", { ...GOOD, TG0: 2 }, { ...qemuNested, IDR5: 0x54 }],
  ["TTB0 out of range", { ...GOOD, TTB0: 2 ** 44 }, qemuNested],
  ["TTB0 out of range", { ...GOOD, IPS: 0, TTB0: 2 ** 32 }, qemuNested],
  ["TTB0 out of range", { ...GOOD, IPS: 6, TTB0: 2 ** 48 }, WIDE],
  ["TTB0 out of range", { ...GOOD, AA64: 0, TTB0: 2 ** 40 }, LPAE],
  ["TG1", { ...BOTH, TG1: 0 }, qemuNested],
  ["TTB1 out of range", { ...BOTH, TTB1: 2 ** 44 }, qemuNested],
  ["PIIP is reserved", { ...GOOD, PIE: 1, PIIP: 4 }, S1PI, PIE],
  ["PIIP is reserved", { ...GOOD, PIE: 1, PIIP: 6 * 2 ** 30 }, S1PI, PIE],
  ["PIIU is reserved", { ...GOOD, PIE: 1, PIIU: 6 * 8 }, S1PI, PIE],
  ["PIIP runs what PIIU writes", { ...GOOD, PIE: 1, PIIP: 3 * 8, PIIU: 5 * 8 }, S1PI, PIE],
];

describe("ILLEGAL CD (5.4.2)", () => {
  const cases = ILLEGAL.map(([rule, values, id, context]) => ({
    rule,
    values,
    id,
    context: context ?? EL1,
    section: CD_RULES.find(({ name }) => name === rule)?.section,
  }));
  test.each(cases)("$section: $rule | $values", ({ rule, values, id, context }) => {
    expect(findCdViolation(cd(values), 0, decodeFeatures(id), context)?.name).toBe(rule);
  });

  test("every rule has a case", () => {
    const tested = new Set(ILLEGAL.map(([rule]) => rule));
    expect(CD_RULES.map(({ name }) => name).filter((name) => !tested.has(name))).toEqual([]);
  });
});

describe("5.4.2: legal CD", () => {
  test.each<[string, CdValues, IdRegisters, CdContext]>([
    ["one half", GOOD, qemuNested, EL1],
    ["both halves", BOTH, qemuNested, EL1],
    ["EPD0 makes TTB0's fields IGNORED", { ...BOTH, EPD0: 1, T0SZ: 1, TG0: 3, TTB0: 2 ** 47 }, qemuNested, EL1],
    ["EPD1 makes TTB1's fields IGNORED", { ...GOOD, T1SZ: 1, TTB1: 2 ** 47 }, qemuNested, EL1],
    ["no half: ENDI does not matter", { ...GOOD, EPD0: 1, ENDI: 1 }, qemuNested, EL1],
    ["A = 0 without TERM_MODEL", { ...GOOD, A: 0 }, reference, EL1],
    ["IPS beyond OAS", { ...GOOD, IPS: 6 }, qemuNested, EL1],
    ["HD without HA is as neither", { ...GOOD, HD: 1 }, HTTU_DIRTY, EL1],
    ["HAFT where it is RES0", { ...GOOD, HAFT: 1 }, HTTU_DIRTY, EL1],
    ["VMSAv8-32: sizes, granules, IPS and HTTU are IGNORED", { ...BOTH, AA64: 0, T0SZ: 1, TG0: 3, TG1: 0, IPS: 0, HA: 1 }, LPAE, EL1],
    ["VMSAv8-32 at EL2 without E2H", { ...GOOD, AA64: 0 }, LPAE, SINGLE],
    ["VMSAv8-32 over VMSAv8-32", { ...GOOD, AA64: 0 }, LPAE, { ...EL1, lpaeStage2: true }],
    ["small tables", { ...GOOD, T0SZ: 48 }, STT, EL1],
    ["64K, 52 bits", { ...GOOD, T0SZ: 12, TG0: 1, IPS: 6, TTB0: 2 ** 48 }, WIDE, EL1],
    ["DS", { ...GOOD, T0SZ: 12, DS: 1, IPS: 6, TTB0: 2 ** 48 }, DS, EL1],
    ["TTB0[55:52] are RES0", { ...GOOD, TTB0: 2 ** 52 }, qemuNested, EL1],
    ["ASID at EL2 without E2H", { ...GOOD, ASID: 0x100 }, idr0(1 << 12), SINGLE],
    ["PIE without STE.S1PIE", { ...GOOD, PIE: 1, PIIP: 4 }, S1PI, EL1],
    ["PIIU where there is one privilege", { ...GOOD, PIE: 1, PIIU: 4 }, S1PI, { ...SINGLE, s1pie: true }],
    ["EL2 has no second half", { ...BOTH, TG1: 0 }, reference, { s1Stalld: false, single: true }],
  ])("%s", (_name, values, id, context) => {
    expect(findCdViolation(cd(values), 0, decodeFeatures(id), context)).toBeUndefined();
  });
});

test("5.4.2: the checker agrees with the rules after any legal CD", () => {
  for (const first of [GOOD, BOTH]) {
    for (const [, values, id, context] of ILLEGAL) {
      const features = decodeFeatures(id);
      if (context !== undefined || findCdViolation(cd(first), 0, features, EL1) !== undefined) continue;
      const checker = new CdChecker(features);
      expect(checker.check(cd(first), 0, 0)).toBe(true);
      expect(checker.check(cd(values), 0, 0)).toBe(findCdViolation(cd(values), 0, features, EL1) === undefined);
      expect(checker.check(cd(first), 0, 0)).toBe(true);
      expect(checker.check(cd({ ...first, AA64: 0 }), 0, CD_CONTEXT.E2H)).toBe(false);
    }
  }
});
