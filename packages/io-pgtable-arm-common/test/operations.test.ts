import { describe, expect, test } from "vitest";
import { ERRNO, Memory, MemoryAbort, PERM_READ, PERM_RW } from "@smmuv3/platform";
import { IOMMU_PROT, IO_PGTABLE_QUIRK, allocGenericIoPgtable, allocIoPgtable, allocSharedIoPgtable } from "../src/index.ts";
import { Harness, RAM, SIZES_16K, SIZES_4K, SIZES_64K } from "./harness.ts";

const RW = IOMMU_PROT.READ | IOMMU_PROT.WRITE;
const { EINVAL, ERANGE, EEXIST, ENOMEM } = ERRNO;
const PAGE = 0x1000;
const BLOCK = 0x20_0000;
const GIGA = 0x4000_0000;
const UPPER = -(2 ** 48);

// The specialised classes, the general one (non-coherent; a table of one or two levels), and the upper half.
describe.each([
  ["specialised", {}, 0],
  ["general", { coherentWalk: false }, 0],
  ["3 levels", { ias: 39 }, 0],
  ["upper half", { quirks: IO_PGTABLE_QUIRK.ARM_TTBR1 }, UPPER],
  ["generic", { build: allocGenericIoPgtable }, 0],
  ["shared", { build: allocSharedIoPgtable }, 0],
  ["shared, upper half", { build: allocSharedIoPgtable, quirks: IO_PGTABLE_QUIRK.ARM_TTBR1 }, UPPER],
])("%s", (_, options, base) => {
  const make = (more = {}): Harness => new Harness("64_S1", { ...options, ...more });

  test.each([
    ["a size that is not supported", 0, 0, 0x2000, RW, -EINVAL, ["bad page size"]],
    ["no size", 0, 0, 0, RW, -EINVAL, ["bad page size"]],
    ["two sizes", 0, 0, 0x20_1000, RW, -EINVAL, ["bad page size"]],
    ["an IOVA above ias", 2 ** 48, 0, PAGE, RW, -ERANGE, ["address out of range"]],
    ["a PA above oas", 0, 2 ** 48, PAGE, RW, -ERANGE, ["address out of range"]],
    ["no access", 0, 0, PAGE, IOMMU_PROT.CACHE, -EINVAL, []],
    ["a bad size before a bad address", 2 ** 48, 0, 0x2000, 0, -EINVAL, ["bad page size"]],
    ["a bad address before no access", 2 ** 48, 0, PAGE, 0, -ERANGE, ["address out of range"]],
  ])("map refuses %s", (_name, iova, pa, pgsize, prot, status, warnings) => {
    const h = make();
    expect(h.table.mapPages(base + iova, pa, pgsize, 1, prot)).toBe(status);
    expect([h.table.mapped, h.warnings, h.table.warnings]).toEqual([0, warnings, warnings.length]);
    expect(h.allocations).toBe(1);
  });

  test.each([
    ["a size that is not supported", 0, 0x2000, 1, "bad page size"],
    ["no pages", 0, PAGE, 0, "bad page size"],
    ["an IOVA above ias", 2 ** 48, PAGE, 1, "address out of range"],
    ["a hole", 0, PAGE, 1, "not mapped"],
  ])("unmap refuses %s", (_name, iova, pgsize, count, warning) => {
    const h = make();
    expect(h.table.unmapPages(base + iova, pgsize, count, null)).toBe(0);
    expect(h.warnings).toEqual([warning]);
  });

  test("a leaf stays when something is mapped over it", () => {
    const h = make();
    expect(h.table.mapPages(base + BLOCK, BLOCK, BLOCK, 1, RW)).toBe(0);
    expect(h.table.mapPages(base + 5 * PAGE, 0x9000, PAGE, 1, RW)).toBe(0);
    const before = h.leaves();
    const refused = (iova: number, pgsize: number, count: number): void => {
      expect(h.table.mapPages(base + iova, 0, pgsize, count, RW)).toBe(-EEXIST);
      expect(h.table.mapped).toBe(0);
    };
    refused(5 * PAGE, PAGE, 1);
    refused(2 * PAGE, PAGE, 8);
    refused(BLOCK, BLOCK, 1);
    refused(BLOCK + PAGE, PAGE, 1);
    expect(h.warnings).toEqual(Array(4).fill("already mapped"));
    expect(h.leaves()).toEqual(before);
  });

  test("NO_WARN silences overlaps and holes, not misuse", () => {
    const h = make({ quirks: IO_PGTABLE_QUIRK.NO_WARN | (base === 0 ? 0 : IO_PGTABLE_QUIRK.ARM_TTBR1) });
    h.table.mapPages(base, 0, PAGE, 1, RW);
    expect(h.table.mapPages(base, 0, PAGE, 1, RW)).toBe(-EEXIST);
    expect(h.table.unmapPages(base + PAGE, PAGE, 1, null)).toBe(0);
    expect(h.warnings).toEqual([]);
    expect(h.table.mapPages(base, 0, 0x2000, 1, RW)).toBe(-EINVAL);
    expect(h.warnings).toEqual(["bad page size"]);
  });

  test("a call ends with its table", () => {
    const h = make();
    expect(h.table.mapPages(base + 500 * PAGE, 0, PAGE, 100, RW)).toBe(0);
    expect(h.table.mapped).toBe(12 * PAGE);
    expect(h.table.mapPages(base + 512 * PAGE, 12 * PAGE, PAGE, 88, RW)).toBe(0);
    expect(h.table.mapped).toBe(88 * PAGE);
    expect(h.table.unmapPages(base + 510 * PAGE, PAGE, 5, null)).toBe(2 * PAGE);
    expect(h.leaves()).toHaveLength(98);
  });

  test("unmap stops at a hole with what it did", () => {
    const h = make();
    h.table.mapPages(base, 0, PAGE, 7, RW);
    h.table.mapPages(base + 8 * PAGE, 0, PAGE, 8, RW);
    expect(h.table.unmapPages(base, PAGE, 16, null)).toBe(7 * PAGE);
    expect(h.warnings).toEqual(["not mapped"]);
    expect(h.leaves()).toHaveLength(8);
  });

  test("part of a block is not unmapped, and warned about once", () => {
    const h = make();
    h.table.mapPages(base + BLOCK, BLOCK, BLOCK, 1, RW);
    expect(h.table.unmapPages(base + BLOCK, PAGE, 1, null)).toBe(0);
    expect(h.table.unmapPages(base + BLOCK + PAGE, PAGE, 4, null)).toBe(0);
    expect(h.warnings).toEqual(["partial unmap of a block"]);
    expect(h.table.iovaToPhys(base + BLOCK + 0x12345)).toBe(BLOCK + 0x12345);
  });

  test("a block over a table: cleared, flushed, freed, mapped", () => {
    const h = make();
    h.table.mapPages(base, 0, PAGE, 1, RW);
    h.table.unmapPages(base, PAGE, 1, null);
    h.take();
    const freed = [...h.live.keys()].at(-1)!;
    expect(h.table.mapPages(base, 0x4000_0000, BLOCK, 1, RW)).toBe(0);
    expect(h.take(["flushWalk", "free"])).toEqual([
      ["flushWalk", base, BLOCK, PAGE],
      ["free", freed, PAGE],
    ]);
    expect(h.leaves()).toEqual([[base, BLOCK, 0x4000_0000]]);
  });

  test("unmapping a size larger than what is mapped frees whole sub-trees", () => {
    const h = make();
    const gather = { queued: false };
    h.table.mapPages(base, 0, PAGE, 3, RW);
    h.table.mapPages(base + BLOCK, 0, PAGE, 512, RW);
    h.table.mapPages(base + 2 * BLOCK, 0, BLOCK, 1, RW);
    const live = h.live.size;
    h.take();
    expect(h.table.unmapPages(base, BLOCK, 3, gather)).toBe(3 * BLOCK);
    const events = h.take(["flushWalk", "free", "addPage"]);
    expect(events.map(([kind, iova]) => [kind, kind === "free" ? 0 : iova])).toEqual([
      ["flushWalk", base],
      ["free", 0],
      ["flushWalk", base + BLOCK],
      ["free", 0],
      ["addPage", base],
      ["addPage", base + BLOCK],
      ["addPage", base + 2 * BLOCK],
    ]);
    expect([h.live.size, h.leaves()]).toEqual([live - 2, []]);

    h.table.mapPages(base, 0, PAGE, 3, RW);
    h.table.mapPages(base + BLOCK, 0, PAGE, 3, RW);
    h.take();
    expect(h.table.unmapPages(base, GIGA, 1, gather)).toBe(GIGA);
    expect(h.take(["flushWalk", "free", "addPage"]).map(([kind]) => kind)).toEqual([
      "flushWalk",
      "free",
      "free",
      "free",
      "addPage",
    ]);
    // Tables are made anew, not found where they were.
    expect(h.table.iovaToPhys(base)).toBe(0);
    expect(h.table.mapPages(base, 0x7000, PAGE, 1, RW)).toBe(0);
    expect(h.leaves()).toEqual([[base, PAGE, 0x7000]]);
  });

  test("a gather that is queued, or none, is told nothing", () => {
    const h = make();
    for (const count of [1, 4]) {
      h.table.mapPages(base, 0, PAGE, 8, RW);
      h.take();
      expect(h.table.unmapPages(base, PAGE, count, { queued: true })).toBe(count * PAGE);
      expect(h.table.unmapPages(base + 4 * PAGE, PAGE, count, null)).toBe(count * PAGE);
      expect(h.take(["addPage", "flushWalk"])).toEqual([]);
      h.table.unmapPages(base, GIGA, 1, null);
    }
  });

  test("a gather is told each page, ascending", () => {
    const h = make();
    h.table.mapPages(base + GIGA, 0, PAGE, 6, RW);
    h.take();
    h.table.unmapPages(base + GIGA, PAGE, 1, { queued: false });
    h.table.unmapPages(base + GIGA + PAGE, PAGE, 5, { queued: false });
    expect(h.take(["addPage"])).toEqual([0, 1, 2, 3, 4, 5].map((i) => ["addPage", base + GIGA + i * PAGE, PAGE]));
  });

  test("out of memory at the n-th table: the tables before it stay", () => {
    const h = make({ tables: 1 });
    const levels = 4 - h.table.startLevel;
    for (let missing = levels - 1; missing > 0; missing--) {
      expect(h.table.mapPages(base, 0x7000, PAGE, 1, RW)).toBe(-ENOMEM);
      expect(h.table.mapped).toBe(0);
      expect(h.table.tableBytes).toBe((levels - missing) * PAGE);
      h.allow(1);
    }
    expect(h.table.mapPages(base, 0x7000, PAGE, 1, RW)).toBe(0);
    expect(h.table.tableBytes).toBe(levels * PAGE);
    expect(h.warnings).toEqual([]);
  });

  test("PA 0 is an address", () => {
    const h = make();
    expect([h.table.iovaToPhys(base), h.table.found]).toEqual([0, false]);
    h.table.mapPages(base, 0, PAGE, 1, RW);
    expect([h.table.iovaToPhys(base), h.table.found]).toEqual([0, true]);
  });

  test("walk shows every level, and a hole", () => {
    const h = make();
    h.table.mapPages(base, 0, PAGE, 1, RW);
    const levels: number[] = [];
    expect(h.table.walk(base, (level) => levels.push(level))).toBe(0);
    expect(levels).toEqual([0, 1, 2, 3].slice(h.table.startLevel));
    levels.length = 0;
    expect(h.table.walk(base + BLOCK, (level) => levels.push(level))).toBe(-EINVAL);
    expect(levels.at(-1)).toBe(2);
  });

  test("free: everything is invalidated first, sub-tables go before the tables that point to them", () => {
    const h = make();
    for (const iova of [0, BLOCK, GIGA]) h.table.mapPages(base + iova, 0, PAGE, 1, RW);
    h.take();
    const live = h.live.size;
    h.table.free();
    const events = h.take();
    expect(events[0]).toEqual(["flushAll"]);
    expect(events.slice(1).map(([kind]) => kind)).toEqual(Array(live).fill("free"));
    expect(events.at(-1)).toEqual(["free", h.table.pgd, PAGE]);
    expect([h.live.size, h.table.tableBytes]).toEqual([0, 0]);
  });
});

test("runs end with each of several concatenated tables", () => {
  const h = new Harness("64_S2", { ias: 40, oas: 40 });
  expect(h.table.startLevel).toBe(1);
  expect(h.table.mapPages(510 * GIGA, 0, GIGA, 4, RW)).toBe(0);
  expect(h.table.mapped).toBe(2 * GIGA);
  expect(h.table.mapPages(512 * GIGA, 2 * GIGA, GIGA, 4, RW)).toBe(0);
  expect(h.table.mapPages(600 * GIGA, 0x5000, PAGE, 1, RW)).toBe(0);
  expect(h.table.mapPages(600 * GIGA + PAGE, 0x9000, PAGE, 1, RW)).toBe(0);
  expect(h.leaves().map(([iova]) => iova)).toEqual([510, 511, 512, 513, 514, 515, 600, 600 + PAGE / GIGA].map((x) => x * GIGA));
  expect(h.table.iovaToPhys(600 * GIGA + PAGE + 5)).toBe(0x9005);
});

test("a look-up at level 2 of concatenated tables", () => {
  const h = new Harness("64_S2", { pgsizeBitmap: SIZES_16K, ias: 40, oas: 40 });
  expect(h.table.startLevel).toBe(2);
  for (const iova of [0, 2 ** 36, 15 * 2 ** 36]) {
    expect(h.table.mapPages(iova, iova + 0x4000, 0x4000, 1, RW)).toBe(0);
    expect(h.table.mapPages(iova + 0x4000, iova, 0x4000, 1, RW)).toBe(0);
    expect(h.table.iovaToPhys(iova + 0x4003)).toBe(iova + 3);
  }
});

test("an unmap is not fooled by the walk cache after its table was replaced", () => {
  const h = new Harness("64_S1");
  h.table.mapPages(GIGA, 0x1000, PAGE, 1, RW);
  h.table.mapPages(GIGA + PAGE, 0x2000, PAGE, 1, RW);
  expect(h.table.mapPages(GIGA, 8 * GIGA, GIGA, 1, RW)).toBe(0);
  expect(h.table.iovaToPhys(GIGA + 5)).toBe(8 * GIGA + 5);
  expect(h.table.unmapPages(GIGA, PAGE, 1, null)).toBe(0);
  expect(h.table.unmapPages(GIGA, GIGA, 1, null)).toBe(GIGA);
  expect(h.table.iovaToPhys(GIGA)).toBe(0);
  expect(h.table.mapPages(GIGA, 0x3000, PAGE, 1, RW)).toBe(0);
  expect(h.table.mapPages(GIGA + PAGE, 0x4000, PAGE, 1, RW)).toBe(0);
  expect(h.leaves()).toEqual([[GIGA, PAGE, 0x3000], [GIGA + PAGE, PAGE, 0x4000]]);
});

// 4K, 16K, 64K: what a class keeps of an IOVA to find its table again loses other high bits in each.
test.each([SIZES_4K, SIZES_16K, SIZES_64K])("sizes %i: nothing is found, mapped or unmapped above the address space", (pgsizeBitmap) => {
  const { table } = new Harness("64_S1", { pgsizeBitmap });
  const page = table.granule;
  for (const iova of [0, page]) expect(table.mapPages(iova, 7 * page, page, 1, RW)).toBe(0);
  for (let bit = 48; bit < 64; bit++) {
    const above = 2 ** bit;
    expect([table.iovaToPhys(above), table.found]).toEqual([0, false]);
    expect(table.walk(above, () => {})).toBe(-EINVAL);
    expect(table.unmapPages(above, page, 1, null)).toBe(0);
    expect(table.mapPages(above + 2 * page, 0, page, 1, RW)).toBe(-ERANGE);
  }
  expect([table.iovaToPhys(-(2 ** 48)), table.iovaToPhys(0)]).toEqual([0, 7 * page]);
});

// A table that is made full is not zeroed first.
test.each([
  [SIZES_4K, PAGE, 512],
  [SIZES_4K, BLOCK, 512],
  [SIZES_16K, 0x4000, 2048],
  [SIZES_64K, 0x1_0000, 8192],
])("sizes %i: %i bytes x %i fill a table", (pgsizeBitmap, size, entries) => {
  const h = new Harness("64_S1", { pgsizeBitmap });
  const at = size * entries;
  expect([h.table.mapPages(at, size, size, entries, RW), h.table.mapped]).toEqual([0, at]);
  expect(h.leaves()).toEqual(Array.from({ length: entries }, (_, i) => [at + i * size, size, (i + 1) * size]));
  expect(h.table.mapPages(at + size, 0, size, 1, RW)).toBe(-EEXIST);
  expect(h.table.unmapPages(at, size, entries, null)).toBe(at);
  // One less, and the rest is empty.
  expect(h.table.mapPages(2 * at, 0, size, entries - 1, RW)).toBe(0);
  expect(h.leaves()).toHaveLength(entries - 1);
  h.allow(0);
  expect([h.table.mapPages(8 * at, 0, size, entries, RW), h.table.mapped]).toEqual([-ENOMEM, 0]);
});

test("IOVAs of the upper half may be given as 2^64 - x", () => {
  const h = new Harness("64_S1", { quirks: IO_PGTABLE_QUIRK.ARM_TTBR1 });
  expect(h.table.mapPages(2 ** 64 - 2 ** 48 + 0x5000, 0x7000, PAGE, 1, RW)).toBe(0);
  expect(h.table.iovaToPhys(UPPER + 0x5123)).toBe(0x7123);
  expect(h.table.mapPages(0x5000, 0x7000, PAGE, 1, RW)).toBe(-ERANGE);
});

test.each([
  ["single agent", allocIoPgtable],
  ["shared", allocSharedIoPgtable],
])("a walker that does not snoop is shown exactly what changed: %s", (_, build) => {
  const h = new Harness("64_S1", { build, coherentWalk: false, ias: 39 });
  const { pgd } = h.table;
  h.table.mapPages(3 * PAGE, 0, PAGE, 4, RW);
  const [level2, level3] = [...h.live.keys()].slice(1) as [number, number];
  expect(h.take(["alloc", "sync"])).toEqual([
    ["alloc", level2, PAGE],
    ["sync", level2, PAGE],
    ["sync", pgd, 8],
    ["alloc", level3, PAGE],
    ["sync", level3, PAGE],
    ["sync", level2, 8],
    ["sync", level3 + 24, 32],
  ]);
  h.table.unmapPages(4 * PAGE, PAGE, 2, null);
  expect(h.take(["sync"])).toEqual([["sync", level3 + 32, 16]]);
  h.table.unmapPages(0, BLOCK, 1, null);
  expect(h.take().map(([kind]) => kind)).toEqual(["sync", "flushWalk", "free", "sync"]);
});

test("a coherent walker is shown nothing", () => {
  const h = new Harness("64_S1");
  h.table.mapPages(0, 0, PAGE, 4, RW);
  h.table.unmapPages(0, PAGE, 4, null);
  expect(h.take(["sync"])).toEqual([]);
});

describe("permission", () => {
  test("is asked for once per table page, and an abort changes nothing", () => {
    const ram = Memory.allocate({ base: RAM, size: 8 << 20 });
    const asked: [pa: number, write: boolean][] = [];
    let grant = true;
    const view = ram.view((pa, write) => {
      asked.push([pa, write]);
      if (!grant) throw new MemoryAbort(pa, write);
      view.perm[view.pageIndex(pa)] = PERM_RW;
    });
    const h = new Harness("64_S1", { memory: view });
    expect(h.table.mapPages(0, 0x7000, PAGE, 1, RW)).toBe(0);
    const [pgd, level1, level2, level3] = [...h.live.keys()] as [number, number, number, number];

    const revoke = (): void => {
      view.perm.fill(0);
      asked.length = 0;
    };
    revoke();
    expect(h.table.iovaToPhys(0x123)).toBe(0x7123);
    expect(asked.every(([, write]) => !write)).toBe(true);
    expect(new Set(asked.map(([pa]) => pa - (pa % PAGE)))).toEqual(new Set([pgd, level1, level2, level3]));
    asked.length = 0;
    h.table.iovaToPhys(0x456);
    expect(asked).toEqual([]);

    revoke();
    grant = false;
    expect(() => h.table.mapPages(PAGE, 0x8000, PAGE, 1, RW)).toThrow(MemoryAbort);
    expect(() => h.table.unmapPages(0, PAGE, 1, null)).toThrow(MemoryAbort);
    expect(() => h.table.iovaToPhys(0)).toThrow(MemoryAbort);
    expect(() => h.table.mapPages(PAGE, 0x8000, PAGE, 4, RW)).toThrow(MemoryAbort);
    view.perm.fill(PERM_READ);
    expect(() => h.table.mapPages(PAGE, 0x8000, PAGE, 1, RW)).toThrow(MemoryAbort);
    expect(() => h.table.unmapPages(0, PAGE, 1, null)).toThrow(MemoryAbort);
    view.perm.fill(PERM_RW);
    expect(h.leaves()).toEqual([[0, PAGE, 0x7000]]);
  });
});

describe.each([
  ["single agent", allocIoPgtable],
  ["shared", allocSharedIoPgtable],
])("dirty state: %s", (_variant, build) => {
  const make = (): Harness => {
    const h = new Harness("64_S1", { build, quirks: IO_PGTABLE_QUIRK.ARM_HD });
    h.table.mapPages(0, 0x10_0000, PAGE, 4, RW);
    h.table.mapPages(4 * PAGE, 0, PAGE, 1, IOMMU_PROT.READ);
    h.table.mapPages(BLOCK, BLOCK, BLOCK, 1, RW);
    return h;
  };
  const read = (h: Harness, iova: number, size: number, noClear = false, queued?: boolean): [number, number[]] => {
    const dirty: number[] = [];
    const gather = queued === undefined ? null : { queued };
    const status = h.table.readAndClearDirty(iova, size, noClear, (at) => dirty.push(at), gather);
    return [status, dirty];
  };

  test("writable pages start dirty and are cleaned", () => {
    const h = make();
    expect(read(h, 0, 5 * PAGE, true)).toEqual([0, [0, PAGE, 2 * PAGE, 3 * PAGE]]);
    expect(read(h, PAGE, 2 * PAGE)).toEqual([0, [PAGE, 2 * PAGE]]);
    expect(read(h, 0, 5 * PAGE)).toEqual([0, [0, 3 * PAGE]]);
    expect(read(h, 0, 5 * PAGE)).toEqual([0, []]);
    expect(read(h, BLOCK + 5 * PAGE, PAGE)).toEqual([0, [BLOCK]]);
    // What the hardware does on the next write.
    const slot = h.memory.index([...h.live.keys()].at(-1)! + 8, true);
    h.memory.words[slot]! &= ~0x80;
    expect(read(h, 0, 5 * PAGE)).toEqual([0, [PAGE]]);
    expect(h.take(["flushWalk", "flushAll", "addPage"])).toEqual([]);
  });

  test("a gather is told what was made clean, and of nothing that is only read", () => {
    const h = make();
    h.take();
    read(h, 0, 5 * PAGE, true, false);
    read(h, 0, PAGE, false, true);
    expect(h.take(["addPage"])).toEqual([]);
    expect(read(h, 0, 5 * PAGE, false, false)).toEqual([0, [PAGE, 2 * PAGE, 3 * PAGE]]);
    read(h, BLOCK + PAGE, PAGE, false, false);
    expect(h.take(["addPage"])).toEqual([
      ...[1, 2, 3].map((i) => ["addPage", i * PAGE, PAGE]),
      ["addPage", BLOCK, BLOCK],
    ]);
    read(h, 0, 5 * PAGE, false, false);
    expect(h.take(["addPage"])).toEqual([]);
  });

  test.each([
    ["a hole", 4 * PAGE, 2 * PAGE, []],
    ["no size", 0, 0, ["dirty range"]],
    ["an end above ias", 2 ** 48 - PAGE, 2 * PAGE, ["dirty range"]],
  ])("refuses %s", (_name, iova, size, warnings) => {
    const h = make();
    expect(read(h, iova, size)).toEqual([-EINVAL, []]);
    expect(h.warnings).toEqual(warnings);
  });

  test("refuses stage 2", () => {
    const h = new Harness("64_S2");
    h.table.mapPages(0, 0, PAGE, 1, RW);
    expect(read(h, 0, PAGE)).toEqual([-EINVAL, []]);
  });
});

test.each([
  [SIZES_4K, PAGE, 48],
  [SIZES_16K, 0x4000, 47],
  [SIZES_64K, 0x1_0000, 42],
])("sizes %i: the last page of both spaces", (pgsizeBitmap, page, bits) => {
  const h = new Harness("64_S1", { pgsizeBitmap, ias: bits });
  const last = 2 ** bits - page;
  // The first call makes the tables, so that the second takes the path on which they exist.
  for (let i = 0; i < 2; i++) {
    expect(h.table.mapPages(last, 2 ** 48 - page, page, i === 0 ? 9 : 1, RW)).toBe(0);
    expect([h.table.mapped, h.table.iovaToPhys(2 ** bits - 1)]).toEqual([page, 2 ** 48 - 1]);
    expect(h.table.unmapPages(last, page, 1, null)).toBe(page);
  }
});

test.each([true, false])("tables on both sides of 4 GiB (coherent: %s)", (coherentWalk) => {
  const memory = Memory.allocate({ base: 2 ** 32 - 2 * PAGE, size: 1 << 20 });
  let next = memory.base;
  const table = allocIoPgtable("64_S1", {
    memory,
    pgsizeBitmap: SIZES_4K,
    ias: 48,
    oas: 48,
    coherentWalk,
    tlb: { flushAll() {}, flushWalk() {}, addPage() {} },
    alloc: (bytes) => (next += bytes) - bytes,
    free() {},
  });
  for (const iova of [0, PAGE, GIGA, GIGA + PAGE]) {
    expect(table.mapPages(iova, iova + GIGA, PAGE, 1, RW)).toBe(0);
    expect(table.iovaToPhys(iova + 7)).toBe(iova + GIGA + 7);
  }
  const tablesAt: number[] = [];
  table.walk(0, (level, lo, hi) => {
    if (level < 3) tablesAt.push((lo & ~0xfff) >>> 0, hi & 0xffff);
  });
  expect(tablesAt).toEqual([0xffff_f000, 0, 0, 1, PAGE, 1]);
  for (const iova of [0, PAGE, GIGA, GIGA + PAGE]) expect(table.unmapPages(iova, PAGE, 1, null)).toBe(PAGE);
});
