import { describe, expect, test } from "vitest";
import { hi32, join, lo32 } from "@smmuv3/platform";
import type { Memory } from "@smmuv3/platform";
import { FAULT_CLASS, GRANULE, HALF, PERM, STAGE1, Stage1Walker, Stage2Walker, WALK } from "../src/index.ts";
import { ATTR, BASE, HIGH, put, ram, vtcr } from "./tables.ts";

const ROOT = BASE + 0x10_0000;
const L1 = BASE + 0x1_0000;
const L2 = BASE + 0x2_0000;
const L3 = BASE + 0x3_0000;
const VA = 0x1234_5678;
const LEAF = ATTR.af | ATTR.page | ATTR.nG;
const UR = PERM.READ;
const UW = PERM.WRITE;
const UX = PERM.EXECUTE;
const PR = PERM.PRIV_READ;
const PW = PERM.PRIV_WRITE;
const PX = PERM.PRIV_EXECUTE;

interface Tables {
  readonly low?: number;
  readonly high?: number;
  readonly address?: number;
  /** High bits of the table descriptors. */
  readonly table?: number;
}

function fourLevels({ low = LEAF | ATTR.ap.rw, high = 0, address = 0x6000_0000, table = 0 }: Tables = {}): Memory {
  const memory = ram();
  put(memory, ROOT, 0, L1, ATTR.table, table);
  put(memory, L1, 0, L2, ATTR.table);
  put(memory, L2, 0x91, L3, ATTR.table);
  put(memory, L3, 0x145, address, low, high);
  return memory;
}

function walker(memory: Memory, flags = 0, half = 0): Stage1Walker {
  const out = new Stage1Walker(memory, new Stage2Walker(memory));
  out.configure(4, flags);
  out.configureHalf(false, lo32(ROOT), 0, 16, GRANULE.K4, half);
  out.configureHalf(true, 0, 0, 16, GRANULE.K4, HALF.DISABLED);
  return out;
}

test("a 4K page through four levels", () => {
  const w = walker(fourLevels());
  expect(w.walk(VA, 0, UR)).toBe(WALK.OK);
  expect(join(w.paLo, w.paHi)).toBe(0x6000_0678);
  expect([w.level, w.shift, w.pageShift, w.global, w.reads]).toEqual([3, 12, 12, false, 4]);
});

describe("rights", () => {
  const { pxn, uxn, pxnTable, uxnTable, apTable0, apTable1 } = HIGH;
  const rows: readonly (readonly [name: string, tables: Tables, flags: number, half: number, perm: number])[] = [
    ["AP = 00", { low: LEAF | ATTR.ap.privRw }, 0, 0, PR | PW | PX | UX],
    ["AP = 01 is never privileged-executable", { low: LEAF | ATTR.ap.rw }, 0, 0, UR | UW | UX | PR | PW],
    ["AP = 10", { low: LEAF | ATTR.ap.privRo }, 0, 0, PR | PX | UX],
    ["AP = 11", { low: LEAF | ATTR.ap.ro }, 0, 0, UR | UX | PR | PX],
    ["PXN", { low: LEAF | ATTR.ap.ro, high: pxn }, 0, 0, UR | UX | PR],
    ["UXN", { low: LEAF | ATTR.ap.ro, high: uxn }, 0, 0, UR | PR | PX],
    ["WXN", { low: LEAF | ATTR.ap.rw }, STAGE1.WXN, 0, UR | UW | PR | PW],
    ["PAN", { low: LEAF | ATTR.ap.ro }, STAGE1.PAN, 0, UR | UX | PX],
    ["PAN leaves privileged pages alone", { low: LEAF | ATTR.ap.privRo }, STAGE1.PAN, 0, PR | PX | UX],
    ["APTable[0]", { low: LEAF | ATTR.ap.rw, table: apTable0 }, 0, 0, UX | PR | PW | PX],
    ["APTable[1]", { low: LEAF | ATTR.ap.rw, table: apTable1 }, 0, 0, UR | UX | PR | PX],
    ["PXNTable, UXNTable", { low: LEAF | ATTR.ap.ro, table: pxnTable | uxnTable }, 0, 0, UR | PR],
    ["HAD ignores them", { low: LEAF | ATTR.ap.ro, table: pxnTable | uxnTable | apTable0 }, 0, HALF.HAD, UR | UX | PR | PX],
    ["one privilege level: AP[1] ignored", { low: LEAF | ATTR.ap.privRw }, STAGE1.SINGLE, 0, UR | UW | UX | PR | PW | PX],
    ["one privilege level: UXN is XN", { low: LEAF | ATTR.ap.ro, high: uxn }, STAGE1.SINGLE, 0, UR | PR],
  ];
  test.each(rows)("%s", (_name, tables, flags, half, perm) => {
    const w = walker(fourLevels(tables), flags, half);
    expect(w.walk(VA, 0, 0)).toBe(WALK.OK);
    expect(w.perm).toBe(perm);
  });
});

describe("halves", () => {
  function both(flags: number): Stage1Walker {
    const memory = fourLevels();
    // TTB1 with a 39-bit range starts at level 1.
    put(memory, ROOT + 0x1000, 511, L2, ATTR.table);
    const w = walker(memory, 0, flags);
    w.configureHalf(true, lo32(ROOT + 0x1000), 0, 25, GRANULE.K4, flags);
    return w;
  }
  const HIGH_VA = -0x4000_0000 + VA;
  test.each([
    ["TTB0", VA, 0, 0, WALK.OK],
    ["TTB1", HIGH_VA | 0, -1, 0, WALK.OK],
    ["TTB0 above its range", 0, 0x1_0000, 0, WALK.TRANSLATION],
    ["TTB1 below its range", HIGH_VA | 0, ~0x80, 0, WALK.TRANSLATION],
    ["a tag without TBI", VA, 0x5a00_0000, 0, WALK.TRANSLATION],
    ["a tag with TBI0", VA, 0x5a00_0000, HALF.TBI, WALK.OK],
    ["a tag with TBI1", HIGH_VA | 0, 0x5aff_ffff, HALF.TBI, WALK.OK],
    ["EPD", VA, 0, HALF.DISABLED, WALK.TRANSLATION],
  ])("%s", (_name, lo, hi, flags, status) => {
    const w = both(flags);
    expect(w.walk(lo, hi, 0)).toBe(status);
    if (status === WALK.OK) expect(join(w.paLo, w.paHi)).toBe(0x6000_0678);
  });
});

test.each([
  [GRANULE.K16, 28, 0x1_2345, 3, 0x6000_6345],
  [GRANULE.K64, 22, 0x1_2345, 3, 0x6005_2345],
] as const)("granule %i", (granule, tsz, va, level, pa) => {
  const memory = ram();
  const page = granule === GRANULE.K16 ? 0x6000_4000 : 0x6005_0000;
  put(memory, ROOT, 0, L3, ATTR.table);
  put(memory, L3, granule === GRANULE.K16 ? 4 : 1, page, LEAF | ATTR.ap.rw);
  const w = walker(memory);
  w.configureHalf(false, lo32(ROOT), 0, tsz, granule, 0);
  expect(w.walk(va, 0, UR)).toBe(WALK.OK);
  expect([w.level, join(w.paLo, w.paHi)]).toEqual([level, pa]);
});

test.each([
  ["AF before permission", { low: ATTR.page | ATTR.ap.ro }, UW, WALK.ACCESS_FLAG],
  ["permission", { low: LEAF | ATTR.ap.ro }, UW, WALK.PERMISSION],
  ["size before AF", { low: ATTR.page, address: 2 ** 44 }, UR, WALK.ADDRESS_SIZE],
  ["APTable does not hide a lower fault", { low: 0, table: HIGH.apTable1 }, UW, WALK.TRANSLATION],
] as const)("order: %s", (_name, tables, need, status) => {
  const w = walker(fourLevels(tables));
  expect(w.walk(VA, 0, need)).toBe(status);
  expect(w.stage).toBe(1);
});

describe("nested", () => {
  /** Stage 2 maps IPA 0x80000000 + x to BASE + x in 4K pages, where stage 1 has its tables, and one page of data. */
  const IPA = 0x8000_0000;
  const S2_ROOT = BASE + 0x20_0000;
  const S2_L2 = BASE + 0x20_1000;
  const S2_L3 = BASE + 0x20_2000;
  const DATA_IPA = IPA + 0x5_0000;

  function nested(change: (memory: Memory) => void = () => undefined, flags = 0): Stage1Walker {
    const memory = ram();
    put(memory, S2_ROOT, 2, S2_L2, ATTR.table);
    put(memory, S2_L2, 0, S2_L3, ATTR.table);
    const rw = ATTR.af | ATTR.page | ATTR.s2.rw | ATTR.normal;
    for (const page of [1, 2, 3, 4, 0x50]) put(memory, S2_L3, page, BASE + page * 0x1000, rw);
    put(memory, BASE + 0x1000, 0, IPA + 0x2000, ATTR.table);
    put(memory, BASE + 0x2000, 0, IPA + 0x3000, ATTR.table);
    put(memory, BASE + 0x3000, 0x91, IPA + 0x4000, ATTR.table);
    put(memory, BASE + 0x4000, 0x145, DATA_IPA, LEAF | ATTR.ap.rw);
    change(memory);
    const stage2 = new Stage2Walker(memory);
    stage2.configure(lo32(S2_ROOT), hi32(S2_ROOT), vtcr({ t0sz: 25, sl0: 1 }));
    const out = new Stage1Walker(memory, stage2);
    out.configure(4, STAGE1.NESTED | flags);
    out.configureHalf(false, lo32(IPA + 0x1000), 0, 16, GRANULE.K4, 0);
    return out;
  }

  test("translates", () => {
    const w = nested();
    expect(w.walk(VA, 0, UW)).toBe(WALK.OK);
    expect(join(w.paLo, w.paHi)).toBe(BASE + 0x5_0678);
    expect(join(w.ipaLo, w.ipaHi)).toBe(DATA_IPA + 0x678);
    expect(w.reads + w.stage2.reads).toBe(4 + 5 * 3);
  });

  const s2 = (page: number, low: number) => (memory: Memory): void => {
    put(memory, S2_L3, page, BASE + page * 0x1000, low);
  };
  const s1 = (low: number) => (memory: Memory): void => {
    put(memory, BASE + 0x4000, 0x145, DATA_IPA, low);
  };
  test.each([
    ["a table that stage 2 does not map", s2(3, 0), 0, WALK.TRANSLATION, 2, FAULT_CLASS.TT, IPA + 0x3000 + 0x91 * 8],
    ["a table without AF in stage 2", s2(2, ATTR.page | ATTR.s2.rw), 0, WALK.ACCESS_FLAG, 2, FAULT_CLASS.TT, IPA + 0x2000],
    ["a table that stage 2 does not let read", s2(2, ATTR.page | ATTR.af | ATTR.s2.wo), 0, WALK.PERMISSION, 2, FAULT_CLASS.TT, IPA + 0x2000],
    ["a table in Device memory with PTW", s2(2, ATTR.page | ATTR.af | ATTR.s2.rw), STAGE1.PTW, WALK.PERMISSION, 2, FAULT_CLASS.TT, IPA + 0x2000],
    ["data that stage 2 does not map", s2(0x50, 0), 0, WALK.TRANSLATION, 2, FAULT_CLASS.IN, DATA_IPA + 0x678],
    ["data that stage 2 does not let write", s2(0x50, ATTR.page | ATTR.af | ATTR.s2.ro), 0, WALK.PERMISSION, 2, FAULT_CLASS.IN, DATA_IPA + 0x678],
  ] as const)("%s", (_name, change, flags, status, stage, faultClass, ipa) => {
    const w = nested(change, flags);
    expect(w.walk(VA, 0, UW)).toBe(status);
    expect([w.stage, w.faultClass, join(w.ipaLo, w.ipaHi)]).toEqual([stage, faultClass, ipa]);
  });

  test("permission of stage 1 comes before stage 2 of the output", () => {
    const w = nested((memory) => {
      s1(LEAF | ATTR.ap.ro)(memory);
      s2(0x50, 0)(memory);
    });
    expect(w.walk(VA, 0, UW)).toBe(WALK.PERMISSION);
    expect(w.stage).toBe(1);
  });

  test("a table that stage 2 maps outside of RAM aborts in stage 1", () => {
    const w = nested((memory) => {
      put(memory, S2_L3, 4, 0x1000, ATTR.page | ATTR.af | ATTR.s2.rw | ATTR.normal);
    });
    expect(w.walk(VA, 0, UR)).toBe(WALK.EXTERNAL_ABORT);
    expect([w.stage, w.level, w.descPaLo]).toEqual([1, 3, 0x1000 + 0x145 * 8]);
  });
});
