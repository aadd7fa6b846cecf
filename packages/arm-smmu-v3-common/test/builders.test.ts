import { CD, CD_WORDS, getAddress, getField, L1CD, setField, STE, STE_WORDS } from "@smmuv3/smmu-v3-defs";
import type { Field } from "@smmuv3/smmu-v3-defs";
import { describe, expect, test } from "vitest";
import {
  addStage2,
  checkVste,
  makeAbortSte,
  makeBypassSte,
  makeCdtableSte,
  makeL1Cd,
  makeNestedSte,
  makeS1Cd,
  makeS2Ste,
  makeSvaCd,
  VSTE_WORDS,
  vtcrBits,
} from "../src/index.ts";

/** All fields of a structure that are not zero, addresses apart. */
function fieldsOf(table: object, words: Int32Array): Record<string, number> {
  const values = Object.values(table as Record<string, Field>)
    .filter((field) => "mask" in field)
    .map((field) => [field.name, getField(words, 0, field)] as const);
  return Object.fromEntries(values.filter(([, value]) => value !== 0));
}

const dirty = (): Int32Array => new Int32Array(STE_WORDS).fill(-1);
const PLAIN = { attrTypesOvr: false };
const OVR = { attrTypesOvr: true };
const TABLE = { pa: 0x12_3456_7840, s1fmt: 0, s1cdmax: 10, s1dss: 2, stallDisable: false };
const VTCR = { ps: 5, tg: 1, sh: 3, orgn: 1, irgn: 1, sl: 2, tsz: 16 };
const S2 = { ttb: 0x5_6789_a000, vtcr: vtcrBits(VTCR), vmid: 0xabc };
const S2_FIELDS = {
  S2VMID: 0xabc, S2T0SZ: 16, S2SL0: 2, S2IR0: 1, S2OR0: 1, S2SH0: 3, S2TG: 1, S2PS: 5, S2AA64: 1, S2PTW: 1, S2R: 1,
};
const S1_FIELDS = { V: 1, Config: 5, S1CDMax: 10, S1DSS: 2, S1CIR: 1, S1COR: 1, S1CSH: 3 };

describe("STE builders start from zero and set", () => {
  test.each([
    ["abort", makeAbortSte, { V: 1 }],
    ["bypass", (s: Int32Array) => { makeBypassSte(s, false); }, { V: 1, Config: 4 }],
    ["bypass with overrides", (s: Int32Array) => { makeBypassSte(s, true); }, { V: 1, Config: 4, SHCFG: 1 }],
    ["cdtable", (s: Int32Array) => { makeCdtableSte(s, TABLE, OVR); }, S1_FIELDS],
    [
      "cdtable with stalling hardware",
      (s: Int32Array) => { makeCdtableSte(s, { ...TABLE, stallDisable: true }, PLAIN); },
      { ...S1_FIELDS, S1STALLD: 1 },
    ],
    [
      "cdtable of a stalling stream",
      (s: Int32Array) => { makeCdtableSte(s, { ...TABLE, stallDisable: true }, { ...PLAIN, stall: true }); },
      S1_FIELDS,
    ],
    [
      "cdtable, S1DSS bypass",
      (s: Int32Array) => { makeCdtableSte(s, { ...TABLE, s1dss: 1 }, OVR); },
      { ...S1_FIELDS, S1DSS: 1, SHCFG: 1 },
    ],
    [
      "cdtable, E2H, ATS, INSTCFG",
      (s: Int32Array) => { makeCdtableSte(s, { ...TABLE, e2h: true }, { ...PLAIN, ats: true, instcfgData: true }); },
      { ...S1_FIELDS, STRW: 2, EATS: 1, INSTCFG: 2 },
    ],
    ["s2", (s: Int32Array) => { makeS2Ste(s, S2, PLAIN); }, { V: 1, Config: 6, ...S2_FIELDS }],
    [
      "s2 with everything",
      (s: Int32Array) => { makeS2Ste(s, S2, { ...OVR, ats: true, stall: true, instcfgData: true }, true); },
      { V: 1, Config: 6, ...S2_FIELDS, SHCFG: 1, EATS: 1, S2S: 1, INSTCFG: 2, S2FWB: 1 },
    ],
  ])("%s", (_, build, fields) => {
    const ste = dirty();
    build(ste);
    expect(fieldsOf(STE, ste)).toEqual(fields);
    expect(getAddress(ste, 0, STE.S1ContextPtr)).toBe("S1CDMax" in fields ? TABLE.pa : 0);
    expect(getAddress(ste, 0, STE.S2TTB)).toBe("S2VMID" in fields ? S2.ttb : 0);
    expect([...ste.subarray(8)]).toEqual(new Array<number>(8).fill(0));
  });
});

describe("addStage2", () => {
  const apply = (build: (ste: Int32Array) => void): [boolean, Int32Array] => {
    const ste = new Int32Array(STE_WORDS);
    build(ste);
    return [addStage2(ste, S2), ste];
  };
  test("bypass becomes stage 2", () => {
    const [done, ste] = apply((s) => { makeBypassSte(s, true); });
    expect([done, fieldsOf(STE, ste)]).toEqual([true, { V: 1, Config: 6, SHCFG: 1, ...S2_FIELDS }]);
  });
  test("stage 1 becomes nested, and what the host said of stage 2 is gone", () => {
    const [done, ste] = apply((s) => {
      makeCdtableSte(s, TABLE, PLAIN);
      s.fill(-1, 4, 8);
    });
    expect([done, fieldsOf(STE, ste)]).toEqual([true, { ...S1_FIELDS, Config: 7, ...S2_FIELDS }]);
    expect(getAddress(ste, 0, STE.S1ContextPtr)).toBe(TABLE.pa);
    expect(getAddress(ste, 0, STE.S2TTB)).toBe(S2.ttb);
  });
  test("abort stays abort", () => {
    const [done, ste] = apply(makeAbortSte);
    expect([done, fieldsOf(STE, ste)]).toEqual([true, { V: 1 }]);
  });
  test.each([["invalid", 0], ["stage 2", 1 | (6 << 1)], ["nested", 1 | (7 << 1)], ["reserved", 1 | (1 << 1)]])(
    "%s is refused and unchanged",
    (_, word0) => {
      const [done, ste] = apply((s) => { s[0] = word0; });
      expect([done, ste[0], ste[4]]).toEqual([false, word0, 0]);
    },
  );
});

describe("nested", () => {
  const EIO = -5;
  /** A guest's STE: stage 1 with `fields` changed. */
  const vste = (fields: Partial<Record<keyof typeof STE, number>> = {}): Int32Array => {
    const ste = new Int32Array(STE_WORDS);
    makeCdtableSte(ste, TABLE, PLAIN);
    for (const [name, value] of Object.entries(fields)) setField(ste, 0, STE[name as keyof typeof STE] as Field<"STE">, value);
    return ste.slice(0, VSTE_WORDS);
  };

  test.each<[string, Int32Array, object]>([
    ["stage 1", vste(), { config: 5, ats: false }],
    ["stage 1 with ATS", vste({ EATS: 1 }), { config: 5, ats: true }],
    ["bypass", vste({ Config: 4 }), { config: 4, ats: false }],
    ["bypass has no ATS", vste({ Config: 4, EATS: 1 }), { config: 4, ats: false }],
    ["abort", vste({ Config: 0 }), { config: 0, ats: false }],
    ["S1STALLD is the guest's", vste({ S1STALLD: 1 }), { config: 5, ats: false }],
  ])("checkVste: %s", (_, words, result) => {
    expect(checkVste(words)).toEqual(result);
    expect(getField(words, 0, STE.EATS)).toBe(0);
    expect(getField(words, 0, STE.V)).toBe(1);
  });

  test("checkVste: of an invalid one nothing is left", () => {
    const words = vste({ V: 0, STRW: 2, Config: 7 });
    expect(checkVste(words)).toEqual({ config: 0, ats: false });
    expect([...words]).toEqual([0, 0, 0, 0]);
  });

  test.each<[string, Int32Array]>([
    ["stage 2", vste({ Config: 6 })],
    ["both stages", vste({ Config: 7 })],
    ["a reserved Config", vste({ Config: 1 })],
    ["split-stage ATS", vste({ EATS: 2 })],
    ["reserved EATS", vste({ EATS: 3 })],
    ["STRW", vste({ STRW: 2 })],
    ["SHCFG", vste({ SHCFG: 1 })],
    ["MEV", vste({ MEV: 1 })],
    ["INSTCFG", vste({ INSTCFG: 2 })],
    ["S2FWB", vste({ S2FWB: 1 })],
    ["a pointer beyond 52 bits", Int32Array.of(1 | (5 << 1), 1 << 20, 0, 0)],
    ["a bit between S1ContextPtr and S1CDMax", Int32Array.of(1 | (5 << 1), 1 << 25, 0, 0)],
  ])("checkVste refuses %s, which stays as it is", (_, words) => {
    const before = words.slice();
    expect(checkVste(words)).toBe(EIO);
    expect(words).toEqual(before);
  });

  const made = (words: Int32Array, options: object = PLAIN, fwb: boolean = false): Int32Array => {
    const ste = dirty();
    expect(typeof checkVste(words)).toBe("object");
    makeNestedSte(ste, words, S2, { ...PLAIN, ...options }, fwb);
    return ste;
  };

  test("stage 1 over stage 2", () => {
    const ste = made(vste({ S1STALLD: 1 }), { attrTypesOvr: true, ats: true, stall: true }, true);
    expect(fieldsOf(STE, ste)).toEqual({
      ...S1_FIELDS, ...S2_FIELDS, Config: 7, MEV: 1, EATS: 1, S1STALLD: 1, S2S: 1, S2FWB: 1, SHCFG: 1,
    });
    expect([getAddress(ste, 0, STE.S1ContextPtr), getAddress(ste, 0, STE.S2TTB)]).toEqual([TABLE.pa, S2.ttb]);
    // The guest's wish for ATS is not in it by itself.
    expect(getField(made(vste({ EATS: 1 })), 0, STE.EATS)).toBe(0);
  });
  test("bypass is stage 2 alone", () => {
    expect(fieldsOf(STE, made(vste({ Config: 4 }), { ats: true }))).toEqual({ V: 1, Config: 6, EATS: 1, ...S2_FIELDS });
  });
  test.each([["abort", vste({ Config: 0 })], ["invalid", vste({ V: 0 })]])("%s is abort", (_, words) => {
    expect(fieldsOf(STE, made(words, { ats: true }))).toEqual({ V: 1 });
  });
});

describe("CD builders", () => {
  const tcr = { ips: 4, tg: 2, sh: 3, orgn: 1, irgn: 2, tsz: 25 };
  const s1 = { ttb: 0x7_1234_5000, tcr, mairLo: 0x0bad_f00d, mairHi: 0x1234_5678, asid: 0xbeef, stall: false, dirty: false };
  const fields = {
    T0SZ: 25, TG0: 2, IR0: 2, OR0: 1, SH0: 3, EPD1: 1, V: 1, IPS: 4, AA64: 1, R: 1, A: 1, ASET: 1, ASID: 0xbeef,
    MAIR0: 0x0bad_f00d, MAIR1: 0x1234_5678,
  };
  test.each([
    ["plain", {}, {}],
    ["stalling", { stall: true }, { S: 1 }],
    ["with dirty state", { dirty: true }, { HA: 1, HD: 1 }],
  ])("%s", (_, change, more) => {
    const cd = new Int32Array(CD_WORDS).fill(-1);
    makeS1Cd(cd, { ...s1, ...change });
    expect(fieldsOf(CD, cd)).toEqual({ ...fields, ...more });
    expect(getAddress(cd, 0, CD.TTB0)).toBe(s1.ttb);
  });
  const sva = { asid: 0xbeef, ips: 5, mairLo: 0x0bad_f00d, mairHi: 0x1234_5678, stall: true, stallForce: false, ha: false, hd: false, haft: false };
  const mm = { ttb: 0x7_1234_5000, vaBits: 47, tg: 1 };
  const common = { EPD1: 1, V: 1, IPS: 5, AA64: 1, A: 1, ASET: 1, ASID: 0xbeef, MAIR0: 0x0bad_f00d, MAIR1: 0x1234_5678 };
  const walked = { ...common, T0SZ: 17, TG0: 1, IR0: 1, OR0: 1, SH0: 3, R: 1 };
  test.each<[string, object, typeof mm | undefined, object]>([
    ["SVA", {}, mm, { ...walked, S: 1 }],
    ["SVA that does not stall", { stall: false }, mm, walked],
    ["SVA with HTTU", { ha: true, hd: true, haft: true }, mm, { ...walked, S: 1, HA: 1, HD: 1, HAFT: 1 }],
    ["SVA released", {}, undefined, { ...common, EPD0: 1 }],
    ["SVA released where all streams stall", { stallForce: true }, undefined, { ...common, EPD0: 1, R: 1, S: 1 }],
    ["SVA released with HTTU", { ha: true, haft: true }, undefined, { ...common, EPD0: 1, HA: 1, HAFT: 1 }],
  ])("%s", (_, change, space, expected) => {
    const cd = new Int32Array(CD_WORDS).fill(-1);
    makeSvaCd(cd, { ...sva, ...change }, space);
    expect(fieldsOf(CD, cd)).toEqual(expected);
    expect(getAddress(cd, 0, CD.TTB0)).toBe(space === undefined ? 0 : mm.ttb);
  });
  test("level-1 descriptor", () => {
    const desc = new Int32Array(2).fill(-1);
    makeL1Cd(desc, 0x3_2100_5000);
    expect([getField(desc, 0, L1CD.V), getAddress(desc, 0, L1CD.L2Ptr)]).toEqual([1, 0x3_2100_5000]);
  });
});
