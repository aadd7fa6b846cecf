// Several agents on one set of tables, in one thread: what needs more than one is tested with worker threads elsewhere.
import { expect, test } from "vitest";
import { IOMMU_PROT, allocSharedIoPgtable, attachSharedIoPgtable } from "../src/index.ts";
import type { SharedIoPgtable, SharedIoPgtableConfig } from "../src/index.ts";
import { Harness, SIZES_4K } from "./harness.ts";

const RW = IOMMU_PROT.READ | IOMMU_PROT.WRITE;
const PAGE = 0x1000;
const BLOCK = 0x20_0000;

/** Two agents with the allocator and callbacks of one harness. */
function agents(more: Partial<SharedIoPgtableConfig> = {}): { h: Harness; a: SharedIoPgtable; b: SharedIoPgtable } {
  let config: SharedIoPgtableConfig | undefined;
  let a: SharedIoPgtable | undefined;
  const h = new Harness("64_S1", {
    build: (fmt, cfg) => {
      config = { ...cfg, ...more };
      a = allocSharedIoPgtable(fmt, config);
      return a;
    },
  });
  return { h, a: a!, b: attachSharedIoPgtable("64_S1", config!, a!.handle) };
}

test("an agent that attaches makes no table and finds what others map", () => {
  const { h, a, b } = agents();
  expect([b.pgd, h.allocations, b.tableBytes]).toEqual([a.pgd, 1, PAGE]);
  expect(a.mapPages(0, 0x7000, PAGE, 2, RW)).toBe(0);
  expect(b.iovaToPhys(PAGE + 3)).toBe(0x8003);
  expect(b.mapPages(PAGE, 0x9000, PAGE, 1, RW)).toBe(-17);
  expect(b.mapPages(2 * PAGE, 0x9000, PAGE, 1, RW)).toBe(0);
  expect([h.allocations, a.tableBytes, b.tableBytes]).toEqual([4, 4 * PAGE, 4 * PAGE]);
  expect(b.unmapPages(0, PAGE, 3, null)).toBe(3 * PAGE);
  expect(a.iovaToPhys(0)).toBe(0);
});

test("tables that one agent replaces are not where the other looks", () => {
  const { h, a, b } = agents();
  a.mapPages(0, 0, PAGE, 1, RW);
  expect(b.iovaToPhys(5)).toBe(5);
  expect(b.mapPages(0, 4 * BLOCK, BLOCK, 1, RW)).toBe(0);
  expect(a.iovaToPhys(5)).toBe(4 * BLOCK + 5);
  expect(a.unmapPages(0, 2 ** 30, 1, null)).toBe(2 ** 30);
  expect(b.mapPages(PAGE, 0x7000, PAGE, 1, RW)).toBe(0);
  expect(a.iovaToPhys(PAGE)).toBe(0x7000);
  expect(a.tableBytes).toBe(h.live.size * PAGE);
});

test("a descriptor that is held is waited for, and no hole nor a leaf to a look-up", () => {
  let freed = 0;
  const held = { slot: 0, lo: 0 };
  const { h, a, b } = agents({
    relax: () => {
      freed++;
      if (freed === 3) h.memory.words[held.slot] = held.lo;
    },
  });
  a.mapPages(0, 0x7000, PAGE, 1, RW);
  // What another agent does in the middle of a change.
  const hold = (): void => {
    const leaf = [...h.live.keys()].at(-1)!;
    held.slot = h.memory.index(leaf, true);
    held.lo = h.memory.words[held.slot]!;
    h.memory.words[held.slot] = 2;
    freed = 0;
  };
  hold();
  expect([b.iovaToPhys(0), b.found, freed]).toEqual([0, false, 0]);
  expect([b.mapPages(0, 0x9000, PAGE, 1, RW), freed]).toEqual([-17, 3]);
  hold();
  expect([b.unmapPages(0, PAGE, 1, null), freed]).toEqual([PAGE, 3]);
  expect(h.leaves()).toEqual([]);
});

test("a refusal names the field", () => {
  const { h, a } = agents();
  const cfg = { memory: h.memory, pgsizeBitmap: SIZES_4K, ias: 48, oas: 41, coherentWalk: true, alloc: () => -1, free() {} };
  const tlb = { flushAll() {}, flushWalk() {}, addPage() {} };
  expect(() => attachSharedIoPgtable("64_S1", { ...cfg, tlb }, a.handle)).toThrow(/^allocIoPgtable: oas /);
  expect(() => allocSharedIoPgtable("64_S1", { ...cfg, oas: 48, tlb })).toThrow("alloc gave no table");
});
