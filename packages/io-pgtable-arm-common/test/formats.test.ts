import { expect, test } from "vitest";
import {
  ARM_32_LPAE_S1,
  ARM_32_LPAE_S2,
  ARM_MALI_LPAE,
  IOMMU_PROT,
  IO_PGTABLE_QUIRK,
  MALI_MEMATTR,
  maliTranstab,
} from "../src/index.ts";
import type { TableFormat } from "../src/index.ts";
import { Harness, SIZES_16K, SIZES_4K, SIZES_64K } from "./harness.ts";
import type { Options } from "./harness.ts";

const RW = IOMMU_PROT.READ | IOMMU_PROT.WRITE;
const EINVAL = 22;

test.each<[string, TableFormat, Options, string]>([
  ["more input bits", ARM_32_LPAE_S1, { ias: 33, oas: 40 }, "ias"],
  ["more output bits", ARM_32_LPAE_S1, { ias: 32, oas: 42 }, "oas"],
  ["more input bits", ARM_32_LPAE_S2, { ias: 41, oas: 40 }, "ias"],
  ["more output bits", ARM_32_LPAE_S2, { ias: 40, oas: 44 }, "oas"],
  ["more output bits", ARM_MALI_LPAE, { ias: 48, oas: 44 }, "oas"],
  ["more input bits", ARM_MALI_LPAE, { ias: 52, oas: 40 }, "ias"],
  ["a quirk", ARM_MALI_LPAE, { ias: 48, oas: 40, quirks: IO_PGTABLE_QUIRK.NO_WARN }, "quirks"],
  ["a quirk of stage 2", ARM_32_LPAE_S1, { ias: 32, oas: 40, quirks: IO_PGTABLE_QUIRK.ARM_S2FWB }, "quirks"],
  ["a quirk of stage 1", ARM_32_LPAE_S2, { ias: 40, oas: 40, quirks: IO_PGTABLE_QUIRK.ARM_NS }, "quirks"],
  ["another granule", ARM_32_LPAE_S1, { ias: 32, oas: 40, pgsizeBitmap: SIZES_16K }, "pgsizeBitmap"],
  ["another granule", ARM_MALI_LPAE, { ias: 48, oas: 40, pgsizeBitmap: SIZES_64K }, "pgsizeBitmap"],
])("refuses %s: %o", (_, format, options, field) => {
  expect(() => new Harness(format, options)).toThrow(new RegExp(`^allocIoPgtable: ${field} `));
});

test.each([ARM_32_LPAE_S1, ARM_32_LPAE_S2, ARM_MALI_LPAE])("$name uses 4K, 2M and 1G only", (format) => {
  const { table } = new Harness(format, { ias: 32, oas: 40, pgsizeBitmap: SIZES_4K + SIZES_16K + SIZES_64K });
  expect([table.fmt, table.pgsizeBitmap]).toEqual([format.name, SIZES_4K]);
});

test("32 bits, stage 1: the registers and the first table", () => {
  const { table } = new Harness(ARM_32_LPAE_S1, { ias: 32, oas: 40 });
  expect([table.startLevel, table.pgdBytes]).toEqual([1, 32]);
  expect(table.tcr).toEqual({ ips: 2, tg: 0, sh: 3, orgn: 1, irgn: 1, tsz: 32 });
});

test("32 bits, stage 2: two tables side by side", () => {
  const { table } = new Harness(ARM_32_LPAE_S2, { ias: 40, oas: 40 });
  expect([table.startLevel, table.pgdBytes]).toEqual([1, 8192]);
  expect(table.vtcr).toEqual({ ps: 2, tg: 0, sh: 3, orgn: 1, irgn: 1, sl: 1, tsz: 24 });
});

test.each([
  [20, 8, 4096],
  [32, 8, 4096],
  [39, 8, 4096],
  [40, 16, 4096],
  [48, 4096, 4096],
])("Mali, ias %i: four levels, %i bytes of first table in %i", (ias, pgdBytes, bytes) => {
  const h = new Harness(ARM_MALI_LPAE, { ias, oas: 40 });
  expect([h.table.startLevel, h.table.pgdBytes, [...h.live]]).toEqual([0, pgdBytes, [[h.table.pgd, bytes]]]);
  const last = 2 ** ias - 0x1000;
  expect(h.table.mapPages(last, 0x1000, 0x1000, 1, RW)).toBe(0);
  expect(h.table.iovaToPhys(last + 7)).toBe(0x1007);
  expect(h.descriptors(last)).toHaveLength(4);
  expect(h.table.mapPages(2 ** ias, 0, 0x1000, 1, RW)).toBe(-34);
  h.table.free();
  expect([h.live.size, h.table.tableBytes]).toEqual([0, 0]);
});

test("Mali: a run ends with the address space, too", () => {
  const { table } = new Harness(ARM_MALI_LPAE, { ias: 32, oas: 40 });
  expect([table.mapPages(2 ** 31, 0, 2 ** 30, 9, RW), table.mapped]).toEqual([0, 2 ** 31]);
});

test.each([
  [true, 0x17],
  [false, 0x7],
])("Mali: registers, coherent %s", (coherentWalk, low) => {
  const { table } = new Harness(ARM_MALI_LPAE, { ias: 48, oas: 40, coherentWalk });
  expect([maliTranstab(table) - table.pgd, MALI_MEMATTR]).toEqual([low, 0x888d88]);
});

test("dirty state is read of VMSAv8-64 only", () => {
  const h = new Harness(ARM_32_LPAE_S1, { ias: 32, oas: 40, quirks: IO_PGTABLE_QUIRK.ARM_HD });
  h.table.mapPages(0, 0, 0x1000, 1, RW);
  expect(h.table.readAndClearDirty(0, 0x1000, false, () => {})).toBe(-EINVAL);
});
