import { describe, expect, test } from "vitest";
import { hi32, join, lo32 } from "@smmuv3/platform";
import type { Memory } from "@smmuv3/platform";
import { GRANULE, PERM, STAGE2, Stage2Walker, WALK } from "../src/index.ts";
import { ATTR, BASE, put, ram, vtcr } from "./tables.ts";

const ROOT = BASE + 0x10_0000;
const L1 = BASE + 0x1_0000;
const L2 = BASE + 0x2_0000;
const L3 = BASE + 0x3_0000;
const LEAF = ATTR.af | ATTR.s2.rw | ATTR.normal;
const RW = PERM.READ | PERM.WRITE | PERM.PRIV_READ | PERM.PRIV_WRITE;
const X = PERM.EXECUTE | PERM.PRIV_EXECUTE;

interface Outcome {
  readonly status: number;
  readonly level: number;
  readonly pa?: number;
  readonly perm?: number;
}

function walk(memory: Memory, config: number, ipa: number, need = 0, flags = 0): Outcome {
  const walker = new Stage2Walker(memory);
  expect(walker.configure(lo32(ROOT), hi32(ROOT), config, flags)).toBe(WALK.OK);
  const status = walker.walk(lo32(ipa), hi32(ipa), need);
  const { level } = walker;
  return status === WALK.OK ? { status, level, pa: join(walker.paLo, walker.paHi), perm: walker.perm } : { status, level };
}

/** IPA 0x12345xxx, four levels of 4K. */
function fourLevels(low = LEAF | ATTR.page, high = 0, address = 0x6000_0000): Memory {
  const memory = ram();
  put(memory, ROOT, 0, L1, ATTR.table);
  put(memory, L1, 0, L2, ATTR.table);
  put(memory, L2, 0x91, L3, ATTR.table);
  put(memory, L3, 0x145, address, low, high);
  return memory;
}

const IPA = 0x1234_5678;
const CONFIG = vtcr({ t0sz: 20, sl0: 2 });

test("a 4K page through four levels", () => {
  expect(walk(fourLevels(), CONFIG, IPA, RW)).toEqual({ status: WALK.OK, level: 3, pa: 0x6000_0678, perm: RW | X });
});

describe("leaves by granule, level and start level", () => {
  const rows: readonly (readonly [name: string, config: number, ipa: number, build: (m: Memory) => void, level: number, pa: number])[] = [
    ["4K level-1 block", vtcr({ t0sz: 25, sl0: 1 }), 0x7f_4567_8abc, (m) => {
      put(m, ROOT, 509, 0x1_4000_0000, LEAF | ATTR.block);
    }, 1, 0x1_4567_8abc],
    ["4K level-2 block", vtcr({ t0sz: 33, sl0: 0, ps: 0 }), 0x4032_1678, (m) => {
      put(m, ROOT, 513, 0x6020_0000, LEAF | ATTR.block);
    }, 2, 0x6032_1678],
    ["4K, 16 concatenated level-1 tables", vtcr({ t0sz: 21, sl0: 1 }), 0x600_0000_0123, (m) => {
      put(m, ROOT, 0x1800, 0x8000_0000, LEAF | ATTR.block);
    }, 1, 0x8000_0123],
    ["16K page", vtcr({ t0sz: 24, sl0: 2, tg: GRANULE.K16 }), 0x1_2345, (m) => {
      put(m, ROOT, 0, L2, ATTR.table);
      put(m, L2, 0, L3, ATTR.table);
      put(m, L3, 4, 0x6000_4000, LEAF | ATTR.page);
    }, 3, 0x6000_6345],
    ["16K level-2 block", vtcr({ t0sz: 24, sl0: 1, tg: GRANULE.K16 }), 0x323_4567, (m) => {
      put(m, ROOT, 1, 0x6000_0000, LEAF | ATTR.block);
    }, 2, 0x6123_4567],
    ["64K page", vtcr({ t0sz: 24, sl0: 1, tg: GRANULE.K64 }), 0x1_2345, (m) => {
      put(m, ROOT, 0, L3, ATTR.table);
      put(m, L3, 1, 0x6005_0000, LEAF | ATTR.page);
    }, 3, 0x6005_2345],
    ["64K level-2 block", vtcr({ t0sz: 24, sl0: 1, tg: GRANULE.K64 }), 0x2_2345_6789, (m) => {
      put(m, ROOT, 0x11, 0x8000_0000, LEAF | ATTR.block);
    }, 2, 0x8345_6789],
    ["64K page above 48 bits", vtcr({ t0sz: 24, sl0: 1, tg: GRANULE.K64, ps: 6 }), 0x1_2345, (m) => {
      put(m, ROOT, 0, L3, ATTR.table);
      put(m, L3, 1, 0x6005_0000, LEAF | ATTR.page | 0x5000);
    }, 3, 5 * 2 ** 48 + 0x6005_2345],
  ];
  test.each(rows)("%s", (_name, config, ipa, build, level, pa) => {
    const memory = ram();
    build(memory);
    expect(walk(memory, config, ipa)).toMatchObject({ status: WALK.OK, level, pa });
  });
});

describe("faults of one stage", () => {
  const rows: readonly (readonly [name: string, build: () => Memory, config: number, ipa: number, need: number, expected: Outcome])[] = [
    ["input beyond T0SZ", fourLevels, CONFIG, 2 ** 44, 0, { status: WALK.TRANSLATION, level: 0 }],
    ["an invalid descriptor", () => fourLevels(0), CONFIG, IPA, 0, { status: WALK.TRANSLATION, level: 3 }],
    ["a block at level 3", () => fourLevels(LEAF | ATTR.block), CONFIG, IPA, 0, { status: WALK.TRANSLATION, level: 3 }],
    ["a 4K level-0 block", () => {
      const memory = ram();
      put(memory, ROOT, 0, 0, LEAF | ATTR.block);
      return memory;
    }, CONFIG, IPA, 0, { status: WALK.TRANSLATION, level: 0 }],
    ["a 16K level-1 block", () => {
      const memory = ram();
      put(memory, ROOT, 0, 0, LEAF | ATTR.block);
      return memory;
    }, vtcr({ t0sz: 24, sl0: 2, tg: GRANULE.K16 }), IPA, 0, { status: WALK.TRANSLATION, level: 1 }],
    ["an output beyond PS", () => fourLevels(LEAF | ATTR.page, 0, 2 ** 44), CONFIG, IPA, 0, { status: WALK.ADDRESS_SIZE, level: 3 }],
    ["a table pointer beyond PS", () => {
      const memory = ram();
      put(memory, ROOT, 0, 2 ** 45, ATTR.table);
      return memory;
    }, CONFIG, IPA, 0, { status: WALK.ADDRESS_SIZE, level: 0 }],
    ["AF = 0", () => fourLevels(ATTR.s2.rw | ATTR.page), CONFIG, IPA, 0, { status: WALK.ACCESS_FLAG, level: 3 }],
    ["size before AF", () => fourLevels(ATTR.page, 0, 2 ** 44), CONFIG, IPA, 0, { status: WALK.ADDRESS_SIZE, level: 3 }],
    ["AF before permission", () => fourLevels(ATTR.s2.ro | ATTR.page), CONFIG, IPA, PERM.WRITE, { status: WALK.ACCESS_FLAG, level: 3 }],
    ["a write to a read-only page", () => fourLevels(ATTR.af | ATTR.s2.ro | ATTR.page), CONFIG, IPA, PERM.WRITE, { status: WALK.PERMISSION, level: 3 }],
    ["a read of a write-only page", () => fourLevels(ATTR.af | ATTR.s2.wo | ATTR.page), CONFIG, IPA, PERM.READ, { status: WALK.PERMISSION, level: 3 }],
    ["a table outside of RAM", () => {
      const memory = ram();
      put(memory, ROOT, 0, 0x1000, ATTR.table);
      return memory;
    }, CONFIG, IPA, 0, { status: WALK.EXTERNAL_ABORT, level: 1 }],
    ["a table in a page that may not be read", () => {
      const memory = fourLevels();
      memory.perm[memory.pageIndex(L2)] = 2;
      return memory;
    }, CONFIG, IPA, 0, { status: WALK.EXTERNAL_ABORT, level: 2 }],
  ];
  test.each(rows)("%s", (_name, build, config, ipa, need, expected) => {
    expect(walk(build(), config, ipa, need)).toEqual(expected);
  });
});

test("the address of the descriptor that failed", () => {
  const memory = fourLevels();
  memory.perm[memory.pageIndex(L3)] = 0;
  const walker = new Stage2Walker(memory);
  walker.configure(lo32(ROOT), 0, CONFIG);
  expect(walker.walk(IPA, 0)).toBe(WALK.EXTERNAL_ABORT);
  expect(walker.descPaLo).toBe(L3 + 0x145 * 8);
  expect(walker.reads).toBe(3);
});

test("AFFD", () => {
  expect(walk(fourLevels(ATTR.s2.rw | ATTR.page), CONFIG, IPA, 0, STAGE2.AFFD).status).toBe(WALK.OK);
});

test.each([
  [0, PERM.EXECUTE | PERM.PRIV_EXECUTE, PERM.EXECUTE | PERM.PRIV_EXECUTE],
  [1, PERM.EXECUTE | PERM.PRIV_EXECUTE, PERM.EXECUTE],
  [2, 0, 0],
  [3, 0, PERM.PRIV_EXECUTE],
])("XN[1:0] = %i", (xn, plain, xnx) => {
  const memory = fourLevels(LEAF | ATTR.page, xn << 21);
  expect(walk(memory, CONFIG, IPA).perm).toBe(RW | plain);
  expect(walk(memory, CONFIG, IPA, 0, STAGE2.XNX).perm).toBe(RW | xnx);
});

test.each([
  ["reserved TG", vtcr({ t0sz: 24, sl0: 1, tg: 3 })],
  ["too few start entries", vtcr({ t0sz: 30, sl0: 2 })],
  ["more than 16 start tables", vtcr({ t0sz: 20, sl0: 1 })],
])("%s is refused, and every walk faults", (_name, config) => {
  const walker = new Stage2Walker(ram());
  expect(walker.configure(lo32(ROOT), 0, config)).toBe(WALK.TRANSLATION);
  expect(walker.walk(0x1000, 0)).toBe(WALK.TRANSLATION);
});
