// Any operations against a naive model, on every class, with every store watched.
import fc from "fast-check";
import { expect, test } from "vitest";
import { ERRNO, Memory } from "@smmuv3/platform";
import {
  ARM_32_LPAE_S1,
  ARM_32_LPAE_S2,
  ARM_MALI_LPAE,
  IOMMU_PROT,
  IO_PGTABLE_QUIRK,
  allocSharedIoPgtable,
} from "../src/index.ts";
import type { IoPgtableFormat } from "../src/index.ts";
import { Harness, RAM, SIZES_16K, SIZES_4K, SIZES_64K } from "./harness.ts";
import type { Options } from "./harness.ts";

const RAM_BYTES = 8 << 20;
/** Of a run: more than a 4K table holds. */
const LONGEST = 600;

/**
 * Memory that fails when a high word is stored while its descriptor is valid. Table contents are written through `words` only, so a
 * proxy of it sees every store.
 */
function watchedMemory(): { memory: Memory; stores: () => number } {
  const memory = Memory.allocate({ base: RAM, size: RAM_BYTES });
  const { words } = memory;
  let stores = 0;
  const store = (index: number, value: number): void => {
    stores++;
    if (index % 2 === 1 && (words[index - 1]! & 1) !== 0) {
      throw new Error(`high word of descriptor ${index >> 1} stored while it is valid`);
    }
    words[index] = value;
  };
  const watched = new Proxy(words, {
    get(_, key) {
      if (key === "fill") {
        return (value: number, start: number, end: number) => {
          for (let i = start; i < end; i++) store(i, value);
        };
      }
      return Reflect.get(words, key, words) as unknown;
    },
    set(_, key, value: number) {
      store(Number(key), value);
      return true;
    },
  });
  const shape = new Proxy(memory, {
    get(_, key) {
      if (key === "words") return watched;
      const value = Reflect.get(memory, key, memory) as unknown;
      return typeof value === "function" ? (value.bind(memory) as unknown) : value;
    },
  });
  return { memory: shape, stores: () => stores };
}

interface Leaf {
  readonly size: number;
  readonly pa: number;
}

/** Leaves by IOVA. */
class Model {
  readonly leaves = new Map<number, Leaf>();
  readonly sizes: readonly number[];

  constructor(sizes: readonly number[]) {
    this.sizes = sizes;
  }

  at(iova: number): { start: number; leaf: Leaf } | undefined {
    for (const size of this.sizes) {
      const start = Math.floor(iova / size) * size;
      const leaf = this.leaves.get(start);
      if (leaf?.size === size) return { start, leaf };
    }
    return undefined;
  }

  /** Removes all leaves in `[iova, iova + size)`. */
  clear(iova: number, size: number): void {
    if (size === this.sizes[0]) this.leaves.delete(iova);
    else for (const start of [...this.leaves.keys()]) if (start >= iova && start < iova + size) this.leaves.delete(start);
  }

  /**
   * Maps `n` leaves unless one of the same size or larger is in the way; smaller ones give way, those in front of the obstacle too.
   * True when it did.
   */
  map(iova: number, pa: number, size: number, n: number): boolean {
    for (let k = 0; k < n; k++) {
      const hit = this.at(iova + k * size);
      if (hit !== undefined && hit.leaf.size >= size) return false;
      this.clear(iova + k * size, size);
    }
    for (let k = 0; k < n; k++) this.leaves.set(iova + k * size, { size, pa: pa + k * size });
    return true;
  }
}

/** `order`, `spot` and `probe` are taken modulo what a class has of them. */
const operation = fc.record({
  map: fc.boolean(),
  order: fc.oneof({ weight: 7, arbitrary: fc.constant(0) }, { weight: 1, arbitrary: fc.nat(2) }),
  spot: fc.nat(3),
  base: fc.nat(2),
  near: fc.nat(11),
  count: fc.constantFrom(1, 1, 1, 1, 1, 2, 7, LONGEST),
  frame: fc.nat(2 ** 30 - 1),
  probe: fc.nat(0xffff),
});

type Operation = typeof operation extends fc.Arbitrary<infer T> ? T : never;

function run(fmt: IoPgtableFormat, sizes: readonly number[], options: Options, operations: readonly Operation[]): void {
  // `Atomics` takes no proxy: the protocol of shared tables is watched by a test of its own.
  const watched = options.build !== allocSharedIoPgtable;
  const { memory, stores } = watched
    ? watchedMemory()
    : { memory: Memory.allocate({ base: RAM, size: RAM_BYTES, shared: true }), stores: () => Infinity };
  const h = new Harness(fmt, { ...options, memory, ram: RAM_BYTES });
  const { table } = h;
  const model = new Model(sizes);
  const page = sizes[0]!;
  const entries = page / 8;
  const perTable = (size: number): number => size * entries;
  // A few neighbourhoods across the space, so that operations meet.
  const largest = Math.max(sizes.at(-1)!, page * entries * 4);
  const spots = [0, 1, 5].map((i) => i * largest * 2).filter((spot) => spot < 2 ** table.ias - 2 * largest);
  spots.push(2 ** table.ias - 2 * largest);
  const bases = [0, page * (entries - 4), page * entries];
  let leaves = 0;

  for (const { map, order, spot, base, near, count, frame, probe } of operations) {
    const size = sizes[order % sizes.length]!;
    const place = spots[spot % spots.length]! + bases[base]! + page * near;
    const iova = Math.floor(place / size) * size;
    if (map) {
      const toEnd = Math.min(perTable(size) - (iova % perTable(size)), 2 ** table.ias - iova) / size;
      const n = Math.min(count, toEnd);
      const pa = Math.min(Math.floor((frame * 2 ** (table.oas - 30)) / size) * size, 2 ** table.oas - n * size);
      const status = table.mapPages(iova, pa, size, count, IOMMU_PROT.READ | IOMMU_PROT.WRITE);
      const blocked = !model.map(iova, pa, size, n);
      expect([status, table.mapped]).toEqual(blocked ? [-ERRNO.EEXIST, 0] : [0, n * size]);
      leaves += blocked ? 0 : n;
    } else {
      const bytes = table.unmapPages(iova, size, count, null);
      expect(bytes % size).toBe(0);
      for (let k = 0; k < bytes / size; k++) model.clear(iova + k * size, size);
      // Whatever stopped it was not a leaf of that size.
      const stop = iova + bytes;
      if (bytes / size < count && stop % perTable(size) !== 0) expect(model.at(stop)?.leaf.size).not.toBe(size);
    }
    const at = place + (probe % page);
    const hit = model.at(at);
    const expected = hit === undefined ? 0 : hit.leaf.pa + (at - hit.start);
    expect([table.iovaToPhys(at), table.found]).toEqual([expected, hit !== undefined]);
  }
  expect(h.leaves()).toEqual([...model.leaves].sort(([a], [b]) => a - b).map(([iova, { size, pa }]) => [iova, size, pa]));
  expect(table.tableBytes).toBe([...h.live.values()].reduce((sum, bytes) => sum + bytes, 0));
  // Each leaf is two stores at least, so the watch is on.
  expect(stores()).toBeGreaterThanOrEqual(2 * leaves);
  table.free();
  expect([table.tableBytes, h.live.size]).toEqual([0, 0]);
}

const NS = IO_PGTABLE_QUIRK.ARM_NS;
const SIZES = [0x1000, 0x20_0000, 2 ** 30];
const shared = { build: allocSharedIoPgtable };
test.each<[string, IoPgtableFormat, number[], Options]>([
  ["32 bits", ARM_32_LPAE_S1, SIZES, { ias: 32, oas: 40 }],
  ["32 bits, stage 2", ARM_32_LPAE_S2, SIZES, { ias: 40, oas: 40 }],
  ["Mali", ARM_MALI_LPAE, SIZES, { ias: 48, oas: 40 }],
  ["Mali, 33 bits", ARM_MALI_LPAE, SIZES, { ias: 33, oas: 40 }],
  ["shared", "64_S1", SIZES, shared],
  ["shared, stage 2, concatenated", "64_S2", SIZES, { ...shared, ias: 40, oas: 40 }],
  ["shared, non-coherent", "64_S1", SIZES, { ...shared, coherentWalk: false, quirks: NS }],
  ["shared, 16K", "64_S1", [0x4000, 0x200_0000], { ...shared, pgsizeBitmap: SIZES_16K }],
  ["shared, 64K, 52 bits", "64_S2", [0x1_0000, 2 ** 29, 2 ** 42], { ...shared, pgsizeBitmap: SIZES_64K + 2 ** 42, ias: 52, oas: 52 }],
  ["shared, 32 bits", ARM_32_LPAE_S1, SIZES, { ...shared, ias: 32, oas: 40 }],
  ["shared, 32 bits, stage 2", ARM_32_LPAE_S2, SIZES, { ...shared, ias: 40, oas: 40 }],
  ["shared, Mali", ARM_MALI_LPAE, SIZES, { ...shared, ias: 48, oas: 40 }],
  ["4K", "64_S1", [0x1000, 0x20_0000, 2 ** 30], { pgsizeBitmap: SIZES_4K }],
  ["4K, stage 2, 44 bits", "64_S2", [0x1000, 0x20_0000, 2 ** 30], { pgsizeBitmap: SIZES_4K, ias: 44, oas: 44 }],
  ["4K, stage 2, concatenated", "64_S2", [0x1000, 0x20_0000, 2 ** 30], { pgsizeBitmap: SIZES_4K, ias: 40, oas: 40 }],
  ["4K, two levels", "64_S1", [0x1000, 0x20_0000], { pgsizeBitmap: SIZES_4K, ias: 30 }],
  ["4K, pages only", "64_S1", [0x1000], { pgsizeBitmap: 0x1000 }],
  ["4K, non-coherent", "64_S1", [0x1000, 0x20_0000, 2 ** 30], { pgsizeBitmap: SIZES_4K, coherentWalk: false, quirks: NS }],
  ["16K", "64_S1", [0x4000, 0x200_0000], { pgsizeBitmap: SIZES_16K }],
  ["16K, stage 2, concatenated", "64_S2", [0x4000, 0x200_0000], { pgsizeBitmap: SIZES_16K, ias: 40, oas: 40 }],
  ["64K", "64_S1", [0x1_0000, 2 ** 29], { pgsizeBitmap: SIZES_64K, ias: 42 }],
  ["64K, 52 bits", "64_S2", [0x1_0000, 2 ** 29, 2 ** 42], { pgsizeBitmap: SIZES_64K + 2 ** 42, ias: 52, oas: 52 }],
])("%s", (_, fmt, sizes, options) => {
  fc.assert(
    fc.property(fc.array(operation, { maxLength: 150, size: "max" }), (operations) => {
      run(fmt, sizes, options, operations);
    }),
    { seed: 12345, numRuns: 20 },
  );
});
