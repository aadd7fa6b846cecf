// The kernel's self-test over every pair of address sizes, granule and stage, with the hardware's walker watching.
import { expect, test } from "vitest";
import { ARM_64_LPAE_S1, ARM_64_LPAE_S2, IOMMU_PROT } from "@smmuv3/io-pgtable-arm-common";
import { Rig, SIZES_16K, SIZES_4K, SIZES_64K } from "./rig.ts";

const RW = IOMMU_PROT.READ | IOMMU_PROT.WRITE;
const GIGA = 2 ** 30;
const EEXIST = 17;
const SIZES = { "4K": SIZES_4K, "16K": SIZES_16K, "64K": SIZES_64K } as const;

type Row = readonly [
  granule: keyof typeof SIZES,
  ias: number,
  oas: number,
  level1: number,
  bytes1: number,
  level2: number,
  bytes2: number,
  sl0: number,
];

/** First level and bytes of the first table of stage 1, the same of stage 2, and SL0. */
const ROWS: readonly Row[] = [
  ["4K", 32, 32, 1, 32, 1, 32, 1],
  ["4K", 32, 36, 1, 32, 1, 32, 1],
  ["4K", 32, 40, 1, 32, 1, 32, 1],
  ["4K", 32, 42, 1, 32, 1, 32, 1],
  ["4K", 32, 44, 1, 32, 1, 32, 1],
  ["4K", 32, 48, 1, 32, 1, 32, 1],
  ["4K", 36, 36, 1, 512, 1, 512, 1],
  ["4K", 36, 40, 1, 512, 1, 512, 1],
  ["4K", 36, 42, 1, 512, 1, 512, 1],
  ["4K", 36, 44, 1, 512, 1, 512, 1],
  ["4K", 36, 48, 1, 512, 1, 512, 1],
  ["4K", 40, 40, 0, 16, 1, 8192, 1],
  ["4K", 40, 42, 0, 16, 1, 8192, 1],
  ["4K", 40, 44, 0, 16, 0, 16, 2],
  ["4K", 40, 48, 0, 16, 0, 16, 2],
  ["4K", 42, 42, 0, 64, 1, 32768, 1],
  ["4K", 42, 44, 0, 64, 0, 64, 2],
  ["4K", 42, 48, 0, 64, 0, 64, 2],
  ["4K", 44, 44, 0, 256, 0, 256, 2],
  ["4K", 44, 48, 0, 256, 0, 256, 2],
  ["4K", 48, 48, 0, 4096, 0, 4096, 2],
  ["16K", 32, 32, 2, 1024, 2, 1024, 1],
  ["16K", 32, 36, 2, 1024, 2, 1024, 1],
  ["16K", 32, 40, 2, 1024, 2, 1024, 1],
  ["16K", 32, 42, 2, 1024, 2, 1024, 1],
  ["16K", 32, 44, 2, 1024, 2, 1024, 1],
  ["16K", 32, 48, 2, 1024, 2, 1024, 1],
  ["16K", 36, 36, 2, 16384, 2, 16384, 1],
  ["16K", 36, 40, 2, 16384, 2, 16384, 1],
  ["16K", 36, 42, 2, 16384, 2, 16384, 1],
  ["16K", 36, 44, 2, 16384, 2, 16384, 1],
  ["16K", 36, 48, 2, 16384, 2, 16384, 1],
  ["16K", 40, 40, 1, 128, 2, 262144, 1],
  ["16K", 40, 42, 1, 128, 1, 128, 2],
  ["16K", 40, 44, 1, 128, 1, 128, 2],
  ["16K", 40, 48, 1, 128, 1, 128, 2],
  ["16K", 42, 42, 1, 512, 1, 512, 2],
  ["16K", 42, 44, 1, 512, 1, 512, 2],
  ["16K", 42, 48, 1, 512, 1, 512, 2],
  ["16K", 44, 44, 1, 2048, 1, 2048, 2],
  ["16K", 44, 48, 1, 2048, 1, 2048, 2],
  ["16K", 48, 48, 0, 16, 1, 32768, 2],
  ["64K", 32, 32, 2, 64, 2, 64, 1],
  ["64K", 32, 36, 2, 64, 2, 64, 1],
  ["64K", 32, 40, 2, 64, 2, 64, 1],
  ["64K", 32, 42, 2, 64, 2, 64, 1],
  ["64K", 32, 44, 2, 64, 2, 64, 1],
  ["64K", 32, 48, 2, 64, 2, 64, 1],
  ["64K", 36, 36, 2, 1024, 2, 1024, 1],
  ["64K", 36, 40, 2, 1024, 2, 1024, 1],
  ["64K", 36, 42, 2, 1024, 2, 1024, 1],
  ["64K", 36, 44, 2, 1024, 2, 1024, 1],
  ["64K", 36, 48, 2, 1024, 2, 1024, 1],
  ["64K", 40, 40, 2, 16384, 2, 16384, 1],
  ["64K", 40, 42, 2, 16384, 2, 16384, 1],
  ["64K", 40, 44, 2, 16384, 2, 16384, 1],
  ["64K", 40, 48, 2, 16384, 2, 16384, 1],
  ["64K", 42, 42, 2, 65536, 2, 65536, 1],
  ["64K", 42, 44, 2, 65536, 2, 65536, 1],
  ["64K", 42, 48, 2, 65536, 2, 65536, 1],
  ["64K", 44, 44, 1, 32, 1, 32, 2],
  ["64K", 44, 48, 1, 32, 1, 32, 2],
  ["64K", 48, 48, 1, 512, 1, 512, 2],
];

const CASES = ROWS.flatMap(([granule, ias, oas, level1, bytes1, level2, bytes2, sl]) => [
  { format: ARM_64_LPAE_S1, granule, ias, oas, start: level1, bytes: bytes1, sl: undefined },
  { format: ARM_64_LPAE_S2, granule, ias, oas, start: level2, bytes: bytes2, sl },
]);

test("63 rows, two stages", () => {
  expect([ROWS.length, new Set(ROWS.map((row) => row.slice(0, 3).join())).size, CASES.length]).toEqual([63, 63, 126]);
});

test.each(CASES)("$format.name $granule ias $ias oas $oas", ({ format, granule, ias, oas, start, bytes, sl }) => {
  const bitmap = SIZES[granule];
  const rig = new Rig(format, { pgsizeBitmap: bitmap, ias, oas });
  const { table } = rig;
  expect([table.startLevel, table.pgdBytes, table.pgd % Math.max(bytes, 64)]).toEqual([start, bytes, 0]);
  if (sl !== undefined) expect(table.vtcr.sl).toBe(sl);

  const sizes = Array.from({ length: 31 }, (_, i) => 2 ** i).filter((size) => (bitmap & size) !== 0);
  const expectAt = (iova: number, pa: number | undefined): void => {
    expect([table.iovaToPhys(iova), table.found]).toEqual(pa === undefined ? [0, false] : [pa, true]);
    const walked = rig.walk(iova);
    expect(walked === "fault" ? undefined : walked.pa).toBe(pa);
  };

  for (const iova of [42, GIGA + 42, 2 * GIGA + 42]) expectAt(iova, undefined);
  sizes.forEach((size, i) => {
    const iova = i * GIGA;
    expect(table.mapPages(iova, iova, size, 1, RW)).toBe(0);
    expect(table.mapPages(iova, iova + size, size, 1, RW)).toBe(-EEXIST);
    expectAt(iova + 42, iova + 42);
    expectAt(iova + size - 1, iova + size - 1);
  });
  sizes.forEach((size, i) => {
    const iova = i * GIGA;
    expect(table.unmapPages(iova, size, 1, null)).toBe(size);
    expectAt(iova + 42, undefined);
    expect(table.mapPages(iova, iova, size, 1, RW)).toBe(0);
    expectAt(iova + 42, iova + 42);
  });

  // The first and the last page of the space, of each of the first tables side by side, and of the output range.
  const page = sizes[0]!;
  const tables = Math.max(1, bytes / (8 * (page / 8)));
  const last = 2 ** oas - page;
  for (let i = 0; i < tables; i++) {
    for (const iova of [(2 ** ias / tables) * i + page, (2 ** ias / tables) * (i + 1) - page]) {
      expect(table.mapPages(iova, last, page, 1, RW)).toBe(0);
      expectAt(iova + page - 1, last + page - 1);
      expect(table.unmapPages(iova, page, 1, null)).toBe(page);
      expectAt(iova, undefined);
    }
  }
  table.free();
  expect([rig.live.size, table.tableBytes]).toEqual([0, 0]);
});
