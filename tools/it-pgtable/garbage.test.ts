// The calls on int32 pairs leave no garbage: of several rounds of calls, one shows the heap as it was.
import { getHeapStatistics } from "node:v8";
import { expect, test } from "vitest";
import { ARM_64_LPAE_S1, allocIoPgtable, allocSharedIoPgtable } from "@smmuv3/io-pgtable-arm-common";
import { Rig, SIZES_16K, SIZES_4K, SIZES_64K } from "./rig.ts";

const RW = 3;
const CALLS = 60_000;
const ROUNDS = 12;

test.each([
  ["4K", { pgsizeBitmap: SIZES_4K, build: allocIoPgtable }, 0],
  ["16K", { pgsizeBitmap: SIZES_16K, build: allocIoPgtable }, 0],
  ["64K", { pgsizeBitmap: SIZES_64K, build: allocIoPgtable }, 0],
  ["4K, shared", { pgsizeBitmap: SIZES_4K, build: allocSharedIoPgtable }, 0],
  // The same measure finds the numbers that are boxed for a caller who gets them as `number`.
  ["4K, numbers kept", { pgsizeBitmap: SIZES_4K, build: allocIoPgtable }, 8],
])("%s", (name, options, least) => {
  const { table } = new Rig(ARM_64_LPAE_S1, options);
  const page = table.granule;
  // An array that holds strings too keeps numbers boxed.
  const kept: (number | string)[] = Array.from({ length: 64 }, () => "");
  const keeps = name.endsWith("kept");
  const round = (): number => {
    const before = getHeapStatistics().used_heap_size;
    for (let i = 0; i < CALLS; i++) {
      const lo = ((i & 255) * page) | 0;
      if (table.mapPagesPair(lo, 1, lo, 0x7f, page, 1, RW) !== 0) throw new Error("map");
      if (!table.iovaToPhysPair(lo, 1)) throw new Error("look-up");
      if (keeps) kept[i & 63] = table.iovaToPhys(2 ** 32 + lo);
      if (table.unmapPagesPair(lo, 1, page, 1, null) !== 1) throw new Error("unmap");
    }
    return (getHeapStatistics().used_heap_size - before) / CALLS;
  };
  // A collection in mid-round makes its figure negative.
  const rounds = Array.from({ length: ROUNDS }, round).filter((bytes) => bytes >= 0);
  const bytes = Math.min(...rounds);
  if (least === 0) expect(bytes).toBeLessThan(0.5);
  else expect(bytes).toBeGreaterThanOrEqual(least);
});
