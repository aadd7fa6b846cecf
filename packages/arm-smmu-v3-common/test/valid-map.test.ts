import fc from "fast-check";
import { expect, test } from "vitest";
import { POSITION_MASK, ValidMap, validMapWords } from "../src/valid-map.ts";

/** The same without bits: the lap that each slot was marked in. */
class NaiveMap {
  readonly laps: number[];
  readonly log2: number;

  constructor(log2: number) {
    this.log2 = log2;
    this.laps = new Array<number>(1 << log2).fill(-1);
  }

  mark(from: number, to: number): void {
    for (let at = from; at !== to; at = (at + 1) & POSITION_MASK) this.laps[at & ((1 << this.log2) - 1)] = at >>> this.log2;
  }

  valid(at: number): boolean {
    return this.laps[at & ((1 << this.log2) - 1)] === at >>> this.log2;
  }
}

test("lists marked in any order within a lap are valid exactly when they are marked", () => {
  const scenario = fc.record({
    log2: fc.integer({ min: 1, max: 8 }),
    // Rounds of lists that are outstanding together, with the order in which they are marked.
    rounds: fc.array(fc.array(fc.tuple(fc.integer({ min: 1, max: 70 }), fc.nat()), { minLength: 1, maxLength: 6 }), { maxLength: 20 }),
  });
  fc.assert(
    fc.property(scenario, ({ log2, rounds }) => {
      const size = 1 << log2;
      const words = new Int32Array(5 + validMapWords(log2));
      const map = new ValidMap(words, 5, log2);
      const naive = new NaiveMap(log2);
      let begin = 0;
      for (const round of rounds) {
        let end = begin;
        const lists: { from: number; to: number; order: number }[] = [];
        for (const [slots, order] of round) {
          const to = Math.min(end + slots, begin + size);
          if (to > end) lists.push({ from: end, to, order });
          end = to;
        }
        for (const { from, to } of lists.toSorted((a, b) => a.order - b.order)) {
          map.mark(from, to);
          naive.mark(from, to);
          const gap = Array.from({ length: end - begin }, (_, i) => begin + i).find((at) => !naive.valid(at)) ?? end;
          const found = map.validUntil(begin, end);
          // It looks at up to 32 slots at a time: it may stop that much before the gap.
          expect([found <= gap, gap - found < 32, found === end]).toEqual([true, true, gap === end]);
        }
        begin = end;
      }
      expect(words.subarray(0, 5).every((word) => word === 0)).toBe(true);
    }),
    { seed: 12345, numRuns: 500 },
  );
});

test("the map goes on where positions wrap", () => {
  const map = new ValidMap(new Int32Array(validMapWords(5)), 0, 5);
  // Two laps before the end both ways of being valid were in use.
  const start = (POSITION_MASK + 1 - 64) & POSITION_MASK;
  map.mark(start, start + 32);
  map.mark(start + 32, POSITION_MASK + 1 - 8);
  expect(map.validUntil(start + 32, 0)).not.toBe(0);
  map.mark(POSITION_MASK + 1 - 8, 3);
  expect(map.validUntil(POSITION_MASK + 1 - 8, 3)).toBe(3);
});
