// The entry writer between any two entries that the builders make.
import { CD, getField, setField, STE, STE_EATS, STE_WORDS } from "@smmuv3/smmu-v3-defs";
import fc from "fast-check";
import { expect, test } from "vitest";
import { addStage2, cdUsed, clearCd, makeAbortSte, makeBypassSte, makeCdtableSte, makeS1Cd, makeS2Ste, steSafe, steUsed } from "../src/index.ts";
import type { UsedBits } from "../src/index.ts";
import { acts, make, run, views } from "./writer.ts";
import type { Entry } from "./writer.ts";

const flag = fc.boolean();
const options = fc.record({ attrTypesOvr: flag, ats: flag, stall: flag, instcfgData: flag });
// Few values each, so that fields are equal as often as not.
const stage2 = fc.record({
  ttb: fc.constantFrom(0x1_2345_6000, 0x4000_0000, 0x4000_1000),
  vtcr: fc.constantFrom(0x5_3558, 0x5_3550),
  vmid: fc.constantFrom(0, 0, 7),
});
const cdtable = fc
  .tuple(
    fc.record({
      pa: fc.constantFrom(0xdea_dbee_f000, 0x4000_0000),
      s1fmt: fc.constantFrom(0, 2),
      s1cdmax: fc.constantFrom(0, 10),
      s1dss: fc.nat(2),
      stallDisable: flag,
      e2h: flag,
    }),
    options,
  )
  .map(([table, how]) => make((ste) => { makeCdtableSte(ste, table, how); }));
const nested = fc.tuple(cdtable, stage2, fc.nat(1), fc.constantFrom(0, STE_EATS.full, STE_EATS.s1chk)).map(([s1, s2, mev, eats]) =>
  make((ste) => {
    ste.set(s1);
    addStage2(ste, s2);
    setField(ste, 0, STE.MEV, mev);
    setField(ste, 0, STE.EATS, eats);
  }));
const ste = fc.oneof(
  fc.constant(make(makeAbortSte)),
  flag.map((ovr) => make((words) => { makeBypassSte(words, ovr); })),
  cdtable,
  fc.tuple(stage2, options, flag).map(([s2, how, fwb]) => make((words) => { makeS2Ste(words, s2, how, fwb); })),
  nested,
);
const cd = fc.oneof(
  { weight: 1, arbitrary: fc.constant(make(clearCd)) },
  {
    weight: 4,
    arbitrary: fc
      .record({
        ttb: fc.constantFrom(0x8765_4000, 0x9000_0000),
        tsz: fc.constantFrom(16, 25),
        mairLo: fc.constantFrom(0x0444_ff44, 0x44),
        asid: fc.constantFrom(1, 2, 0xffff),
        stall: flag,
        dirty: flag,
        disabled: fc.nat(3).map((n) => n === 0),
      })
      .map(({ tsz, disabled, ...s1 }) =>
        make((words) => {
          const tcr = disabled ? { ips: 5, tg: 0, sh: 0, orgn: 0, irgn: 0, tsz: 0 } : { ips: 5, tg: 0, sh: 3, orgn: 1, irgn: 1, tsz };
          makeS1Cd(words, { ...s1, ttb: disabled ? 0 : s1.ttb, tcr, mairHi: 0 });
          if (disabled) setField(words, 0, CD.EPD0, 1);
        })),
  },
);
/** An entry that is invalid, with whatever was there before. */
const leftovers = (valid: typeof STE.V | typeof CD.V): fc.Arbitrary<Entry> =>
  fc.int32Array({ minLength: STE_WORDS, maxLength: STE_WORDS }).map((words) => {
    setField(words, 0, valid, 0);
    return words;
  });

/** Quadwords in which both entries use a bit that changes. */
function conflicts(from: Entry, to: Entry, used: UsedBits, safe: Entry): number[] {
  const [now, then] = [make((out) => { used(from, out); }), make((out) => { used(to, out); })];
  const hit = (i: number): boolean => ((from[i]! ^ to[i]!) & now[i]! & then[i]! & ~safe[i]!) !== 0;
  return Array.from({ length: STE_WORDS / 2 }, (_, qword) => qword).filter((qword) => hit(qword * 2) || hit(qword * 2 + 1));
}

function check(from: Entry, to: Entry, mask: number, isSte: boolean): boolean {
  const used = isSte ? steUsed : cdUsed;
  const valid = isSte ? STE.V : CD.V;
  const result = run(from, to, used, isSte);
  expect(result.final).toEqual(to);
  expect(result.status).toBe(result.log.filter((at) => at < 0).length);
  expect(result.status).toBeLessThanOrEqual(3);
  // Whatever was stored is synced, and a phase stores upwards.
  expect(result.log.length === 0 || result.log.at(-1) === -1).toBe(true);
  expect(result.log.every((at, i) => at < 0 || i === 0 || at > result.log[i - 1]!)).toBe(true);
  const safe = new Int32Array(STE_WORDS);
  if (isSte) steSafe(from, to, safe);
  const critical = conflicts(from, to, used, safe);
  const hitless = critical.length <= 1;
  // That one quadword is where the SMMU changes over, all at once.
  if (critical.length === 1) expect(result.log.filter((at) => at === critical[0])).toHaveLength(1);
  const mixed = views(from, result, mask).filter((image) => !acts(image, from, used, safe) && !acts(image, to, used, safe));
  if (hitless) expect(mixed).toEqual([]);
  // Where that is impossible: neither old nor new only while invalid.
  for (const image of mixed) expect(getField(image, 0, valid)).toBe(0);
  return hitless;
}

const mask = fc.nat(0xff);
const RUNS = { seed: 12345, numRuns: 2000 };

test("the SMMU sees the old or the new STE, or an invalid one where there is no other way", () => {
  const counts = [0, 0];
  fc.assert(fc.property(fc.oneof({ weight: 5, arbitrary: ste }, { weight: 1, arbitrary: leftovers(STE.V) }), ste, mask, (from, to, seen) => {
    counts[Number(check(from, to, seen, true))]!++;
  }), RUNS);
  expect(Math.min(...counts)).toBeGreaterThan(200);
});

test("the SMMU sees the old or the new CD, or an invalid one where there is no other way", () => {
  const counts = [0, 0];
  fc.assert(fc.property(fc.oneof({ weight: 5, arbitrary: cd }, { weight: 1, arbitrary: leftovers(CD.V) }), cd, mask, (from, to, seen) => {
    counts[Number(check(from, to, seen, false))]!++;
  }), RUNS);
  expect(Math.min(...counts)).toBeGreaterThan(200);
});
