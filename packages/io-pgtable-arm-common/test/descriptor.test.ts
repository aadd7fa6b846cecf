import { expect, test } from "vitest";
import {
  ARM_32_LPAE_S1,
  ARM_32_LPAE_S2,
  ARM_MALI_LPAE,
  IOMMU_PROT,
  IO_PGTABLE_QUIRK,
  allocIoPgtable,
  allocSharedIoPgtable,
} from "../src/index.ts";
import type { IoPgtableFormat, TableFormat } from "../src/index.ts";
import { Harness, SIZES_16K, SIZES_64K } from "./harness.ts";
import type { Options } from "./harness.ts";

const { READ: R, WRITE: W, CACHE: C, NOEXEC: X, MMIO: M, PRIV: P } = IOMMU_PROT;
const { ARM_NS: NS, ARM_HD: HD, ARM_S2FWB: FWB, ARM_OUTER_WBWA: WBWA } = IO_PGTABLE_QUIRK;
const PA = 0x1234_5678_9000;

// The leaf of a 4K page at PA. Bits: [4:2] or [5:2] attributes, 5 NS, 6 and 7 permissions, [9:8] SH, 10 AF, 11 nG, 51 DBM, [54:53] XN.
test.each<[IoPgtableFormat, number, number, string]>([
  ["64_S1", R, 0, "0x00001234_56789ec3"],
  ["64_S1", R | W, 0, "0x00001234_56789e43"],
  ["64_S1", W, 0, "0x00001234_56789e43"],
  ["64_S1", R | W | C, 0, "0x00001234_56789f47"],
  ["64_S1", R | C, 0, "0x00001234_56789fc7"],
  ["64_S1", R | W | M, 0, "0x00001234_56789e4b"],
  ["64_S1", R | W | M | C, 0, "0x00001234_56789f4b"],
  ["64_S1", R | W | C | P, 0, "0x00001234_56789f07"],
  ["64_S1", R | P, 0, "0x00001234_56789e83"],
  ["64_S1", R | W | C | X, 0, "0x00601234_56789f47"],
  ["64_S1", R | W | C, NS, "0x00001234_56789f67"],
  ["64_S1", R | W | C, HD, "0x00081234_56789f47"],
  ["64_S1", R | C, HD, "0x00001234_56789fc7"],
  ["64_S1", R | W | C | X, HD | NS, "0x00681234_56789f67"],
  ["64_S2", R, 0, "0x00001234_56789657"],
  ["64_S2", W, 0, "0x00001234_56789697"],
  ["64_S2", R | W, 0, "0x00001234_567896d7"],
  ["64_S2", R | W | C, 0, "0x00001234_567897ff"],
  ["64_S2", R | W | C | P, 0, "0x00001234_567897ff"],
  ["64_S2", R | W | M, 0, "0x00001234_567896c7"],
  ["64_S2", R | W | M | C, 0, "0x00001234_567897c7"],
  ["64_S2", R | W | C | X, 0, "0x00601234_567897ff"],
  ["64_S2", R | W | C, FWB, "0x00001234_567897db"],
  ["64_S2", R | W, FWB, "0x00001234_567896d7"],
])("%s prot %i quirks %i: %s", (fmt, prot, quirks, descriptor) => {
  for (const build of [allocIoPgtable, allocSharedIoPgtable]) {
    const h = new Harness(fmt, { build, quirks });
    // The first map takes the path that makes tables, the second the one where they exist.
    for (const iova of [0x7000, 0x8000]) {
      expect(h.table.mapPages(iova, PA, 4096, 1, prot)).toBe(0);
      expect(h.descriptors(iova).at(-1)).toBe(descriptor);
    }
  }
});

const PA40 = 0x12_3456_7000;
test.each<[string, TableFormat, number, number, string]>([
  ["32_S1", ARM_32_LPAE_S1, R | W | C, 0, "0x00000012_34567f47"],
  ["32_S1", ARM_32_LPAE_S1, R | P | X, 0, "0x00600012_34567e83"],
  ["32_S1", ARM_32_LPAE_S1, R | W | C, HD | NS, "0x00080012_34567f67"],
  ["32_S2", ARM_32_LPAE_S2, R | W | C, 0, "0x00000012_345677ff"],
  ["32_S2", ARM_32_LPAE_S2, W | M, 0, "0x00000012_34567687"],
  ["32_S2", ARM_32_LPAE_S2, R | C, FWB, "0x00000012_3456775b"],
  // No access flag, no nG, type 1; attributes as in stage 1, S2AP, outer shareable whatever CACHE says.
  ["MALI", ARM_MALI_LPAE, R | W, 0, "0x00000012_345672c1"],
  ["MALI", ARM_MALI_LPAE, R, 0, "0x00000012_34567241"],
  ["MALI", ARM_MALI_LPAE, W | C, 0, "0x00000012_34567285"],
  ["MALI", ARM_MALI_LPAE, R | W | M | X | P, 0, "0x00600012_345672c9"],
])("%s: %o prot %i quirks %i: %s", (_, format, prot, quirks, descriptor) => {
  for (const build of [allocIoPgtable, allocSharedIoPgtable]) {
    const h = new Harness(format, { build, quirks, ias: 32, oas: 40 });
    for (const iova of [0x7000, 0x8000]) {
      expect(h.table.mapPages(iova, PA40, 4096, 1, prot)).toBe(0);
      expect(h.descriptors(iova).at(-1)).toBe(descriptor);
      expect(h.table.iovaToPhys(iova + 5)).toBe(PA40 + 5);
    }
  }
});

test.each<[string, IoPgtableFormat, Options, string]>([
  ["coherent", "64_S1", {}, "0x00000000_80001003"],
  ["non-coherent: SW_SYNC", "64_S1", { coherentWalk: false }, "0x00800000_80001003"],
  ["OUTER_WBWA", "64_S1", { coherentWalk: false, quirks: WBWA }, "0x00800000_80001003"],
  ["NS: NSTable", "64_S1", { quirks: NS }, "0x80000000_80001003"],
  ["NS, non-coherent", "64_S1", { quirks: NS, coherentWalk: false }, "0x80800000_80001003"],
  ["stage 2", "64_S2", {}, "0x00000000_80001003"],
])("table descriptor: %s", (_, fmt, options, descriptor) => {
  const h = new Harness(fmt, options);
  expect(h.table.mapPages(0, PA, 4096, 1, R)).toBe(0);
  expect(h.descriptors(0)[0]).toBe(descriptor);
});

test.each<[string, Options, number, number, number, string]>([
  ["2M", {}, 0x20_0000, 0x20_0000, 0x1234_5660_0000, "0x00001234_56600f45"],
  ["1G", {}, 2 ** 30, 2 ** 30, 0x1234_4000_0000, "0x00001234_40000f45"],
  ["16K", { pgsizeBitmap: SIZES_16K }, 0x4000, 0x4000, 0x1234_5678_8000, "0x00001234_56788f47"],
  ["32M", { pgsizeBitmap: SIZES_16K }, 0x200_0000, 0x200_0000, 0x1234_5600_0000, "0x00001234_56000f45"],
  ["64K", { pgsizeBitmap: SIZES_64K }, 0x1_0000, 0x1_0000, 0x1234_5678_0000, "0x00001234_56780f47"],
  ["512M", { pgsizeBitmap: SIZES_64K }, 2 ** 29, 2 ** 29, 0x1234_4000_0000, "0x00001234_40000f45"],
  ["64K, 52 bits", { pgsizeBitmap: SIZES_64K, ias: 52, oas: 52 }, 2 ** 51, 0x1_0000, 0xa_1234_5678_0000, "0x00001234_5678af47"],
  ["512M, 52 bits", { pgsizeBitmap: SIZES_64K, ias: 52, oas: 52 }, 2 ** 51, 2 ** 29, 0xa_1234_4000_0000, "0x00001234_4000af45"],
  ["4T", { pgsizeBitmap: SIZES_64K + 2 ** 42, ias: 52, oas: 52 }, 2 ** 51, 2 ** 42, 0xa_1000_0000_0000, "0x00001000_0000af45"],
])("leaf of %s", (_, options, iova, size, pa, descriptor) => {
  const h = new Harness("64_S1", options);
  for (const at of [iova, iova + size]) {
    expect(h.table.mapPages(at, pa, size, 1, R | W | C)).toBe(0);
    expect(h.descriptors(at).at(-1)).toBe(descriptor);
    expect(h.table.iovaToPhys(at + size - 1)).toBe(pa + size - 1);
  }
  expect(h.leaves()).toEqual([[iova, size, pa], [iova + size, size, pa]]);
});

test("carries: PA bits 31 to 32 and 47 to 48 within one run", () => {
  const options = { pgsizeBitmap: SIZES_64K, ias: 52, oas: 52 };
  for (const pa of [0x1_0000_0000 - 0x3_0000, 2 ** 48 - 0x5_0000, 0x7_ffff_fffd_0000]) {
    const h = new Harness("64_S1", options);
    expect(h.table.mapPages(0, pa, 0x1_0000, 9, R)).toBe(0);
    expect(h.leaves()).toEqual(Array.from({ length: 9 }, (_, i) => [i * 0x1_0000, 0x1_0000, pa + i * 0x1_0000]));
  }
});

test("runs of 4T blocks", () => {
  const h = new Harness("64_S1", { pgsizeBitmap: SIZES_64K + 2 ** 42, ias: 52, oas: 52 });
  expect(h.table.mapPages(2 ** 42, 0, 2 ** 42, 5, R)).toBe(0);
  expect(h.table.mapped).toBe(5 * 2 ** 42);
  expect(h.leaves()).toEqual([1, 2, 3, 4, 5].map((i) => [i * 2 ** 42, 2 ** 42, (i - 1) * 2 ** 42]));
  expect(h.table.unmapPages(2 ** 43, 2 ** 42, 2, null)).toBe(2 ** 43);
  expect(h.leaves().map(([iova]) => iova / 2 ** 42)).toEqual([1, 4, 5]);
});
