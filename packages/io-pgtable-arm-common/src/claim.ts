// How several agents write one descriptor. Only its low word is compared and exchanged; the high word belongs to whoever holds the
// claim. `slot` is the index of the low word.
//
//   empty (0) --claim--> claimed --publish--> leaf or table      valid --claim--> claimed --publish--> empty
//
// 1. The low word leaves 0, or a valid value, only by a compare-and-exchange to CLAIMED: one agent wins.
// 2. Only the winner stores the high word, and only while it holds the claim. CLAIMED has bit 0 clear, so whatever stands in the high
//    word is then of no meaning to a walker, and nobody else looks at it.
// 3. The store of the low word ends the claim. It comes after the store of the high word in the order of `Atomics`, so who sees the
//    new low word sees its high word.
// 4. An agent that waits for a claim of a table pointer holds none; one that waits within a run holds lower slots of the same table
//    only. So no circle of waiters exists.

//
// A call of `Atomics` costs as much as a whole level of a walk, so a plain load is enough in two places. Where a comparing exchange
// follows, it tells whether the value still stands. And a pointer that was seen stays as long as an agent may work below it; what it
// points to is reached through it, so that loads are ordered by address.

/** Low word of a slot that an agent holds: invalid to a walker, and of no descriptor. */
export const CLAIMED = 2;

/** Takes a slot whose low word is `from`. False when it is not any more. */
export function claim(words: Int32Array, slot: number, from: number): boolean {
  return Atomics.compareExchange(words, slot, from, CLAIMED) === from;
}

/** Ends a claim with the contents of the slot. */
export function publish(words: Int32Array, slot: number, lo: number, hi: number): void {
  words[slot + 1] = hi;
  Atomics.store(words, slot, lo);
}

/** Low word of a slot when nobody holds it. */
export function settled(words: Int32Array, slot: number, relax: () => void): number {
  for (;;) {
    const lo = Atomics.load(words, slot);
    if (lo !== CLAIMED) return lo;
    relax();
  }
}

/** The same by a plain load, see above. */
export function glance(words: Int32Array, slot: number, relax: () => void): number {
  const lo = words[slot]!;
  return lo === CLAIMED ? settled(words, slot, relax) : lo;
}

/**
 * Takes `n` empty slots, ascending, waiting for claims of others.
 * @returns `n`, or the number of slots before the first that is not empty; nothing is held then
 */
export function claimRun(words: Int32Array, slot: number, n: number, relax: () => void): number {
  for (let i = 0; i < n; i++) {
    const at = slot + (i << 1);
    while (!claim(words, at, 0)) {
      if (settled(words, at, relax) === 0) continue;
      for (let held = slot; held < at; held += 2) Atomics.store(words, held, 0);
      return i;
    }
  }
  return n;
}

/** Empties a valid slot unless its low word changed from `lo`, e.g. because hardware made it dirty. */
export function takeOut(words: Int32Array, slot: number, lo: number): boolean {
  if (!claim(words, slot, lo)) return false;
  publish(words, slot, 0, 0);
  return true;
}
