import type { RegisterWindow } from "@smmuv3/platform";
import { OFFSET, place, REG } from "@smmuv3/smmu-v3-defs";
import { describe, expect, test } from "vitest";
import { ERRATA, featureMask, probeFeatures, supportsSva } from "../src/index.ts";
import type { CpuFeatures, SmmuFeatures } from "../src/index.ts";

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
      ats: false, pri: false, s2fwb: false, ha: false, hd: false, haft: false, bbml2: false, ds: false, forceSync: false,
      fullContRangeInv: false, ttMixed: false,
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
    ["access flag of tables", { idr0: GOOD.idr0 | place(IDR0.HTTU, 3) }, { ha: true, hd: true, haft: true }],
    ["block sizes change", { idr3: place(IDR3.BBML, 2) }, { bbml2: true, ril: false }],
    ["block sizes change with conflicts", { idr3: place(IDR3.BBML, 1) }, { bbml2: false }],
    ["52 bits with 4K", { idr5: GOOD.idr5 | place(IDR5.DS, 1) }, { ds: true }],
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
    ["MMU-700 r1p0", iidr(0x487, 1, 0), { nesting: false, forceSync: true, fullContRangeInv: true }],
    ["MMU-700 r2p2", iidr(0x487, 2, 2), { nesting: true, forceSync: false, fullContRangeInv: true }],
    ["MMU-600 r0p3", iidr(0x483, 0, 3), { sev: true, nesting: false, fullContRangeInv: false }],
    ["MMU-S3 r0p1", iidr(0x498, 0, 1), { fullContRangeInv: true, nesting: true }],
    ["MMU-S3 r1p0", iidr(0x498, 1, 0), { fullContRangeInv: true }],
    ["MMU-S3 r1p1", iidr(0x498, 1, 1), { fullContRangeInv: false }],
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

describe("supportsSva", () => {
  const CPU: CpuFeatures = { pageSize: 4096, vaBits: 48, paBits: 48, asidBits: 16, bbml2: false, haft: false };
  const large = { idr5: place(IDR5.OAS, 6) | place(IDR5.GRAN64K, 1) | place(IDR5.VAX, 1) };
  test.each<[string, Partial<Ids>, Partial<CpuFeatures>, boolean]>([
    ["a common system", {}, {}, true],
    ["pages that the SMMU has not", {}, { pageSize: 0x1_0000 }, false],
    ["blocks that the SMMU has are no pages", {}, { pageSize: 0x4000 }, false],
    ["more physical addresses", {}, { paBits: 52 }, false],
    ["fewer ASIDs", { idr0: GOOD.idr0 & ~place(IDR0.ASID16, 1) }, {}, false],
    ["CPUs with 8-bit ASIDs", { idr0: GOOD.idr0 & ~place(IDR0.ASID16, 1) }, { asidBits: 8 }, true],
    ["52-bit addresses, 4K", {}, { vaBits: 52 }, false],
    ["52-bit addresses, 64K", large, { vaBits: 52, pageSize: 0x1_0000, paBits: 52 }, true],
    ["52-bit addresses, 64K, not in the SMMU", { idr5: large.idr5 & ~place(IDR5.VAX, 3) }, { vaBits: 52, pageSize: 0x1_0000 }, false],
    ["block sizes change in CPUs only", {}, { bbml2: true }, false],
    ["block sizes change", { idr3: place(IDR3.BBML, 2) }, { bbml2: true }, true],
    ["access flags of tables in CPUs only", { idr0: GOOD.idr0 | place(IDR0.HTTU, 2) }, { haft: true }, false],
    ["access flags of tables", { idr0: GOOD.idr0 | place(IDR0.HTTU, 3) }, { haft: true }, true],
    ["an erratum that needs ranges, without", { idr3: 0, iidr: place(IIDR.Implementer, 0x43b) | place(IIDR.ProductID, 0x487) }, {}, false],
    ["an erratum that needs ranges", { iidr: place(IIDR.Implementer, 0x43b) | place(IIDR.ProductID, 0x487) }, {}, true],
  ])("%s: %#", (_, ids, cpu, expected) => {
    expect(supportsSva(probe(ids), { ...CPU, ...cpu }, true)).toBe(expected);
    expect(supportsSva(probe(ids), { ...CPU, ...cpu }, false)).toBe(false);
  });
});

describe("featureMask", () => {
  const system = { coherent: false, vhe: false, sva: false };
  test("each feature has a bit of its own", () => {
    const one = featureMask(probe({}), system);
    // 2LVL_STRTAB, TT_LE, SEV, TRANS_S1, TRANS_S2, RANGE_INV, NESTING.
    expect(one).toBe((1 << 0) | (1 << 2) | (1 << 6) | (1 << 9) | (1 << 10) | (1 << 15) | (1 << 19));
    expect(featureMask(probe({}), { coherent: true, vhe: true, sva: true })).toBe(one | (1 << 8) | (1 << 17));
  });
  test.each<[string, Partial<Ids>, number]>([
    ["EL2 under a kernel at EL2", { idr0: GOOD.idr0 | place(IDR0.HYP, 1) }, (1 << 12) | (1 << 18)],
    ["ATS and PRI", { idr0: GOOD.idr0 | place(IDR0.ATS, 1) | place(IDR0.PRI, 1) }, (1 << 4) | (1 << 5)],
    ["S2FWB", { idr3: GOOD.idr3 | place(IDR3.FWB, 1) }, 1 << 23],
    ["BBML2", { idr3: GOOD.idr3 | place(IDR3.BBML, 2) }, 1 << 24],
    ["DS", { idr5: GOOD.idr5 | place(IDR5.DS, 1) }, 1 << 26],
    ["HTTU", { idr0: GOOD.idr0 | place(IDR0.HTTU, 3) }, (1 << 21) | (1 << 22) | (1 << 25)],
    ["MSI", { idr0: GOOD.idr0 | place(IDR0.MSI, 1) }, 1 << 7],
    ["overrides", { idr1: GOOD.idr1 | place(IDR1.ATTR_TYPES_OVR, 1) }, 1 << 20],
  ])("%s", (_, ids, bits) => {
    const withVhe = { ...system, vhe: true };
    expect(featureMask(probe(ids), withVhe) ^ featureMask(probe({}), withVhe)).toBe(bits);
  });
});

test("errata name an implementation and what it gets wrong", () => {
  for (const row of ERRATA) {
    expect(row.what.length).toBeGreaterThan(0);
    expect([row.variant, row.revision].every((value) => value >= 0 && value <= 15)).toBe(true);
  }
  // The data of one product do not contradict each other by name.
  const names = new Map(ERRATA.map(({ product, name }) => [product, name]));
  expect(ERRATA.every(({ product, name }) => names.get(product) === name)).toBe(true);
});
