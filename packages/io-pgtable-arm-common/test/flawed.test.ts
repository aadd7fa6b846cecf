// Where Linux is wrong: what the tables do, and what Linux does.
import { expect, test } from "vitest";
import { IOMMU_PROT, IO_PGTABLE_FLAW, IO_PGTABLE_QUIRK, allocFlawedIoPgtable } from "../src/index.ts";
import { Harness } from "./harness.ts";
import type { Options } from "./harness.ts";

const RW = IOMMU_PROT.READ | IOMMU_PROT.WRITE;
const PAGE = 0x1000;
const { LOOKUP_ALIAS, FIRST_PA_ONLY, DIRTY_NO_FLUSH } = IO_PGTABLE_FLAW;

const make = (flaws: number, options: Options = {}): Harness =>
  new Harness("64_S1", { ...options, build: (fmt, cfg) => allocFlawedIoPgtable(fmt, cfg, flaws) });

test.each([
  ["lower half", 39, 0],
  ["upper half", 39, IO_PGTABLE_QUIRK.ARM_TTBR1],
  ["few bits", 30, 0],
])("LOOKUP_ALIAS, %s: an IOVA above ias is looked up without the bits above", (_, ias, quirks) => {
  const iova = quirks === 0 ? 5 * PAGE : -(2 ** ias) + 5 * PAGE;
  const alias = quirks === 0 ? iova + 3 * 2 ** ias : iova - 3 * 2 ** ias;
  const found = [0, FIRST_PA_ONLY | DIRTY_NO_FLUSH, LOOKUP_ALIAS].map((flaws) => {
    const { table } = make(flaws, { ias, quirks });
    table.mapPages(iova, 0x7000, PAGE, 1, RW);
    expect(table.iovaToPhys(iova + 3)).toBe(0x7003);
    return table.iovaToPhys(alias + 3);
  });
  expect(found).toEqual([0, 0, 0x7003]);
});

test("FIRST_PA_ONLY: a run reaches beyond oas", () => {
  const run = (flaws: number, pages: number): number =>
    make(flaws, { oas: 32 }).table.mapPages(0, 2 ** 32 - 2 * PAGE, PAGE, pages, RW);
  expect([run(0, 2), run(0, 3), run(LOOKUP_ALIAS | DIRTY_NO_FLUSH, 3), run(FIRST_PA_ONLY, 3)]).toEqual([0, -34, -34, 0]);
  expect(make(FIRST_PA_ONLY, { oas: 32 }).table.mapPages(0, 2 ** 32, PAGE, 1, RW)).toBe(-34);
});

test("DIRTY_NO_FLUSH: nobody hears of pages that were made clean", () => {
  const told = [0, LOOKUP_ALIAS | FIRST_PA_ONLY, DIRTY_NO_FLUSH].map((flaws) => {
    const h = make(flaws, { quirks: IO_PGTABLE_QUIRK.ARM_HD });
    h.table.mapPages(0, 0, PAGE, 2, RW);
    h.take();
    expect(h.table.readAndClearDirty(0, 2 * PAGE, false, () => {}, { queued: false })).toBe(0);
    return h.take(["addPage"]).length;
  });
  expect(told).toEqual([2, 2, 0]);
});
