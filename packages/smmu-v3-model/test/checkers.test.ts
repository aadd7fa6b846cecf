import fc from "fast-check";
import { expect, test } from "vitest";
import { CD_WORDS, STE_WORDS } from "@smmuv3/smmu-v3-defs";
import { CD_CONTEXT, CdChecker, findCdViolation } from "../src/cd-rules.ts";
import { decodeFeatures, PRESETS } from "../src/presets.ts";
import type { IdRegisters } from "../src/index.ts";
import { findSteViolation, SteChecker } from "../src/ste-rules.ts";

const IDS: readonly IdRegisters[] = Object.values(PRESETS);
/** An STE of both stages and a CD that most features allow, by words. */
const STE_WORDS_0 = [0xf, 0, 0, 0, 1, 16 | (2 << 6) | (5 << 16) | (1 << 19), 0x8000_0000, 0];
const CD_WORDS_0 = [16 | (1 << 30) | (1 << 31), 5 | (1 << 9) | (1 << 13) | (1 << 14) | (9 << 16), 0x1000, 0, 0, 0];
/** Bits to flip, one after the other; what was found illegal is flipped back. */
const FLIPS = fc.array(fc.record({ bit: fc.nat(255), context: fc.nat(31), keep: fc.boolean() }), { minLength: 40, maxLength: 80 });

function start(words: readonly number[], length: number): Int32Array {
  const out = new Int32Array(length);
  out.set(words);
  return out;
}

test("5.2.2: what the STE checker remembers never makes an ILLEGAL STE legal", () => {
  const seen = { legal: 0, illegal: 0 };
  fc.assert(
    fc.property(fc.constantFrom(...IDS), FLIPS, (id, flips) => {
      const features = decodeFeatures(id);
      const checker = new SteChecker(features);
      const ste = start(STE_WORDS_0, STE_WORDS);
      for (const { bit, keep } of flips) {
        ste[bit >> 5]! ^= 1 << (bit & 31);
        const legal = findSteViolation(ste, 0, features) === undefined;
        expect(checker.check(ste, 0)).toBe(legal);
        expect(checker.check(ste, 0)).toBe(legal);
        seen[legal ? "legal" : "illegal"]++;
        if (!legal || !keep) ste[bit >> 5]! ^= 1 << (bit & 31);
      }
    }),
    { seed: 5, numRuns: 400 },
  );
  expect(Math.min(seen.legal, seen.illegal)).toBeGreaterThan(1000);
});

test("5.4.2: what the CD checker remembers never makes an ILLEGAL CD legal", () => {
  const seen = { legal: 0, illegal: 0 };
  fc.assert(
    fc.property(fc.constantFrom(...IDS), FLIPS, (id, flips) => {
      const features = decodeFeatures(id);
      const checker = new CdChecker(features);
      const cd = start(CD_WORDS_0, CD_WORDS);
      for (const { bit, context: bits, keep } of flips) {
        const context = keep ? bits : 0;
        const has = (flag: number): boolean => (context & flag) !== 0;
        cd[bit >> 5]! ^= 1 << (bit & 31);
        const legal = findCdViolation(cd, 0, features, {
          s1Stalld: has(CD_CONTEXT.S1STALLD), single: has(CD_CONTEXT.SINGLE), e2h: has(CD_CONTEXT.E2H),
          lpaeStage2: has(CD_CONTEXT.LPAE_STAGE2), s1pie: has(CD_CONTEXT.S1PIE),
        }) === undefined;
        expect(checker.check(cd, 0, context)).toBe(legal);
        expect(checker.check(cd, 0, context)).toBe(legal);
        seen[legal ? "legal" : "illegal"]++;
        if (!legal || bit % 3 === 0) cd[bit >> 5]! ^= 1 << (bit & 31);
      }
    }),
    { seed: 6, numRuns: 400 },
  );
  expect(Math.min(seen.legal, seen.illegal)).toBeGreaterThan(1000);
});
