import { expect, test } from "vitest";
import { isErrno } from "@smmuv3/platform";
import { IO_PGTABLE_QUIRK, allocIoPgtable } from "../src/index.ts";
import type { IoPgtableFormat } from "../src/index.ts";
import { Harness, RAM, SIZES_16K, SIZES_4K, SIZES_64K } from "./harness.ts";
import type { Options } from "./harness.ts";

const S1: readonly (readonly [sizes: number, ias: number, start: number, pgdBytes: number])[] = [
  [SIZES_4K, 21, 3, 4096],
  [SIZES_4K, 30, 2, 4096],
  [SIZES_4K, 32, 1, 32],
  [SIZES_4K, 36, 1, 512],
  [SIZES_4K, 39, 1, 4096],
  [SIZES_4K, 40, 0, 16],
  [SIZES_4K, 42, 0, 64],
  [SIZES_4K, 44, 0, 256],
  [SIZES_4K, 48, 0, 4096],
  [SIZES_16K, 32, 2, 1024],
  [SIZES_16K, 36, 2, 16384],
  [SIZES_16K, 40, 1, 128],
  [SIZES_16K, 42, 1, 512],
  [SIZES_16K, 44, 1, 2048],
  [SIZES_16K, 48, 0, 16],
  [SIZES_64K, 32, 2, 64],
  [SIZES_64K, 36, 2, 1024],
  [SIZES_64K, 40, 2, 16384],
  [SIZES_64K, 42, 2, 65536],
  [SIZES_64K, 44, 1, 32],
  [SIZES_64K, 48, 1, 512],
  [SIZES_64K, 52, 1, 8192],
];

test.each(S1)("stage 1, sizes 0x%s, ias %i: level %i, %i bytes", (pgsizeBitmap, ias, start, pgdBytes) => {
  const h = new Harness("64_S1", { pgsizeBitmap, ias, oas: 48 });
  expect([h.table.startLevel, h.table.pgdBytes, h.table.tcr.tsz]).toEqual([start, pgdBytes, 64 - ias]);
  // No table is smaller than 64 bytes.
  expect([...h.live.entries()]).toEqual([[h.table.ttbr, Math.max(pgdBytes, 64)]]);
  expect(h.table.tableBytes).toBe(Math.max(pgdBytes, 64));
});

// Concatenation only where the architecture demands it.
test.each([
  [SIZES_4K, 39, 40, 1, 4096, 1],
  [SIZES_4K, 40, 40, 1, 8192, 1],
  [SIZES_4K, 42, 42, 1, 32768, 1],
  [SIZES_4K, 40, 48, 0, 16, 2],
  [SIZES_4K, 44, 44, 0, 256, 2],
  [SIZES_4K, 48, 48, 0, 4096, 2],
  [SIZES_16K, 48, 48, 1, 32768, 2],
  [SIZES_16K, 40, 40, 2, 262144, 1],
  [SIZES_16K, 40, 48, 1, 128, 2],
  [SIZES_16K, 47, 48, 1, 16384, 2],
  [SIZES_64K, 40, 40, 2, 16384, 1],
  [SIZES_64K, 48, 48, 1, 512, 2],
])("stage 2, sizes 0x%s, ias %i, oas %i: level %i, %i bytes, SL0 %i", (pgsizeBitmap, ias, oas, start, pgdBytes, sl) => {
  const { table } = new Harness("64_S2", { pgsizeBitmap, ias, oas });
  expect([table.startLevel, table.pgdBytes, table.vtcr.sl, table.vttbr % pgdBytes]).toEqual([start, pgdBytes, sl, 0]);
});

test.each([
  ["the preferred page size", SIZES_4K + SIZES_64K, 4096, 4096, SIZES_4K],
  ["the largest below it", SIZES_4K + 0x4000, 65536, 16384, 0x4000],
  ["the smallest above it", SIZES_64K + SIZES_16K, 4096, 16384, SIZES_16K],
  ["no sizes of other granules", 0x1000 + 0x200_0000 + 0x40_0000, 4096, 4096, 0x1000],
  ["no 4T below 52 bits", SIZES_64K + 2 ** 42, 4096, 65536, SIZES_64K],
])("granule: %s", (_, pgsizeBitmap, pageSize, granule, restricted) => {
  const { table } = new Harness("64_S1", { pgsizeBitmap, pageSize });
  expect([table.granule, table.pgsizeBitmap]).toEqual([granule, restricted]);
});

test("4T blocks and 52 bits with 64K only", () => {
  const wide = { ias: 52, oas: 52 };
  const h64 = new Harness("64_S1", { pgsizeBitmap: SIZES_64K + 2 ** 42, ...wide }).table;
  expect([h64.pgsizeBitmap, h64.ias, h64.oas, h64.tcr.ips]).toEqual([SIZES_64K + 2 ** 42, 52, 52, 6]);
  const h4 = new Harness("64_S1", wide).table;
  expect([h4.ias, h4.oas, h4.tcr.ips]).toEqual([48, 48, 5]);
});

test.each<[string, IoPgtableFormat, Options, object]>([
  ["coherent", "64_S1", {}, { ips: 5, tg: 0, sh: 3, orgn: 1, irgn: 1, tsz: 16 }],
  ["non-coherent", "64_S1", { coherentWalk: false }, { ips: 5, tg: 0, sh: 2, orgn: 0, irgn: 0, tsz: 16 }],
  ["OUTER_WBWA", "64_S1", { coherentWalk: false, quirks: IO_PGTABLE_QUIRK.ARM_OUTER_WBWA }, { sh: 2, orgn: 1, irgn: 0 }],
  ["16K", "64_S1", { pgsizeBitmap: SIZES_16K }, { tg: 2 }],
  ["64K", "64_S1", { pgsizeBitmap: SIZES_64K }, { tg: 1 }],
  ["TTBR1 4K", "64_S1", { quirks: IO_PGTABLE_QUIRK.ARM_TTBR1 }, { tg: 2 }],
  ["TTBR1 16K", "64_S1", { quirks: IO_PGTABLE_QUIRK.ARM_TTBR1, pgsizeBitmap: SIZES_16K }, { tg: 1 }],
  ["TTBR1 64K", "64_S1", { quirks: IO_PGTABLE_QUIRK.ARM_TTBR1, pgsizeBitmap: SIZES_64K }, { tg: 3 }],
])("TCR: %s", (_, fmt, options, tcr) => {
  expect(new Harness(fmt, options).table.tcr).toMatchObject(tcr);
});

test.each([32, 36, 40, 42, 44, 48].map((oas, ps) => [oas, ps]))("oas %i is PS %i", (oas, ps) => {
  expect(new Harness("64_S1", { oas }).table.tcr.ips).toBe(ps);
  expect(new Harness("64_S2", { ias: 32, oas }).table.vtcr.ps).toBe(ps);
});

test("MAIR", () => {
  const { mair } = new Harness("64_S1").table;
  expect([mair.lo >>> 0, mair.hi]).toEqual([0xf404ff44, 0]);
});

test.each<[string, IoPgtableFormat, Options]>([
  ["quirks", "64_S1", { quirks: IO_PGTABLE_QUIRK.ARM_S2FWB }],
  ["quirks", "64_S2", { quirks: IO_PGTABLE_QUIRK.ARM_HD }],
  ["quirks", "64_S2", { quirks: IO_PGTABLE_QUIRK.ARM_TTBR1 }],
  ["quirks", "64_S1", { quirks: 2 }],
  ["quirks", "64_S1", { quirks: IO_PGTABLE_QUIRK.ARM_OUTER_WBWA, coherentWalk: true }],
  ["pgsizeBitmap", "64_S1", { pgsizeBitmap: 0 }],
  ["pgsizeBitmap", "64_S1", { pgsizeBitmap: 0x20_0000 }],
  ["pgsizeBitmap", "64_S1", { pgsizeBitmap: 0x2000 }],
  ["oas", "64_S1", { oas: 41 }],
  ["oas", "64_S2", { oas: 31 }],
  ["ias", "64_S1", { ias: 12 }],
  ["ias", "64_S1", { ias: -1 }],
  ["ias", "64_S2", { ias: 48, oas: 42 }],
  ["ias", "64_S2", { pgsizeBitmap: SIZES_16K, ias: 42, oas: 40 }],
])("refuses a bad %s for %s: %o", (field, fmt, options) => {
  expect(() => new Harness(fmt, options)).toThrow(new RegExp(`^allocIoPgtable: ${field} `));
  expect(() => new Harness(fmt, options)).toThrow(RangeError);
});

test("no memory for the first table", () => {
  const attempt = (): unknown => {
    try {
      return new Harness("64_S1", { tables: 0 });
    } catch (error) {
      return isErrno(error) ? error.code : error;
    }
  };
  expect(attempt()).toBe("ENOMEM");
});

test("an allocator whose tables are not aligned is refused", () => {
  const { memory } = new Harness("64_S1");
  const tlb = { flushAll() {}, flushWalk() {}, addPage() {} };
  const alloc = (): number => RAM + 0x800;
  expect(() =>
    allocIoPgtable("64_S1", { memory, pgsizeBitmap: SIZES_4K, ias: 48, oas: 48, coherentWalk: true, tlb, alloc, free() {} }),
  ).toThrow("aligned to 4096");
});
