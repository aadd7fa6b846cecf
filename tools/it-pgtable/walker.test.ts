// What the hardware's walker makes of the tables: formats, wide addresses, permissions, dirty state, walkers that do not snoop.
import { describe, expect, test } from "vitest";
import {
  ARM_32_LPAE_S1,
  ARM_32_LPAE_S2,
  ARM_64_LPAE_S1,
  ARM_64_LPAE_S2,
  IOMMU_PROT,
  IO_PGTABLE_QUIRK,
  allocIoPgtable,
  allocSharedIoPgtable,
} from "@smmuv3/io-pgtable-arm-common";
import type { TableFormat } from "@smmuv3/io-pgtable-arm-common";
import { PERM } from "@smmuv3/vmsa-walk";
import { Rig, SIZES_16K, SIZES_4K, SIZES_64K } from "./rig.ts";
import type { Options } from "./rig.ts";

const { READ: R, WRITE: W, NOEXEC: X, PRIV: P } = IOMMU_PROT;
const PAGE = 0x1000;
const BLOCK = 0x20_0000;
const GIGA = 2 ** 30;
const BUILDS = [
  ["single agent", allocIoPgtable],
  ["shared", allocSharedIoPgtable],
] as const;

describe.each(BUILDS)("%s", (_, build) => {
  test.each<[string, TableFormat, Options]>([
    ["32 bits, stage 1", ARM_32_LPAE_S1, { ias: 32, oas: 40 }],
    ["32 bits, stage 2", ARM_32_LPAE_S2, { ias: 40, oas: 40 }],
    ["upper half", ARM_64_LPAE_S1, { quirks: IO_PGTABLE_QUIRK.ARM_TTBR1 }],
    ["upper half, 16K", ARM_64_LPAE_S1, { quirks: IO_PGTABLE_QUIRK.ARM_TTBR1, pgsizeBitmap: SIZES_16K }],
    ["NS", ARM_64_LPAE_S1, { quirks: IO_PGTABLE_QUIRK.ARM_NS }],
    ["S2FWB", ARM_64_LPAE_S2, { quirks: IO_PGTABLE_QUIRK.ARM_S2FWB }],
  ])("%s: every size, and the last page", (_name, format, options) => {
    const rig = new Rig(format, { ...options, build });
    const { table } = rig;
    const high = (options.quirks ?? 0) === IO_PGTABLE_QUIRK.ARM_TTBR1;
    const base = high ? -(2 ** table.ias) : 0;
    const sizes = Array.from({ length: 31 }, (_size, i) => 2 ** i).filter((size) => (table.pgsizeBitmap & size) !== 0);
    const pages: [number, number, number][] = sizes.map((size, i) => [base + i * GIGA, 2 ** 39 + i * GIGA, size]);
    pages.push([base + 2 ** table.ias - sizes[0]!, 2 ** table.oas - sizes[0]!, sizes[0]!]);
    for (const [iova, pa, size] of pages) expect(table.mapPages(iova, pa, size, 1, R | W)).toBe(0);
    for (const [iova, pa, size] of pages) {
      for (const offset of [0, 5, size - 1]) {
        expect(rig.walk(iova + offset)).toMatchObject({ pa: pa + offset });
        expect(table.iovaToPhys(iova + offset)).toBe(pa + offset);
      }
      expect(table.unmapPages(iova, size, 1, null)).toBe(size);
      expect(rig.walk(iova)).toBe("fault");
    }
  });

  test.each([
    ["page", 0x1_0000],
    ["block", 2 ** 29],
    ["4T block", 2 ** 42],
  ])("52 bits: a %s", (_name, size) => {
    for (const format of [ARM_64_LPAE_S1, ARM_64_LPAE_S2]) {
      const rig = new Rig(format, { build, pgsizeBitmap: SIZES_64K + 2 ** 42, ias: 52, oas: 52 });
      const pa = 2 ** 51 + 2 ** 48 + size;
      expect(rig.table.mapPages(2 ** 51, pa, size, 1, R)).toBe(0);
      expect(rig.walk(2 ** 51 + size - 1)).toMatchObject({ pa: pa + size - 1 });
      expect(rig.table.iovaToPhys(2 ** 51 + size - 1)).toBe(pa + size - 1);
    }
  });

  test("a walker that does not snoop sees each change when the call returns", () => {
    const rig = new Rig(ARM_64_LPAE_S1, { build, snapshot: true });
    const { table } = rig;
    expect(table.mapPages(0, GIGA, PAGE, 3, R | W)).toBe(0);
    expect(table.mapPages(3 * PAGE, 2 * GIGA, PAGE, 1, R | W)).toBe(0);
    expect([0, 1, 2, 3].map((i) => rig.walk(i * PAGE))).toMatchObject(
      [GIGA, GIGA + PAGE, GIGA + 2 * PAGE, 2 * GIGA].map((pa) => ({ pa })),
    );
    expect(table.unmapPages(PAGE, PAGE, 2, null)).toBe(2 * PAGE);
    expect([0, 1, 2, 3].map((i) => rig.walk(i * PAGE) === "fault")).toEqual([false, true, true, false]);
    expect(table.mapPages(0, 4 * GIGA, BLOCK, 1, R)).toBe(0);
    expect(rig.walk(5 * PAGE)).toMatchObject({ pa: 4 * GIGA + 5 * PAGE });
    // Pointers carry the mark that the walker sees them, and no other.
    const pointers: number[] = [];
    table.walk(0, (level, lo, hi) => level < 2 && pointers.push(lo & 0xfff, hi));
    expect(pointers).toEqual([3, 0x80_0000, 3, 0x80_0000]);
  });

  test("dirty state: a clean page is dirty again after the device wrote to it", () => {
    const rig = new Rig(ARM_64_LPAE_S1, { build, quirks: IO_PGTABLE_QUIRK.ARM_HD });
    const { table } = rig;
    table.mapPages(0, GIGA, PAGE, 4, R | W);
    const dirty = (): number[] => {
      const pages: number[] = [];
      expect(table.readAndClearDirty(0, 4 * PAGE, false, (iova) => pages.push(iova / PAGE), { queued: false })).toBe(0);
      return pages;
    };
    expect([dirty(), dirty()]).toEqual([[0, 1, 2, 3], []]);
    // Without hardware updates a clean page refuses writes.
    expect([rig.walk(2 * PAGE, PERM.WRITE), rig.walk(2 * PAGE)]).toMatchObject(["fault", { pa: GIGA + 2 * PAGE }]);
    expect(rig.dirty(2 * PAGE)).toMatchObject({ pa: GIGA + 2 * PAGE });
    expect([dirty(), dirty()]).toEqual([[2], []]);
    expect(table.unmapPages(0, PAGE, 4, null)).toBe(4 * PAGE);
  });
});

const { READ, WRITE, EXECUTE, PRIV_READ, PRIV_WRITE, PRIV_EXECUTE } = PERM;
test.each([
  [R, READ | EXECUTE | PRIV_READ | PRIV_EXECUTE],
  // What unprivileged code may write to, privileged code does not execute.
  [R | W, READ | WRITE | EXECUTE | PRIV_READ | PRIV_WRITE],
  [W, READ | WRITE | EXECUTE | PRIV_READ | PRIV_WRITE],
  [R | X, READ | PRIV_READ],
  [R | W | X, READ | WRITE | PRIV_READ | PRIV_WRITE],
  [R | W | X | P, PRIV_READ | PRIV_WRITE],
  [R | X | P, PRIV_READ],
])("stage 1, prot %i: rights %i", (prot, rights) => {
  const rig = new Rig(ARM_64_LPAE_S1, { pgsizeBitmap: SIZES_4K });
  rig.table.mapPages(0, 0, PAGE, 1, prot);
  expect(rig.walk(0, 0)).toEqual({ pa: 0, perm: rights });
});

test.each([
  [R, READ],
  [W, WRITE],
  [R | W, READ | WRITE],
])("stage 2, prot %i: rights %i, each by itself", (prot, rights) => {
  const rig = new Rig(ARM_64_LPAE_S2);
  rig.table.mapPages(0, 0, PAGE, 1, prot | X);
  const got = rig.walk(0, 0);
  expect(got === "fault" ? got : got.perm & (READ | WRITE)).toBe(rights);
  expect([rig.walk(0, READ) === "fault", rig.walk(0, WRITE) === "fault"]).toEqual([(prot & R) === 0, (prot & W) === 0]);
});

test("a table that goes is never read after its memory is back", () => {
  // Freed tables are filled with garbage, in which the walker would find something.
  const rig = new Rig(ARM_64_LPAE_S1);
  const { table } = rig;
  for (let i = 0; i < 4; i++) table.mapPages(i * BLOCK, GIGA, PAGE, 512, R);
  const before = rig.live.size;
  expect(table.unmapPages(0, BLOCK, 2, null)).toBe(2 * BLOCK);
  expect(table.mapPages(2 * BLOCK, 4 * GIGA, BLOCK, 1, R)).toBe(0);
  expect(before - rig.live.size).toBe(3);
  expect([0, 1, 2, 3].map((i) => rig.walk(i * BLOCK + 7))).toMatchObject(["fault", "fault", { pa: 4 * GIGA + 7 }, { pa: GIGA + 7 }]);
});
