import { CMD, extract } from "@smmuv3/smmu-v3-defs";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { planRange, planRangeOver, planRangeSplit, planSingle } from "../src/index.ts";

interface Op {
  readonly num: number;
  readonly scale: number;
  readonly ttl: number;
  readonly tg: number;
  readonly leaf: number;
  readonly address: number;
}

const K = 1024;
const M = K * K;
const G = K * M;

function collect(run: (emit: (w0: number, w2: number, w3: number) => void) => boolean): { ok: boolean; ops: Op[] } {
  const ops: Op[] = [];
  const ok = run((w0, w2, w3) => {
    ops.push({
      num: extract(w0, CMD.NUM),
      scale: extract(w0, CMD.SCALE),
      ttl: extract(w2, CMD.TTL),
      tg: extract(w2, CMD.TG),
      leaf: extract(w2, CMD.Leaf),
      address: (w3 >>> 0) * 2 ** 32 + ((w2 & CMD.Address.loMask) >>> 0),
    });
  });
  return { ok, ops };
}

const range = (iova: number, size: number, shift: number, granule: number, leaf: boolean): Op[] =>
  collect((emit) => planRange(iova, size, shift, granule, leaf, emit)).ops;

const request = fc
  .record({
    shift: fc.constantFrom(12, 14, 16),
    leaf: fc.boolean(),
    blocks: fc.integer({ min: 0, max: 3 }).map((n) => n === 3),
    count: fc.nat(19).chain((bits) => fc.integer({ min: 1, max: 2 ** bits })),
    at: fc.nat(2 ** 20),
  })
  .map(({ shift, leaf, blocks, count, at }) => {
    const granule = leaf && blocks ? 2 ** (2 * shift - 3) : 2 ** shift;
    return { shift, leaf, granule, iova: at * granule, size: count * granule };
  });

describe("planRange", () => {
  const op = (num: number, scale: number, ttl: number, tg: number, leaf: number, address: number): Op =>
    ({ num, scale, ttl, tg, leaf, address });

  test.each([
    ["one 4K page, leaf", 0x5000, 4 * K, 12, 4 * K, true, [op(0, 0, 3, 1, 1, 0x5000)]],
    ["one 4K page, not leaf: a single address", 0x5000, 4 * K, 12, 4 * K, false, [op(0, 0, 0, 0, 0, 0x5000)]],
    ["2M of 4K pages", 2 * M, 2 * M, 12, 4 * K, true, [op(31, 4, 3, 1, 1, 2 * M)]],
    ["2M where a table went away", 2 * M, 2 * M, 12, 4 * K, false, [op(31, 4, 0, 1, 0, 2 * M)]],
    ["one 2M block", 2 * M, 2 * M, 12, 2 * M, true, [op(31, 4, 2, 1, 1, 2 * M)]],
    ["one 1G block", G, G, 12, G, true, [op(31, 13, 1, 1, 1, G)]],
    ["33 pages", 0, 33 * 4 * K, 12, 4 * K, true, [op(15, 1, 3, 1, 1, 0), op(0, 0, 3, 1, 1, 32 * 4 * K)]],
    [
      "66 pages and one: the second overlaps nothing",
      0, 67 * 4 * K, 12, 4 * K, true, [op(15, 2, 3, 1, 1, 0), op(2, 0, 3, 1, 1, 64 * 4 * K)],
    ],
    ["one 64K page", 64 * K, 64 * K, 16, 64 * K, true, [op(0, 0, 3, 3, 1, 64 * K)]],
    ["one 512M block of 64K", 512 * M, 512 * M, 16, 512 * M, true, [op(31, 8, 2, 3, 1, 512 * M)]],
    ["one 32M block of 16K", 32 * M, 32 * M, 14, 32 * M, true, [op(31, 6, 2, 2, 1, 32 * M)]],
    ["a high address", 2 ** 47, 4 * K, 12, 4 * K, true, [op(0, 0, 3, 1, 1, 2 ** 47)]],
  ])("%s", (_, iova, size, shift, granule, leaf, ops) => {
    expect(range(iova, size, shift, granule, leaf)).toEqual(ops);
  });

  test("nothing and too much are left to a full invalidation", () => {
    expect(collect((emit) => planRange(0, 0, 12, 4 * K, true, emit))).toEqual({ ok: false, ops: [] });
    expect(collect((emit) => planRange(0, 2 ** 52, 12, 4 * K, true, emit)).ok).toBe(false);
    expect(collect((emit) => planRange(0, 2 ** 48, 12, 4 * K, true, emit)).ok).toBe(true);
  });

  test("the commands cover the range and do not exceed it, and none is illegal", () => {
    fc.assert(
      fc.property(request, ({ shift, leaf, granule, iova, size }) => {
        const page = 2 ** shift;
        const ops = range(iova, size, shift, granule, leaf);
        expect(ops.length).toBeLessThanOrEqual(2);
        let reached = iova;
        for (const { num, scale, ttl, tg, address, leaf: leafBit } of ops) {
          const end = address + (tg === 0 ? page : (num + 1) * 2 ** scale * page);
          expect([address >= iova, end <= iova + size, address <= reached]).toEqual([true, true, true]);
          reached = Math.max(reached, end);
          const legal = tg === 0 ? num + scale + ttl === 0 : num + scale + ttl > 0 && tg === (shift - 10) / 2;
          expect([leafBit, legal]).toEqual([leaf ? 1 : 0, true]);
          if (ttl > 0) expect(address % 2 ** (shift + (3 - ttl) * (shift - 3))).toBe(0);
          // TTL names the level of the leaves that went away, or none.
          expect(ttl === 0 || granule === 2 ** (shift + (3 - ttl) * (shift - 3))).toBe(true);
        }
        expect(reached).toBe(iova + size);
      }),
      { seed: 12345, numRuns: 5000 },
    );
  });

  test("without range invalidation: each leaf once, or everything", () => {
    fc.assert(
      fc.property(request, ({ leaf, granule, iova, size }) => {
        const { ok, ops } = collect((emit) => planSingle(iova, size, granule, leaf, emit));
        const count = size / granule;
        expect(ok).toBe(count <= 512);
        const all = Array.from({ length: ok ? count : 0 }, (_, i) => iova + i * granule);
        expect(ops).toEqual(all.map((address) => ({ num: 0, scale: 0, ttl: 0, tg: 0, leaf: leaf ? 1 : 0, address })));
      }),
      { seed: 12345, numRuns: 300 },
    );
  });
});

describe("planRangeOver", () => {
  const over = (iova: number, size: number, shift: number, granule: number, leaf: boolean): { ok: boolean; ops: Op[] } =>
    collect((emit) => planRangeOver(iova, size, shift, granule, leaf, emit));

  test.each([
    [1, 0, 0], [31, 30, 0], [32, 31, 0], [33, 16, 1], [64, 31, 1], [65, 16, 2], [1025, 16, 6],
  ])("%i pages: NUM = %i, SCALE = %i", (pages, num, scale) => {
    const { ok, ops } = over(0, pages * 4 * K, 12, 4 * K, true);
    expect([ok, ops.map((op) => [op.num, op.scale])]).toEqual([true, [[num, scale]]]);
  });

  test("one command covers the range, and at most a 16th more", () => {
    fc.assert(
      fc.property(request, ({ shift, leaf, granule, iova, size }) => {
        const page = 2 ** shift;
        const { ok, ops } = over(iova, size, shift, granule, leaf);
        expect([ok, ops.length]).toEqual([true, 1]);
        const { num, scale, tg, address } = ops[0]!;
        const bytes = tg === 0 ? page : (num + 1) * 2 ** scale * page;
        expect([address === iova, bytes >= size, bytes <= size * (1 + 1 / 16)]).toEqual([true, true, true]);
      }),
      { seed: 12345, numRuns: 2000 },
    );
  });

  test("nothing and too much", () => {
    expect(over(0, 0, 12, 4 * K, true).ok).toBe(false);
    expect(over(0, 2 ** 52, 12, 4 * K, true)).toEqual({ ok: false, ops: [] });
  });
});

describe("planRangeSplit", () => {
  const split = (iova: number, size: number, shift: number, granule: number, leaf: boolean): Op[] =>
    collect((emit) => planRangeSplit(iova, size, shift, granule, leaf, emit)).ops;

  test.each([
    ["one page", 1, true, [[0, 0]]],
    ["two", 2, true, [[0, 1]]],
    ["33, the small part first", 33, true, [[0, 0], [0, 5]]],
    ["512", 512, true, [[0, 9]]],
    ["0b1010_0110_1011", 0b1010_0110_1011, true, [[10, 0], [18, 5], [0, 11]]],
    ["one where a table went away becomes two", 1, false, [[0, 1]]],
    ["65 where tables went away", 65, false, [[0, 1], [0, 6]]],
  ])("%s", (_, pages, leaf, expected) => {
    expect(split(0x4000_0000, pages * 4 * K, 12, 4 * K, leaf).map(({ num, scale }) => [num, scale])).toEqual(expected);
  });

  test("covers exactly the range, or the one page more that keeps the last command legal", () => {
    fc.assert(
      fc.property(request, ({ shift, leaf, granule, iova, size }) => {
        const page = 2 ** shift;
        let at = iova;
        let pages = 0;
        for (const { num, scale, ttl, tg, address } of split(iova, size, shift, granule, leaf)) {
          expect(address).toBe(at);
          expect(num + scale + ttl).toBeGreaterThan(0);
          expect(tg).toBe((shift - 10) / 2);
          pages += (num + 1) * 2 ** scale;
          at = iova + pages * page;
        }
        const more = !leaf && (size / page) % 32 === 1 ? 1 : 0;
        expect(pages).toBe(size / page + more);
      }),
      { seed: 12345, numRuns: 2000 },
    );
  });

  test("nothing is left to a full invalidation", () => {
    expect(collect((emit) => planRangeSplit(0, 0, 12, 4 * K, true, emit)).ok).toBe(false);
  });
});

describe("planSingle", () => {
  test("one command per leaf", () => {
    const { ok, ops } = collect((emit) => planSingle(2 ** 40, 3 * 2 * M, 2 * M, true, emit));
    expect(ok).toBe(true);
    expect(ops.map(({ address }) => address - 2 ** 40)).toEqual([0, 2 * M, 4 * M]);
    expect(ops.every(({ num, scale, ttl, tg, leaf }) => num + scale + ttl + tg === 0 && leaf === 1)).toBe(true);
  });
  test.each([[0, false, 0], [512, true, 512], [513, false, 0]])("%i pages: %s", (pages, ok, count) => {
    const result = collect((emit) => planSingle(0, pages * 4096, 4096, false, emit));
    expect([result.ok, result.ops.length]).toEqual([ok, count]);
  });
});
