import { lo32 } from "@smmuv3/platform";
import type { Memory } from "@smmuv3/platform";
import { describe, expect, test } from "vitest";
import { FAULT_CLASS, GRANULE, HALF, PERM, STAGE1, Stage1Walker, STAGE2, Stage2Walker, WALK } from "../src/index.ts";
import { ATTR, BASE, HIGH, put, ram, vtcr } from "./tables.ts";

const DBM = 0x8_0000;
const AF = ATTR.af;
const ROOT = BASE + 0x1000;
const L2 = BASE + 0x2000;
const L3 = BASE + 0x3000;
const PAGE = 0x145;
const VA = 0x1234_5678;
const READ_ONLY = ATTR.page | ATTR.ap.ro;
const { HA, HD, HAFT } = STAGE1;

/** Three levels of stage 1 with one page at {@link VA}. */
function tables(low: number, high: number, table = 0, tableLow = 0): Memory {
  const memory = ram();
  put(memory, ROOT, 0, L2, ATTR.table | tableLow, table);
  put(memory, L2, 0x91, L3, ATTR.table | tableLow);
  put(memory, L3, PAGE, 0x6000_0000, low, high);
  return memory;
}

function leaf(memory: Memory): number {
  return memory.load32(L3 + PAGE * 8) & 0xfff;
}

function stage1(memory: Memory, flags: number, stage2 = new Stage2Walker(memory)): Stage1Walker {
  const walker = new Stage1Walker(memory, stage2);
  walker.configure(4, flags);
  walker.configureHalf(false, lo32(ROOT), 0, 25, GRANULE.K4, 0);
  walker.configureHalf(true, 0, 0, 25, GRANULE.K4, HALF.DISABLED);
  return walker;
}

/** IHI 0070 3.13.2 and 3.13.3: what one access does to the leaf of stage 1. */
describe("stage 1", () => {
  const clean = READ_ONLY | AF;
  const rows: readonly (readonly [name: string, low: number, high: number, flags: number, need: number, status: number, after: number])[] = [
    ["AF = 0 without HA", READ_ONLY, 0, 0, PERM.READ, WALK.ACCESS_FLAG, READ_ONLY],
    ["AF = 0 with HA", READ_ONLY, 0, HA, PERM.READ, WALK.OK, READ_ONLY | AF],
    ["AFFD is ignored with HA", READ_ONLY, 0, HA | STAGE1.AFFD, PERM.READ, WALK.OK, READ_ONLY | AF],
    ["AFFD alone sets nothing", READ_ONLY, 0, STAGE1.AFFD, PERM.READ, WALK.OK, READ_ONLY],
    ["HD alone does nothing", READ_ONLY, DBM, HD, PERM.READ, WALK.ACCESS_FLAG, READ_ONLY],
    ["a write without DBM", clean, 0, HA | HD, PERM.WRITE, WALK.PERMISSION, clean],
    ["a write with DBM", clean, DBM, HA | HD, PERM.WRITE, WALK.OK, ATTR.page | ATTR.ap.rw | AF],
    ["a write with DBM sets AF, too", READ_ONLY, DBM, HA | HD, PERM.WRITE, WALK.OK, ATTR.page | ATTR.ap.rw | AF],
    ["a write with DBM without HD", clean, DBM, HA, PERM.WRITE, WALK.PERMISSION, clean],
    ["a read with DBM", clean, DBM, HA | HD, PERM.READ, WALK.OK, clean],
    ["a fault leaves AF alone", READ_ONLY, 0, HA, PERM.WRITE, WALK.PERMISSION, READ_ONLY],
    ["PAN refuses before DBM matters", clean, DBM, HA | HD | STAGE1.PAN, PERM.PRIV_WRITE, WALK.PERMISSION, clean],
    ["LPAE has no updates", READ_ONLY, DBM, HA | HD | STAGE1.LPAE, PERM.READ, WALK.ACCESS_FLAG, READ_ONLY],
  ];
  test.each(rows)("%s", (_name, low, high, flags, need, status, after) => {
    const memory = tables(low, high);
    const walker = stage1(memory, flags);
    if ((flags & STAGE1.LPAE) !== 0) walker.configureHalf(false, lo32(ROOT), 0, 1, GRANULE.K4, 0);
    expect(walker.walk(VA, 0, need)).toBe(status);
    expect(leaf(memory)).toBe(after);
    expect(walker.updates).toBe(after === low ? 0 : 1);
  });

  test("APTable takes the right to write for good (3.13.3.1)", () => {
    const memory = tables(clean, DBM, HIGH.apTable1);
    const walker = stage1(memory, HA | HD);
    expect(walker.walk(VA, 0, PERM.WRITE)).toBe(WALK.PERMISSION);
    expect([leaf(memory), walker.clean]).toEqual([clean, false]);
  });

  test("rights of a clean page leave out writing until it is dirty", () => {
    const walker = stage1(tables(clean, DBM), HA | HD);
    expect(walker.walk(VA, 0, PERM.READ)).toBe(WALK.OK);
    expect([walker.clean, walker.perm & (PERM.WRITE | PERM.PRIV_WRITE)]).toEqual([true, 0]);
    expect(walker.walk(VA, 0, PERM.WRITE)).toBe(WALK.OK);
    expect([walker.clean, walker.perm & (PERM.WRITE | PERM.PRIV_WRITE)]).toEqual([false, PERM.WRITE | PERM.PRIV_WRITE]);
  });

  test("HAFT sets AF of tables, in the order of the walk (3.13.6)", () => {
    const memory = tables(READ_ONLY, 0);
    const walker = stage1(memory, HA | HAFT);
    const order: unknown[] = [];
    walker.onUpdate = (stage, level, paLo, _paHi, lo) => order.push([stage, level, paLo, lo & AF]);
    expect(walker.walk(VA, 0, PERM.WRITE)).toBe(WALK.PERMISSION);
    expect(order).toEqual([]);
    expect(walker.walk(VA, 0, PERM.READ)).toBe(WALK.OK);
    expect(order).toEqual([[1, 1, ROOT, AF], [1, 2, L2 + 0x91 * 8, AF], [1, 3, L3 + PAGE * 8, AF]]);
    expect(walker.updates).toBe(3);
    order.length = 0;
    walker.walk(VA, 0, PERM.READ);
    expect(order).toEqual([]);
  });

  test("a page that may not be written aborts the update (7.3.12)", () => {
    const memory = tables(READ_ONLY, 0);
    memory.perm[memory.pageIndex(L3)] = 1;
    const walker = stage1(memory, HA);
    expect(walker.walk(VA, 0, PERM.READ)).toBe(WALK.EXTERNAL_ABORT);
    expect([walker.stage, walker.descPaLo]).toEqual([1, L3 + PAGE * 8]);
  });

  test("inhibited updates leave memory alone and give the same answer (9.1.4)", () => {
    const memory = tables(READ_ONLY, DBM);
    const walker = stage1(memory, HA | HD);
    walker.inhibitUpdates = true;
    expect(walker.walk(VA, 0, PERM.WRITE)).toBe(WALK.OK);
    expect([leaf(memory), walker.updates, walker.clean]).toEqual([READ_ONLY, 0, true]);
  });

  test("big-endian descriptors", () => {
    const memory = tables(READ_ONLY, DBM);
    for (const at of [ROOT, L2 + 0x91 * 8, L3 + PAGE * 8]) {
      const bytes = new Uint8Array(memory.words.buffer, at - BASE, 8);
      bytes.reverse();
    }
    const walker = stage1(memory, HA | HD | STAGE1.BIG_ENDIAN);
    expect(walker.walk(VA, 0, PERM.WRITE)).toBe(WALK.OK);
    expect(walker.paLo).toBe(0x6000_0678);
    const low = new DataView(memory.words.buffer).getInt32(L3 + PAGE * 8 - BASE + 4, false);
    expect(low & 0xfff).toBe(ATTR.page | ATTR.ap.rw | AF);
  });
});

/** IPA 0x80000000 + x is BASE + x, in pages of 4K, where the tables of stage 1 lie; their leaf leads to page 0x50. */
describe("nested (IHI 0070 3.13.5)", () => {
  const IPA = 0x8000_0000;
  const S2_ROOT = BASE + 0x20_0000;
  const S2_L2 = BASE + 0x20_1000;
  const S2_L3 = BASE + 0x20_2000;
  const RW = ATTR.page | ATTR.s2.rw | ATTR.normal;
  const RO = ATTR.page | ATTR.s2.ro | ATTR.normal;

  interface Setup {
    readonly s1?: number;
    /** Of page 3, which holds the leaf of stage 1. */
    readonly table?: readonly [low: number, high: number];
    readonly data?: readonly [low: number, high: number];
    readonly flags2?: number;
    readonly flags1?: number;
  }

  function nested({ s1 = READ_ONLY, table = [RW | AF, 0], data = [RW | AF, 0], flags2 = 0, flags1 = HA | HD }: Setup): { memory: Memory; walker: Stage1Walker } {
    const memory = ram();
    put(memory, S2_ROOT, 2, S2_L2, ATTR.table);
    put(memory, S2_L2, 0, S2_L3, ATTR.table);
    for (const page of [1, 2]) put(memory, S2_L3, page, BASE + page * 0x1000, RW | AF);
    put(memory, S2_L3, 3, BASE + 0x3000, ...table);
    put(memory, S2_L3, 0x50, BASE + 0x5_0000, ...data);
    put(memory, ROOT, 0, IPA + 0x2000, ATTR.table);
    put(memory, L2, 0x91, IPA + 0x3000, ATTR.table);
    put(memory, L3, PAGE, IPA + 0x5_0000, s1, DBM);
    const stage2 = new Stage2Walker(memory);
    stage2.configure(lo32(S2_ROOT), 0, vtcr({ t0sz: 25, sl0: 1 }), flags2);
    const walker = new Stage1Walker(memory, stage2);
    walker.configure(4, STAGE1.NESTED | flags1);
    walker.configureHalf(false, lo32(IPA + 0x1000), 0, 25, GRANULE.K4, 0);
    return { memory, walker };
  }
  const entry2 = (memory: Memory, page: number): number => memory.load32(S2_L3 + page * 8) & 0xfff;
  const TABLE_IPA = IPA + 0x3000 + PAGE * 8;

  test("the update of a stage-1 descriptor is a write to stage 2", () => {
    const { memory, walker } = nested({ table: [RO | AF, 0] });
    expect(walker.walk(VA, 0, PERM.READ)).toBe(WALK.PERMISSION);
    expect([walker.stage, walker.faultClass, walker.ttWrite, walker.ipaLo]).toEqual([2, FAULT_CLASS.TT, true, lo32(TABLE_IPA)]);
    expect(leaf(memory)).toBe(READ_ONLY);
  });

  test("a fetch that stage 2 refuses is a read", () => {
    const { walker } = nested({ table: [ATTR.page | AF | ATTR.s2.wo | ATTR.normal, 0] });
    expect(walker.walk(VA, 0, PERM.READ)).toBe(WALK.PERMISSION);
    expect([walker.faultClass, walker.ttWrite]).toEqual([FAULT_CLASS.TT, false]);
  });

  test("without an update a read-only table is enough", () => {
    const { walker } = nested({ s1: READ_ONLY | AF, table: [RO | AF, 0] });
    expect(walker.walk(VA, 0, PERM.READ)).toBe(WALK.OK);
  });

  test("the update marks the page of the table dirty first", () => {
    const { memory, walker } = nested({ table: [RO | AF, DBM], flags2: STAGE2.HA | STAGE2.HD });
    const order: unknown[] = [];
    const note = (stage: number, level: number, paLo: number): void => {
      order.push([stage, level, paLo]);
    };
    walker.onUpdate = note;
    walker.stage2.onUpdate = note;
    expect(walker.walk(VA, 0, PERM.WRITE)).toBe(WALK.OK);
    expect(order).toEqual([[2, 3, S2_L3 + 3 * 8], [1, 3, L3 + PAGE * 8]]);
    expect(entry2(memory, 3)).toBe(RW | AF);
    expect(leaf(memory)).toBe(ATTR.page | ATTR.ap.rw | AF);
  });

  test("walks of stage 1 set AF of stage 2 though the access then faults", () => {
    const { memory, walker } = nested({ s1: 0, table: [RO, 0], flags2: STAGE2.HA });
    expect(walker.walk(VA, 0, PERM.READ)).toBe(WALK.TRANSLATION);
    expect([walker.stage, entry2(memory, 3)]).toEqual([1, RO | AF]);
  });

  test("nothing of stage 1 is updated where stage 2 refuses the output", () => {
    const { memory, walker } = nested({ data: [RO | AF, 0] });
    expect(walker.walk(VA, 0, PERM.WRITE)).toBe(WALK.PERMISSION);
    expect([walker.stage, walker.faultClass, leaf(memory)]).toEqual([2, FAULT_CLASS.IN, READ_ONLY]);
  });

  test("both dirty states of one write", () => {
    const { memory, walker } = nested({ data: [RO, DBM], flags2: STAGE2.HA | STAGE2.HD });
    expect(walker.walk(VA, 0, PERM.WRITE)).toBe(WALK.OK);
    expect([entry2(memory, 0x50), leaf(memory)]).toEqual([RW | AF, ATTR.page | ATTR.ap.rw | AF]);
    expect([walker.updates, walker.stage2.updates, walker.clean, walker.stage2.clean]).toEqual([1, 1, false, false]);
  });

  test.each([
    ["without FWB, MemAttr = 0001", 0x4, 0, WALK.PERMISSION],
    ["with FWB, MemAttr = 0101 is no Device type", 0x14, STAGE2.FWB, WALK.OK],
    ["with FWB, MemAttr = 1001 is", 0x24, STAGE2.FWB, WALK.PERMISSION],
  ])("S2PTW (5.2): %s", (_name, memAttr, flags2, status) => {
    const { walker } = nested({ s1: READ_ONLY | AF, table: [ATTR.page | AF | ATTR.s2.rw | memAttr, 0], flags1: STAGE1.PTW });
    walker.stage2.configure(lo32(S2_ROOT), 0, vtcr({ t0sz: 25, sl0: 1 }), flags2);
    expect(walker.walk(VA, 0, PERM.READ)).toBe(status);
    if (status !== WALK.OK) expect([walker.stage, walker.faultClass, walker.ttWrite]).toEqual([2, FAULT_CLASS.TT, false]);
  });

  test("the trace has every descriptor in the order of reading", () => {
    const { walker } = nested({});
    const seen: string[] = [];
    walker.trace = (stage, level, paLo, paHi, lo) => seen.push(`${stage}.${level} ${(paHi * 2 ** 32 + paLo).toString(16)} ${(lo & 0xfff).toString(16)}`);
    expect(walker.walk(VA, 0, PERM.READ)).toBe(WALK.OK);
    const at = (address: number): string => address.toString(16);
    const s2 = (page: number): string[] => [`2.1 ${at(S2_ROOT + 16)} 3`, `2.2 ${at(S2_L2)} 3`, `2.3 ${at(S2_L3 + page * 8)} 4ff`];
    expect(seen).toEqual([
      ...s2(1), `1.1 ${at(ROOT)} 3`, ...s2(2), `1.2 ${at(L2 + 0x91 * 8)} 3`, ...s2(3), `1.3 ${at(L3 + PAGE * 8)} c3`, ...s2(0x50),
    ]);
    walker.trace = null;
    walker.walk(VA, 0, PERM.READ);
    expect(seen).toHaveLength(15);
  });

  test("attributes of both stages", () => {
    const { walker } = nested({ s1: READ_ONLY | AF | 0x300 | (5 << 2) });
    expect(walker.walk(VA, 0, PERM.READ)).toBe(WALK.OK);
    // MAIR attribute 5 is write-through inside and outside, stage 2 write-back.
    expect(walker.attributes(0, 0xbb00)).toBe(0xbb | (3 << 8));
  });
});
