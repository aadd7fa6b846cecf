import { ERRNO, Memory, PAGE_SIZE } from "@smmuv3/platform";
import { RV_PTE } from "@smmuv3/riscv-iommu-defs";
import { describe, expect, test } from "vitest";
import { SvTable } from "../src/index.ts";

const BASE = 0x8000_0000;
const RIGHTS = RV_PTE.r | RV_PTE.w;

/** Tables over 1 MiB of RAM, of which `pages` may be used; `live` counts what is in use. */
function tables(pages: number): { table: SvTable; memory: Memory; live: () => number } {
  const memory = Memory.allocate({ base: BASE, size: 0x10_0000 });
  let next = BASE;
  let live = 0;
  const table = SvTable.create({
    memory,
    alloc(bytes) {
      const pa = Math.ceil(next / bytes) * bytes;
      if (live + bytes / PAGE_SIZE > pages) return -ERRNO.ENOMEM;
      next = pa + bytes;
      live += bytes / PAGE_SIZE;
      return pa;
    },
    free(_pa, bytes) {
      live -= bytes / PAGE_SIZE;
    },
  });
  if (typeof table === "number") throw new Error(`no root: ${table}`);
  return { table, memory, live: () => live };
}

describe("map", () => {
  test.each([
    ["a page", 0x1000, 0x9000_0000, PAGE_SIZE, 0],
    ["2 MiB", 0x4020_0000, 0x9020_0000, 0x20_0000, 0],
    ["1 GiB at the top of the 50-bit space", 2 ** 50 - 2 ** 30, 0x4000_0000, 2 ** 30, 0],
    ["beyond the space", 2 ** 50, 0, PAGE_SIZE, -ERRNO.EINVAL],
    ["an address off its size", 0x1000, 0, 0x20_0000, -ERRNO.EINVAL],
    ["an output off its size", 0, 0x1000, 0x20_0000, -ERRNO.EINVAL],
    ["a size that is no leaf", 0, 0, 0x4000, -ERRNO.EINVAL],
  ])("%s", (_name, address, pa, size, expected) => {
    const { table } = tables(32);
    expect(table.map(address, pa, size, RIGHTS)).toBe(expected);
    expect(table.lookUp(address)).toBe(expected === 0);
    if (expected !== 0) return;
    expect([table.leafPa, table.leafSize]).toEqual([pa, size]);
    expect(table.map(address, pa, size, RIGHTS)).toBe(-ERRNO.EEXIST);
    expect(table.map(address, pa, PAGE_SIZE, RIGHTS)).toBe(-ERRNO.EEXIST);
    table.lookUp(address);
    table.clear();
    expect(table.lookUp(address)).toBe(false);
  });

  test.each([4, 5, 6])("with memory for %d pages it fails whole", (pages) => {
    const { table } = tables(pages);
    expect(table.map(0x1000, 0, PAGE_SIZE, RIGHTS)).toBe(-ERRNO.ENOMEM);
    expect(table.lookUp(0x1000)).toBe(false);
  });
});

test.each([[0x20_0000, PAGE_SIZE], [2 ** 30, 0x20_0000]])("in place of an empty table, %d bytes are mapped by leaves of %d", (size, leaf) => {
  const { table } = tables(64);
  const at = 2 ** 40;
  table.map(at + leaf, 0x9000_0000, leaf, RIGHTS);
  expect(table.map(at, 2 ** 32, size, RIGHTS)).toBe(-ERRNO.EEXIST);
  table.lookUp(at + leaf);
  table.clear();
  expect(table.map(at, 2 ** 32, size, RIGHTS)).toBe(0);
  for (const offset of [0, leaf, size - leaf]) {
    expect(table.lookUp(at + offset)).toBe(true);
    expect([table.leafPa, table.leafSize]).toEqual([2 ** 32 + offset, leaf]);
  }
});

test("without memory for the root there is no table", () => {
  const memory = Memory.allocate({ base: BASE, size: PAGE_SIZE });
  expect(SvTable.create({ memory, alloc: () => -ERRNO.ENOMEM, free: () => {} })).toBe(-ERRNO.ENOMEM);
});

test("free visits every leaf once and gives all memory back", () => {
  const { table, live } = tables(64);
  const leaves = [[0, 0x9000_0000, PAGE_SIZE], [0x20_0000, 0x9020_0000, 0x20_0000], [2 ** 49, 0x9000_1000, PAGE_SIZE]] as const;
  for (const [address, pa, size] of leaves) table.map(address, pa, size, RIGHTS);
  const seen: number[][] = [];
  table.free((pa, size) => seen.push([pa, size]));
  expect(seen).toEqual(leaves.map(([, pa, size]) => [pa, size]));
  expect(live()).toBe(0);
});
