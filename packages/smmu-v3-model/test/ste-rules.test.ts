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
/** An identity with other values of IDR0 fields. */
function idr0(id: IdRegisters, clear: number, set = 0): IdRegisters {
  return { ...id, IDR0: (id.IDR0 & ~clear) | set };
}
function idr3(id: IdRegisters, set: number): IdRegisters {
  return { ...id, IDR3: id.IDR3 | set };
}
const STALLS = idr0(qemuNested, 3 << 24);
const FORCED_STALLS = idr0(qemuNested, 3 << 24, 2 << 24);
const WITH_ATS = idr0(qemuNested, 0, 1 << 10);
const WITH_DPT = idr3(idr0(STALLS, 0, (1 << 10) | (1 << 9)), 1 << 15);
const NO_VMID16 = idr0(qemuNested, 1 << 18);
const HTTU_AF = idr0(qemuNested, 3 << 6, 1 << 6);
const HTTU_DIRTY = idr0(qemuNested, 3 << 6, 2 << 6);
const HTTU_TABLES = idr0(qemuNested, 3 << 6, 3 << 6);
const BIG_ENDIAN = idr0(qemuNested, 3 << 21, 3 << 21);
const BOTH_ENDIAN = idr0(qemuNested, 3 << 21);
/** With VMSAv8-32 LPAE tables as well; the identities of QEMU have none. */
const LPAE = idr0(qemuNested, 3 << 2, 3 << 2);
const LPAE_ONLY = idr0(qemuNested, 3 << 2, 1 << 2);
const NO_16K = { ...qemuNested, IDR5: 0x54 };
const STT = idr3(qemuNested, 1 << 9);
/** 52-bit addresses, without and with DS; and SMMUv3.0. */
const WIDE = { ...qemuNested, IDR5: 0x76 };
const DS = { ...qemuNested, IDR5: 0x76 | (1 << 7) };
const V3_0 = { ...qemuNested, AIDR: 0 };
const MPAM: IdRegisters = { ...idr3(qemuNested, 1 << 7), MPAMIDR: 7 };
const S2POI = { S2PIE: 1, S2POE: 1 } as const;
const OVERLAYS = idr3(qemuNested, (1 << 19) | (1 << 20));
const L2: SteValues = { V: 1, Config: STE_CONFIG.s2, S2T0SZ: 0, S2SL0: 1, S2AA64: 0, S2TTB: 0x4000_0000 };

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
  ["EATS = split needs both stages, S2S = 0 and NS1ATS = 0", { ...S1, EATS: 2 }, WITH_ATS],
  ["EATS = split needs both stages, S2S = 0 and NS1ATS = 0", { ...S2, EATS: 2 }, WITH_ATS],
  ["EATS = split needs both stages, S2S = 0 and NS1ATS = 0", { ...NESTED, EATS: 2, S2S: 1 }, idr0(STALLS, 0, 1 << 10)],
  ["EATS = split needs both stages, S2S = 0 and NS1ATS = 0", { ...NESTED, EATS: 2 }, idr0(WITH_ATS, 0, 1 << 11)],
  ["EATS = full with S2S", { ...S2, EATS: 1, S2S: 1 }, idr0(STALLS, 0, 1 << 10)],
  ["EATS = DPT with S2S", { ...S2, EATS: 3, S2S: 1 }, WITH_DPT],
  ["EATS = DPT outside of EL1", { ...S1, EATS: 3, STRW: 2 }, WITH_DPT],
  ["STRW is reserved", { ...S1, STRW: 1 }, reference],
  ["STRW is reserved", { ...S1, STRW: 3 }, reference],
  ["S1STALLD without the choice of stalling", { ...S1, S1STALLD: 1 }, qemuNested],
  ["S1STALLD without the choice of stalling", { ...S1, S1STALLD: 1 }, FORCED_STALLS],
  ["S1CDMax exceeds SSIDSIZE", { ...S1, S1CDMax: 21 }, reference],
  ["S1Fmt needs 2-level CD tables", { ...S1, S1CDMax: 8, S1Fmt: 1 }, idr0(reference, 1 << 19)],
  ["S1Fmt needs 2-level CD tables", { ...S1, S1CDMax: 8, S1Fmt: 2 }, idr0(reference, 1 << 19)],
  ["S1ContextPtr out of range", { ...S1, S1ContextPtr: 2 ** 44 }, qemuNested],
  ["S1ContextPtr out of range", { ...NESTED, S1ContextPtr: 2 ** 44 }, qemuNested],
  ["S2FWB with VMSAv8-32", { ...L2, S2FWB: 1 }, idr3(LPAE, 1 << 8)],
  ["S2S against STALL_MODEL", { ...S2, S2S: 1 }, qemuNested],
  ["S2S against STALL_MODEL", S2, FORCED_STALLS],
  ["S2AA64 does not match TTF", { ...S2, S2AA64: 0 }, qemuNested],
  ["S2AA64 does not match TTF", S2, LPAE_ONLY],
  ["S2HA or S2HD without HTTU or with VMSAv8-32", { ...S2, S2HA: 1 }, qemuNested],
  ["S2HA or S2HD without HTTU or with VMSAv8-32", { ...S2, S2HD: 1 }, qemuNested],
  ["S2HA or S2HD without HTTU or with VMSAv8-32", { ...L2, S2HA: 1 }, idr0(LPAE, 0, 2 << 6)],
  ["S2HD where only access flags are updated", { ...S2, S2HA: 1, S2HD: 1 }, HTTU_AF],
  ["S2HAFT without S2HA", { ...S2, S2HAFT: 1 }, HTTU_TABLES],
  ["S2TG is reserved or not supported", { ...S2, S2TG: 3 }, qemuNested],
  ["S2TG is reserved or not supported", { ...S2, S2TG: 2, S2SL0: 1, S2T0SZ: 24 }, NO_16K],
  ["S2TTB out of range", { ...S2, S2TTB: 2 ** 44 }, qemuNested],
  ["S2TTB out of range", { ...S2, S2PS: 1, S2TTB: 2 ** 36 }, qemuNested],
  // Above 48 bits with 4K without DS (5.2 S2TTB).
  ["S2TTB out of range", { ...S2, S2PS: 6, S2TTB: 2 ** 48 }, WIDE],
  ["S2TTB out of range", { ...L2, S2TTB: 2 ** 40 }, LPAE],
  ["S2T0SZ out of range", { ...S2, S2T0SZ: 19 }, qemuNested],
  ["S2T0SZ out of range", { ...S2, S2T0SZ: 40, S2SL0: 0 }, qemuNested],
  ["S2T0SZ out of range", { ...S2, S2T0SZ: 49, S2SL0: 3 }, STT],
  ["S2T0SZ out of range", { ...S2, S2T0SZ: 15, S2PS: 6 }, WIDE],
  ["S2T0SZ, S2SL0 and S2TG do not fit", { ...S2, S2T0SZ: 20, S2SL0: 1 }, qemuNested],
  ["S2T0SZ, S2SL0 and S2TG do not fit", { ...S2, S2T0SZ: 39, S2SL0: 2 }, qemuNested],
  ["S2T0SZ, S2SL0 and S2TG do not fit", { ...S2, S2T0SZ: 33, S2SL0: 3 }, qemuNested],
  ["S2T0SZ, S2SL0 and S2TG do not fit", { ...S2, S2T0SZ: 24, S2SL0: 3, S2TG: 1 }, qemuNested],
  ["S2T0SZ, S2SL0 and S2TG do not fit", { ...S2, S2T0SZ: 20, S2SL0: 3, S2TG: 2 }, qemuNested],
  ["S2T0SZ, S2SL0 and S2TG do not fit", { ...S2, S2T0SZ: 12, S2SL0: 1, S2SL0_2: 1, S2DS: 1 }, DS],
  ["S2T0SZ, S2SL0 and S2TG do not fit", { ...L2, S2SL0: 2 }, LPAE],
  ["S2T0SZ, S2SL0 and S2TG do not fit", { ...L2, S2T0SZ: 8, S2SL0: 0 }, LPAE],
  ["S2ENDI against TTENDIAN", { ...S2, S2ENDI: 1 }, qemuNested],
  ["S2ENDI against TTENDIAN", S2, BIG_ENDIAN],
  ["S2PIE with VMSAv8-32", { ...L2, S2PIE: 1 }, idr3(LPAE, 1 << 19)],
  ["S2POE without S2PIE", { ...S2, S2POE: 1 }, OVERLAYS],
  ["S2POE with page-based hardware attributes", { ...S2, ...S2POI, S2HWU60: 1 }, idr3(OVERLAYS, 1 << 3)],
  ["S2POI is reserved", { ...S2, ...S2POI, S2POI: 0x10 }, OVERLAYS],
  ["S2POI is reserved", { ...S2, ...S2POI, S2POI: 0x5_0000_0000 }, OVERLAYS],
  ["S2VMID[15:8] without VMID16", { ...S2, S2VMID: 0x100 }, NO_VMID16],
  ["S2VMID[15:8] without VMID16", { ...S1, S2VMID: 0x100 }, NO_VMID16],
  ["VMSPtr out of range", { ...NESTED, S1MPAM: 1, VMSPtr: 2 ** 44 }, MPAM],
];

describe("ILLEGAL STE (5.2.2)", () => {
  const cases = ILLEGAL.map(([rule, values, id]) => ({
    rule,
    values,
    id,
    section: STE_RULES.find(({ name }) => name === rule)?.section,
  }));
  test.each(cases)("$section: $rule | $values", ({ rule, values, id }) => {
    expect(violation(values, id)).toBe(rule);
  });

  test("every rule has a case", () => {
    const tested = new Set(ILLEGAL.map(([rule]) => rule));
    expect(STE_RULES.map(({ name }) => name).filter((name) => !tested.has(name))).toEqual([]);
  });
});

describe("5.2.2: legal STE", () => {
  test.each<[string, SteValues, IdRegisters]>([
    ["stage 1", S1, qemuNested],
    ["stage 2", S2, qemuNested],
    ["both", NESTED, qemuNested],
    ["bypass", { V: 1, Config: STE_CONFIG.bypass }, qemuNested],
    ["bypass with nonsense", { V: 1, Config: STE_CONFIG.bypass, S2TG: 3, S1STALLD: 1, S2VMID: 0x100, EATS: 2 }, idr0(WITH_ATS, 1 << 18)],
    ["abort with nonsense", { V: 1, Config: STE_CONFIG.abort, S2TG: 3, S1STALLD: 1 }, qemuNested],
    ["Config = 0b010 aborts", { V: 1, Config: 2, S2TG: 3 }, qemuNested],
    ["S1CDMax, S1STALLD with stage 2 only", { ...S2, S1CDMax: 31, S1STALLD: 1, S1ContextPtr: 2 ** 50 }, qemuNested],
    ["S1CDMax where SSIDSIZE is 0", { ...S1, S1CDMax: 5, S1Fmt: 1 }, qemuNested],
    ["S1Fmt = 0b11 behaves as linear", { ...S1, S1CDMax: 8, S1Fmt: 3 }, idr0(reference, 1 << 19)],
    ["S1Fmt without substreams", { ...S1, S1Fmt: 1 }, idr0(reference, 1 << 19)],
    ["stage-2 fields with stage 1 only", { ...S1, S2TG: 3, S2T0SZ: 1, S2ENDI: 1, S2S: 1, S2HA: 1, S2POE: 1 }, OVERLAYS],
    ["S2T0SZ beyond S2PS but within IAS", { ...S2, S2PS: 0 }, qemuNested],
    ["STRW where there is no EL2", { ...S1, STRW: 1 }, qemuNested],
    ["STRW with stage 2", { ...NESTED, STRW: 1 }, reference],
    ["STRW = EL2", { ...S1, STRW: 2 }, reference],
    ["S2VMID of an EL2 stream", { ...S1, STRW: 2, S2VMID: 0x100 }, idr0(reference, 1 << 18)],
    ["EATS where there is no ATS", { ...S1, EATS: 2 }, qemuNested],
    ["EATS = split", { ...NESTED, EATS: 2 }, WITH_ATS],
    ["EATS = full with S2S of a stage that is not used", { ...S1, EATS: 1, S2S: 1 }, WITH_ATS],
    ["EATS = 0b11 without DPT", { ...S1, EATS: 3, S2S: 1 }, WITH_ATS],
    ["S1STALLD with a choice", { ...S1, S1STALLD: 1 }, STALLS],
    ["S2FWB where there is none", { ...L2, S2FWB: 1 }, LPAE],
    ["16 concatenated tables", { ...S2, S2T0SZ: 21, S2SL0: 1 }, qemuNested],
    ["small tables", { ...S2, S2T0SZ: 48, S2SL0: 3 }, STT],
    ["64K", { ...S2, S2T0SZ: 24, S2SL0: 1, S2TG: 1 }, qemuNested],
    ["64K, 52 bits", { ...S2, S2T0SZ: 12, S2SL0: 2, S2TG: 1, S2PS: 6, S2TTB: 2 ** 48 }, WIDE],
    ["DS: level -1", { ...S2, S2T0SZ: 12, S2SL0: 0, S2SL0_2: 1, S2DS: 1, S2PS: 6, S2TTB: 2 ** 48 }, DS],
    ["DS: 16K from level 0", { ...S2, S2T0SZ: 12, S2SL0: 3, S2TG: 2, S2DS: 1, S2PS: 6 }, DS],
    ["S2DS and S2SL0_2 where there is no DS", { ...S2, S2DS: 1, S2SL0_2: 1 }, qemuNested],
    ["S2TTB[55:52] are RES0", { ...S2, S2TTB: 2 ** 52 }, qemuNested],
    ["S2TTB[51:48] are RES0 in SMMUv3.0", { ...S2, S2TTB: 2 ** 48 }, V3_0],
    ["VMSAv8-32: S2TG, S2PS are IGNORED", { ...L2, S2TG: 3, S2PS: 7 }, LPAE],
    ["VMSAv8-32: T0SZ = -8", { ...L2, S2T0SZ: 8 }, LPAE],
    ["VMSAv8-32: T0SZ[5:4] are IGNORED", { ...L2, S2T0SZ: 0x30 }, LPAE],
    ["AF updates", { ...S2, S2HA: 1 }, HTTU_AF],
    ["S2HD without S2HA is as neither", { ...S2, S2HD: 1 }, HTTU_DIRTY],
    ["S2HAFT where it is RES0", { ...S2, S2HAFT: 1 }, HTTU_DIRTY],
    ["either endianness", { ...S2, S2ENDI: 1 }, BOTH_ENDIAN],
    ["overlays", { ...S2, ...S2POI, S2POI: 0x8cf2 }, OVERLAYS],
    ["VMSPtr without S1MPAM", { ...NESTED, VMSPtr: 2 ** 44 }, MPAM],
    ["VMSPtr with one partition", { ...NESTED, S1MPAM: 1, VMSPtr: 2 ** 44 }, { ...MPAM, MPAMIDR: 0 }],
  ])("%s", (_name, values, id) => {
    expect(violation(values, id)).toBeUndefined();
  });
});

test("5.2.2: the checker agrees with the rules after any legal STE", () => {
  for (const first of [S1, S2, NESTED, { V: 1, Config: STE_CONFIG.bypass }]) {
    for (const [, values, id] of ILLEGAL) {
      const features = decodeFeatures(id);
      if (findSteViolation(ste(first), 0, features) !== undefined) continue;
      const checker = new SteChecker(features);
      expect(checker.check(ste(first), 0)).toBe(true);
      expect(checker.check(ste(values), 0)).toBe(findSteViolation(ste(values), 0, features) === undefined);
      expect(checker.check(ste(first), 0)).toBe(true);
    }
  }
});
