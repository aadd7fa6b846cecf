import { encodeHi, encodeLo } from "./descriptor.ts";

// Runs of leaves within one table: `slot` is the word index of the first of `n` descriptors. The loops are unrolled by four
// because one store a turn is bound by the loop, not by memory.

const WORD_SPAN = 0x1_0000_0000;
/** Below this, the call of `fill` costs more than the stores. */
const FILL_FROM = 16;

/** True when all slots are empty. */
export function runIsEmpty(words: Int32Array, slot: number, n: number): boolean {
  const end = slot + (n << 1);
  let seen = 0;
  let at = slot;
  for (; at + 6 < end; at += 8) seen |= words[at]! | words[at + 2]! | words[at + 4]! | words[at + 6]!;
  for (; at < end; at += 2) seen |= words[at]!;
  return seen === 0;
}

/** Number of slots before the first that is not of type `leaf` (bits [1:0]). That all are is asked first, without a branch per slot. */
export function leadingLeaves(words: Int32Array, slot: number, n: number, leaf: number): number {
  const end = slot + (n << 1);
  let at = slot;
  let a = 0;
  let b = 0;
  for (; at + 6 < end; at += 8) {
    a |= (words[at]! ^ leaf) | (words[at + 2]! ^ leaf);
    b |= (words[at + 4]! ^ leaf) | (words[at + 6]! ^ leaf);
  }
  if (((a | b) & 3) !== 0) at = slot;
  while (at < end && (words[at]! & 3) === leaf) at += 2;
  return (at - slot) >> 1;
}

/** Empties slots, each low word before its high word. */
export function clearRun(words: Int32Array, slot: number, n: number): void {
  const end = slot + (n << 1);
  if (n >= FILL_FROM) words.fill(0, slot, end);
  else for (let at = slot; at < end; at++) words[at] = 0;
}

/**
 * Writes leaves into empty slots, output addresses ascending by `pgsize` from `paHi:paLo`; `attrLo` includes the type. A carry out
 * of the low word, or into PA[51:48], starts a new run instead of being tested for in the loop.
 */
export function writeRun(
  words: Int32Array,
  slot: number,
  n: number,
  paLo: number,
  paHi: number,
  pgsize: number,
  attrLo: number,
  attrHi: number,
): void {
  if (pgsize >= WORD_SPAN) {
    for (let i = 0; i < n; i++) {
      const high = paHi + i * (pgsize / WORD_SPAN);
      words[slot + (i << 1) + 1] = encodeHi(high) | attrHi;
      words[slot + (i << 1)] = encodeLo(paLo, high) | attrLo;
    }
    return;
  }
  const step = pgsize | 0;
  let at = slot;
  let left = n;
  let lo = paLo;
  let hi = paHi;
  while (left > 0) {
    const run = Math.min(left, (WORD_SPAN - ((lo & -step) >>> 0)) / pgsize) | 0;
    const end = at + (run << 1);
    const high = encodeHi(hi) | attrHi;
    let low = encodeLo(lo, hi) | attrLo;
    for (; at + 6 < end; at += 8) {
      words[at + 1] = high;
      words[at] = low;
      low = (low + step) | 0;
      words[at + 3] = high;
      words[at + 2] = low;
      low = (low + step) | 0;
      words[at + 5] = high;
      words[at + 4] = low;
      low = (low + step) | 0;
      words[at + 7] = high;
      words[at + 6] = low;
      low = (low + step) | 0;
    }
    for (; at < end; at += 2) {
      words[at + 1] = high;
      words[at] = low;
      low = (low + step) | 0;
    }
    left -= run;
    lo &= step - 1;
    hi++;
  }
}
