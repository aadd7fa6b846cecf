import { CD, getField, setField, STE, STE_EATS, STE_S1DSS, STE_WORDS } from "@smmuv3/smmu-v3-defs";
import { describe, expect, test } from "vitest";
import {
  cdUsed,
  clearCd,
  makeAbortSte,
  makeBypassSte,
  makeCdtableSte,
  makeS1Cd,
  makeS2Ste,
  addStage2,
  steSafe,
  steUsed,
} from "../src/index.ts";
import type { UsedBits } from "../src/index.ts";
import { acts, make, run } from "./writer.ts";
import type { Entry } from "./writer.ts";

interface CdtableCase {
  readonly s1dss?: number;
  readonly ats?: boolean;
  readonly stall?: boolean;
  readonly pa?: number;
}
const cdtable = (c: CdtableCase = {}): Entry =>
  make((ste) => {
    makeCdtableSte(
      ste,
      { pa: c.pa ?? 0xdead_beef_0000 / 16, s1fmt: 0, s1cdmax: 0, s1dss: c.s1dss ?? STE_S1DSS.ssid0, stallDisable: true },
      { attrTypesOvr: true, ats: c.ats ?? false, stall: c.stall ?? false },
    );
  });
const S2 = { ttb: 0x1_2345_6000, vtcr: 0x5_3558, vmid: 0 };
const s2 = (ats = false, stall = false, vmid = 0): Entry =>
  make((ste) => {
    makeS2Ste(ste, { ...S2, vmid }, { attrTypesOvr: true, ats, stall });
  });
const abort = make(makeAbortSte);
const bypass = make((ste) => {
  makeBypassSte(ste, true);
});
const nested = make((ste) => {
  ste.set(cdtable({ s1dss: STE_S1DSS.bypass, ats: true }));
  addStage2(ste, S2);
  setField(ste, 0, STE.MEV, 1);
});
const tcr = { ips: 5, tg: 0, sh: 3, orgn: 1, irgn: 1, tsz: 16 };
const cd = (asid: number, ttb = 0x8765_4000): Entry =>
  make((words) => {
    makeS1Cd(words, { ttb, tcr, mairLo: 0x0444_ff44, mairHi: 0, asid, stall: false, dirty: false });
  });
const noCd = make(clearCd);
const cdWithoutTable = make((words) => {
  makeS1Cd(words, {
    ...{ ttb: 0, mairLo: 0x0444_ff44, mairHi: 0, asid: 778, stall: false, dirty: false },
    tcr: { ips: 5, tg: 0, sh: 0, orgn: 0, irgn: 0, tsz: 0 },
  });
  setField(words, 0, CD.EPD0, 1);
});

interface Case {
  readonly name: string;
  readonly from: Entry;
  readonly to: Entry;
  readonly there: number;
  readonly back: number;
  readonly hitless: boolean;
  readonly used?: UsedBits;
}

const CASES: Case[] = [
  { name: "bypass, abort", from: bypass, to: abort, there: 2, back: 2, hitless: true },
  { name: "cdtable with ATS, abort", from: cdtable({ ats: true }), to: abort, there: 2, back: 2, hitless: true },
  { name: "cdtable, bypass", from: cdtable(), to: bypass, there: 3, back: 3, hitless: true },
  {
    name: "cdtable SSID0, cdtable BYPASS",
    from: cdtable(), to: cdtable({ s1dss: STE_S1DSS.bypass }), there: 1, back: 1, hitless: true,
  },
  {
    name: "cdtable S1DSS bypass, bypass",
    from: cdtable({ s1dss: STE_S1DSS.bypass }), to: bypass, there: 2, back: 2, hitless: true,
  },
  { name: "s2 with ATS, abort", from: s2(true), to: abort, there: 2, back: 2, hitless: true },
  { name: "s2, bypass", from: s2(), to: bypass, there: 2, back: 2, hitless: true },
  { name: "s1, s2, both with ATS", from: cdtable({ ats: true }), to: s2(true), there: 3, back: 3, hitless: true },
  { name: "s1, s2, stalling", from: cdtable({ stall: true }), to: s2(false, true), there: 3, back: 3, hitless: true },
  // S2VMID tags the TLB entries of stage 1 too, so it cannot change with Config in one store.
  { name: "s1, s2 with a VMID", from: cdtable(), to: s2(false, false, 7), there: 3, back: 3, hitless: false },
  { name: "nested with ATS and MEV, s2 without", from: nested, to: s2(), there: 3, back: 2, hitless: true },
  { name: "CD: invalid, s1", from: noCd, to: cd(778), there: 2, back: 2, hitless: true, used: cdUsed },
  { name: "CD: other ASID", from: cd(778), to: cd(1997), there: 1, back: 1, hitless: true, used: cdUsed },
  { name: "CD: tables disabled", from: cd(778), to: cdWithoutTable, there: 2, back: 2, hitless: true, used: cdUsed },
  { name: "CD: other ASID and table", from: cd(1), to: cd(2, 0x9000_0000), there: 3, back: 3, hitless: false, used: cdUsed },
];

const DIRECTIONS = CASES.flatMap((c) => [
  { ...c, name: `${c.name}: there`, syncs: c.there },
  { ...c, name: `${c.name}: back`, from: c.to, to: c.from, syncs: c.back },
]);

describe("writeEntry", () => {
  test.each(DIRECTIONS)("$name", ({ from, to, syncs, hitless, used }) => {
    const isSte = used === undefined;
    const rules = used ?? steUsed;
    const result = run(from, to, rules, isSte);
    expect(result.status).toBe(syncs);
    expect(result.final).toEqual(to);
    const safe = new Int32Array(STE_WORDS);
    if (isSte) steSafe(from, to, safe);
    const mixed = result.images.filter((image) => !acts(image, from, rules, safe) && !acts(image, to, rules, safe));
    // Neither old nor new: only while invalid.
    const valid = isSte ? STE.V : CD.V;
    expect(mixed.length === 0).toBe(hitless);
    for (const image of mixed) expect(getField(image, 0, valid)).toBe(0);
  });

  test("a change of pointer and S1DSS together passes through V = 0", () => {
    const to = cdtable({ s1dss: STE_S1DSS.bypass, pa: 0x7000_0000 });
    const { status, images } = run(cdtable(), to, steUsed, true);
    expect(status).toBe(3);
    expect(images.some((image) => getField(image, 0, STE.V) === 0)).toBe(true);
  });

  test("an unchanged entry is neither stored nor synced", () => {
    const { status, images } = run(cdtable(), cdtable(), steUsed, true);
    expect([status, images.length]).toEqual([0, 0]);
  });

  test("stores ascend within a phase and each phase ends in a sync", () => {
    expect(run(bypass, s2(), steUsed, true).log).toEqual([2, 3, -1, 0, -1]);
    expect(run(s2(), bypass, steUsed, true).log).toEqual([0, -1, 2, 3, -1]);
    expect(run(noCd, cd(1), cdUsed, false).log).toEqual([1, 3, -1, 0, -1]);
  });

  test("only quadwords that differ are stored", () => {
    expect(run(cd(778), cd(1997), cdUsed, false).log).toEqual([0, -1]);
  });

  test.each([1, 2, 3])("a failing sync %i ends the write", (failAt) => {
    const { status, log, final } = run(cdtable(), bypass, steUsed, true, failAt);
    expect(status).toBe(-110);
    expect(log.filter((x) => x === -1)).toHaveLength(failAt);
    if (failAt === 1) expect(getField(final, 0, STE.Config)).toBe(getField(cdtable(), 0, STE.Config));
  });
});

test.each([1, 2, 3])("a write that persists goes on after a failing sync %i, and tells", (failAt) => {
  const { status, log, final } = run(cdtable(), bypass, steUsed, true, failAt, true);
  expect([status, log.filter((x) => x === -1).length]).toEqual([-110, 3]);
  expect(final).toEqual(bypass);
});

describe("used and safe bits", () => {
  test.each([
    ["abort", abort], ["bypass", bypass], ["cdtable", cdtable({ ats: true })], ["s2", s2(true, true)], ["nested", nested],
    ["cdtable, S1DSS bypass", cdtable({ s1dss: STE_S1DSS.bypass })],
  ])("the builder of %s sets no bit that is not used", (_, ste) => {
    const used = new Int32Array(STE_WORDS);
    steUsed(ste, used);
    expect(ste.every((word, i) => (word & ~used[i]!) === 0)).toBe(true);
  });

  test("EATS is safe unless S1CHK or S2S is in play", () => {
    const safe = new Int32Array(STE_WORDS);
    const eats = (a: Entry, b: Entry): number => {
      steSafe(a, b, safe);
      return getField(safe, 0, STE.EATS);
    };
    expect(eats(s2(true), s2(false))).toBe(STE_EATS.full);
    expect(eats(s2(true, true), s2(false))).toBe(0);
    const s1chk = make((ste) => {
      ste.set(s2(true));
      setField(ste, 0, STE.EATS, STE_EATS.s1chk);
    });
    expect(eats(s1chk, s2(false))).toBe(0);
  });

  test("an invalid entry uses V only", () => {
    const used = new Int32Array(STE_WORDS);
    steUsed(noCd, used);
    expect([...used]).toEqual([1, ...new Array<number>(15).fill(0)]);
    cdUsed(noCd, used);
    expect([...used]).toEqual([1 << 31, ...new Array<number>(15).fill(0)]);
    cdUsed(cdWithoutTable, used);
    expect(getField(used, 0, CD.T0SZ)).toBe(0);
    expect(getField(used, 0, CD.ASID)).toBe(0xffff);
  });
});
