import { describe, expect, test } from "vitest";
import { setAddress, setField, STE, STE_CONFIG, STE_WORDS } from "@smmuv3/smmu-v3-defs";
import { decodeFeatures, findSteViolation, PRESETS, STE_RULES } from "../src/index.ts";
import type { IdRegisters } from "../src/index.ts";
import { SteChecker } from "../src/ste-rules.ts";
import type { SteValues } from "./rig.ts";

const { reference, qemuNested, qemuStage1, qemuStage2 } = PRESETS;
const S1: SteValues = { V: 1, Config: STE_CONFIG.s1, S1ContextPtr: 0x4000_0000 };
const STAGE2: SteValues = { S2T0SZ: 20, S2SL0: 2, S2PS: 4, S2AA64: 1, S2TTB: 0x4000_0000 };
const S2: SteValues = { V: 1, Config: STE_CONFIG.s2, ...STAGE2 };
const NESTED: SteValues = { ...S1, ...STAGE2, Config: STE_CONFIG.nested };
/** The reference with other values of IDR0 fields. */
function idr0(id: IdRegisters, clear: number, set = 0): IdRegisters {
  return { ...id, IDR0: (id.IDR0 & ~clear) | set };
}
const STALLS = idr0(qemuNested, 3 << 24);
const FORCED_STALLS = idr0(qemuNested, 3 << 24, 2 << 24);
const WITH_ATS = idr0(qemuNested, 0, 1 << 10);
const NO_VMID16 = idr0(qemuNested, 1 << 18);
const HTTU = idr0(qemuNested, 0, 1 << 6);
const BIG_ENDIAN = idr0(qemuNested, 3 << 21, 3 << 21);
const NO_16K = { ...qemuNested, IDR5: 0x54 };
const STT = { ...qemuNested, IDR3: qemuNested.IDR3 | (1 << 9) };

function ste(values: SteValues): Int32Array {
  const words = new Int32Array(STE_WORDS);
  for (const [name, value] of Object.entries(values)) {
    const field = STE[name as keyof typeof STE];
    if ("loMask" in field) setAddress(words, 0, field, value);
    else setField(words, 0, field, value);
  }
  return words;
}

function violation(values: SteValues, id: IdRegisters): string | undefined {
  return findSteViolation(ste(values), 0, decodeFeatures(id))?.name;
}

/** [name of the rule, STE, SMMU] */
const ILLEGAL: readonly (readonly [rule: string, values: SteValues, id: IdRegisters])[] = [
  ["V = 0", { ...S1, V: 0 }, reference],
  ["V = 0", { V: 0, Config: STE_CONFIG.abort }, reference],
  ["stage 1 is not implemented", S1, qemuStage2],
  ["stage 1 is not implemented", NESTED, qemuStage2],
  ["stage 2 is not implemented", S2, qemuStage1],
  ["stage 2 is not implemented", NESTED, qemuStage1],
  ["STRW is reserved or needs EL2", { ...S1, STRW: 1 }, reference],
  ["STRW is reserved or needs EL2", { ...S1, STRW: 3 }, reference],
  ["EATS = split needs both stages and S2S = 0", { ...S1, EATS: 2 }, WITH_ATS],
  ["EATS = full with S2S", { ...S2, EATS: 1, S2S: 1 }, idr0(STALLS, 0, 1 << 10)],
  ["S1STALLD without the choice of stalling", { ...S1, S1STALLD: 1 }, reference],
  ["S1CDMax exceeds SSIDSIZE", { ...S1, S1CDMax: 21 }, reference],
  ["S1Fmt needs 2-level CD tables", { ...S1, S1CDMax: 8, S1Fmt: 1 }, idr0(reference, 1 << 19)],
  ["S1Fmt needs 2-level CD tables", { ...S1, S1CDMax: 8, S1Fmt: 3 }, reference],
  ["S1ContextPtr out of range", { ...S1, S1ContextPtr: 2 ** 44 }, qemuNested],
  ["S2AA64 does not match TTF", { ...S2, S2AA64: 0 }, qemuNested],
  ["S2S against STALL_MODEL", { ...S2, S2S: 1 }, qemuNested],
  ["S2S against STALL_MODEL", S2, FORCED_STALLS],
  ["S2HA or S2HD beyond HTTU", { ...S2, S2HA: 1 }, qemuNested],
  ["S2HA or S2HD beyond HTTU", { ...S2, S2HA: 1, S2HD: 1 }, HTTU],
  ["S2TG is reserved or not supported", { ...S2, S2TG: 3 }, qemuNested],
  ["S2TG is reserved or not supported", { ...S2, S2TG: 2, S2SL0: 1, S2T0SZ: 24 }, NO_16K],
  ["S2T0SZ out of range", { ...S2, S2T0SZ: 19 }, qemuNested],
  ["S2T0SZ out of range", { ...S2, S2T0SZ: 40, S2SL0: 0 }, qemuNested],
  ["S2T0SZ out of range", { ...S2, S2T0SZ: 49, S2SL0: 3 }, STT],
  ["S2T0SZ, S2SL0 and S2TG do not fit", { ...S2, S2T0SZ: 20, S2SL0: 1 }, qemuNested],
  ["S2T0SZ, S2SL0 and S2TG do not fit", { ...S2, S2T0SZ: 39, S2SL0: 2 }, qemuNested],
  ["S2T0SZ, S2SL0 and S2TG do not fit", { ...S2, S2T0SZ: 33, S2SL0: 3 }, qemuNested],
  ["S2T0SZ, S2SL0 and S2TG do not fit", { ...S2, S2T0SZ: 24, S2SL0: 3, S2TG: 1 }, qemuNested],
  ["S2TTB out of range", { ...S2, S2TTB: 2 ** 44 }, qemuNested],
  ["S2TTB out of range", { ...S2, S2PS: 1, S2TTB: 2 ** 36 }, qemuNested],
  ["S2ENDI against TTENDIAN", { ...S2, S2ENDI: 1 }, qemuNested],
  ["S2ENDI against TTENDIAN", S2, BIG_ENDIAN],
  ["S2VMID[15:8] without VMID16", { ...S2, S2VMID: 0x100 }, NO_VMID16],
];

describe("ILLEGAL", () => {
  test.each(ILLEGAL)("%s: %j", (rule, values, id) => {
    expect(violation(values, id)).toBe(rule);
  });

  test("every rule has a case", () => {
    const tested = new Set(ILLEGAL.map(([rule]) => rule));
    expect(STE_RULES.map(({ name }) => name).filter((name) => !tested.has(name))).toEqual([]);
  });
});

describe("legal: fields of a stage that is not used are IGNORED", () => {
  test.each<[string, SteValues, IdRegisters]>([
    ["stage 1", S1, qemuNested],
    ["stage 2", S2, qemuNested],
    ["both", NESTED, qemuNested],
    ["bypass", { V: 1, Config: STE_CONFIG.bypass }, qemuNested],
    ["abort with nonsense", { V: 1, Config: STE_CONFIG.abort, S2TG: 3, S1STALLD: 1 }, qemuNested],
    ["S1CDMax, S1STALLD with stage 2 only", { ...S2, S1CDMax: 31, S1STALLD: 1, S1ContextPtr: 2 ** 50 }, qemuNested],
    ["S1CDMax where SSIDSIZE is 0", { ...S1, S1CDMax: 5, S1Fmt: 1 }, qemuNested],
    ["stage-2 fields with stage 1 only", { ...S1, S2TG: 3, S2T0SZ: 1, S2ENDI: 1, S2S: 1 }, qemuNested],
    ["S2T0SZ beyond S2PS but within IAS", { ...S2, S2PS: 0 }, qemuNested],
    ["STRW where there is no EL2", { ...S1, STRW: 1 }, qemuNested],
    ["STRW with stage 2", { ...NESTED, STRW: 1 }, reference],
    ["STRW = EL2", { ...S1, STRW: 2 }, reference],
    ["EATS where there is no ATS", { ...S1, EATS: 2 }, qemuNested],
    ["S1STALLD with a choice", { ...S1, S1STALLD: 1 }, STALLS],
    ["16 concatenated tables", { ...S2, S2T0SZ: 21, S2SL0: 1 }, qemuNested],
    ["small tables", { ...S2, S2T0SZ: 48, S2SL0: 3 }, STT],
    ["64K", { ...S2, S2T0SZ: 24, S2SL0: 1, S2TG: 1 }, qemuNested],
    ["AF updates", { ...S2, S2HA: 1 }, HTTU],
  ])("%s", (_name, values, id) => {
    expect(violation(values, id)).toBeUndefined();
  });
});

test("the checker agrees with the rules after any legal STE", () => {
  const features = decodeFeatures(qemuNested);
  for (const first of [S1, S2, NESTED, { V: 1, Config: STE_CONFIG.bypass }]) {
    for (const [, values] of ILLEGAL) {
      const checker = new SteChecker(features);
      expect(checker.check(ste(first), 0)).toBe(true);
      expect(checker.check(ste(values), 0)).toBe(findSteViolation(ste(values), 0, features) === undefined);
      expect(checker.check(ste(first), 0)).toBe(true);
    }
  }
});
