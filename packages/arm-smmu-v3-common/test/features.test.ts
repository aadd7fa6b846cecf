import type { RegisterWindow } from "@smmuv3/platform";
import { OFFSET, place, REG } from "@smmuv3/smmu-v3-defs";
import { describe, expect, test } from "vitest";
import { probeFeatures } from "../src/index.ts";
import type { SmmuFeatures } from "../src/index.ts";

const { IDR0, IDR1, IDR3, IDR5, IIDR } = REG;

interface Ids {
  readonly idr0: number;
  readonly idr1: number;
  readonly idr3: number;
  readonly idr5: number;
  readonly iidr: number;
}

const GOOD: Ids = {
  idr0:
    place(IDR0.S1P, 1) | place(IDR0.S2P, 1) | place(IDR0.TTF, 2) | place(IDR0.COHACC, 1) | place(IDR0.TTENDIAN, 2) |
    place(IDR0.ST_LEVEL, 1) | place(IDR0.ASID16, 1) | place(IDR0.SEV, 1) | place(IDR0.STALL_MODEL, 1),
  idr1: place(IDR1.SIDSIZE, 16) | place(IDR1.SSIDSIZE, 5) | place(IDR1.CMDQS, 8) | place(IDR1.EVENTQS, 7),
  idr3: place(IDR3.RIL, 1),
  idr5: place(IDR5.OAS, 5) | place(IDR5.GRAN4K, 1),
  iidr: 0,
};

function windowOf(ids: Ids): RegisterWindow {
  const values = new Map<number, number>([
    [OFFSET.IDR0, ids.idr0], [OFFSET.IDR1, ids.idr1], [OFFSET.IDR3, ids.idr3], [OFFSET.IDR5, ids.idr5],
    [OFFSET.IIDR, ids.iidr],
  ]);
  const refuse = (): never => {
    throw new Error("ID registers are 32 bits wide and read-only");
  };
  return {
    hi: 0, write32: refuse, write64: refuse, read64: refuse,
    read32: (offset) => values.get(offset) ?? refuse(),
  };
}

function probe(change: Partial<Ids>): SmmuFeatures {
  const features = probeFeatures(windowOf({ ...GOOD, ...change }));
  if ("error" in features) throw new Error(features.reason);
  return features;
}

describe("probeFeatures", () => {
  test("a common implementation", () => {
    expect(probe({})).toEqual({
      sidBits: 16, ssidBits: 5, oas: 48, vaBits: 48, pgsizeBitmap: 0x4020_1000, strtab2lvl: true, cd2lvl: false, s1: true,
      s2: true, nesting: true, ril: true, sev: true, msi: false, stalls: false, stallForce: false, attrTypesOvr: false,
      attrPermsOvr: false, asidBits: 16, vmidBits: 8, cmdqLog2: 8, evtqLog2: 7, priqLog2: 0, coherent: true, hyp: false,
      ats: false, pri: false, s2fwb: false, ha: false, hd: false, forceSync: false,
    });
  });

  test.each<[string, Partial<Ids>, Partial<SmmuFeatures>]>([
    ["few streams need one level", { idr1: place(IDR1.SIDSIZE, 8) }, { strtab2lvl: false }],
    ["nine bits need two", { idr1: place(IDR1.SIDSIZE, 9) }, { strtab2lvl: true }],
    ["linear only", { idr0: GOOD.idr0 & ~place(IDR0.ST_LEVEL, 3) }, { strtab2lvl: false }],
    ["stage 1 only", { idr0: GOOD.idr0 & ~place(IDR0.S2P, 1) }, { s2: false, nesting: false }],
    ["stalling", { idr0: GOOD.idr0 & ~place(IDR0.STALL_MODEL, 3) }, { stalls: true, stallForce: false }],
    [
      "forced stalling",
      { idr0: (GOOD.idr0 & ~place(IDR0.STALL_MODEL, 3)) | place(IDR0.STALL_MODEL, 2) },
      { stalls: true, stallForce: true },
    ],
    ["dirty state", { idr0: GOOD.idr0 | place(IDR0.HTTU, 2) }, { ha: true, hd: true }],
    ["access flag", { idr0: GOOD.idr0 | place(IDR0.HTTU, 1) }, { ha: true, hd: false }],
    [
      "52 bits with 64K granules",
      { idr5: place(IDR5.OAS, 6) | place(IDR5.GRAN64K, 1) | place(IDR5.VAX, 1) },
      { oas: 52, vaBits: 52, pgsizeBitmap: 2 ** 42 + 0x2001_0000 },
    ],
    ["16K granules", { idr5: place(IDR5.OAS, 2) | place(IDR5.GRAN16K, 1) }, { oas: 40, pgsizeBitmap: 0x200_4000 }],
    ["a reserved OAS", { idr5: place(IDR5.OAS, 7) | place(IDR5.GRAN4K, 1) }, { oas: 48 }],
  ])("%s", (_, change, expected) => {
    expect(probe(change)).toMatchObject(expected);
  });

  const iidr = (product: number, variant: number, revision: number): number =>
    place(IIDR.Implementer, 0x43b) | place(IIDR.ProductID, product) | place(IIDR.Variant, variant) |
    place(IIDR.Revision, revision);
  test.each([
    ["MMU-600 r0p0", iidr(0x483, 0, 0), { sev: false, nesting: false, forceSync: false }],
    ["MMU-600 r1p0", iidr(0x483, 1, 0), { sev: true, nesting: false, forceSync: false }],
    ["MMU-600 r2p0", iidr(0x483, 2, 0), { sev: true, nesting: true, forceSync: false }],
    ["MMU-700 r0p0", iidr(0x487, 0, 0), { sev: true, nesting: false, forceSync: true }],
    ["MMU-700 r1p1", iidr(0x487, 1, 1), { sev: true, nesting: true, forceSync: false }],
    ["another maker", iidr(0x487, 0, 0) ^ 1, { nesting: true, forceSync: false }],
  ])("erratum: %s", (_, value, expected) => {
    expect(probe({ iidr: value })).toMatchObject(expected);
  });

  test.each([
    ["big endian only", { idr0: GOOD.idr0 | place(IDR0.TTENDIAN, 3) }, /TTENDIAN/],
    ["no stage", { idr0: GOOD.idr0 & ~3 }, /no translation/],
    ["AArch32 tables only", { idr0: (GOOD.idr0 & ~place(IDR0.TTF, 3)) | place(IDR0.TTF, 1) }, /AArch64/],
    ["preset tables", { idr1: GOOD.idr1 | place(IDR1.TABLES_PRESET, 1) }, /embedded/],
    ["preset queues", { idr1: GOOD.idr1 | place(IDR1.QUEUES_PRESET, 1) }, /embedded/],
    ["relative base", { idr1: GOOD.idr1 | place(IDR1.REL, 1) }, /embedded/],
  ])("refused: %s", (_, change, reason) => {
    const result = probeFeatures(windowOf({ ...GOOD, ...change }));
    expect(result).toMatchObject({ error: -6, reason: expect.stringMatching(reason) as string });
  });
});
