/**
 * Positions of a shared queue count modulo 2^31; the top bit of the word that holds the producer's is a flag. Wider than the
 * registers' (index and wrap bit), so that no agent can be held up long enough to meet the same value a lap later.
 */
export const POSITION_MASK = 0x7fff_ffff;

/** Words of the map of a ring with 2^`log2` slots. */
export function validMapWords(log2: number): number {
  return Math.max((1 << log2) >> 5, 1);
}

/**
 * One bit a slot in shared memory: whether the command for the current lap is there. What "there" looks like changes with each
 * lap (1 on even laps, 0 on odd ones), so that marking is one exclusive-or and nobody has to clear anything.
 */
export class ValidMap {
  readonly #words: Int32Array;
  readonly #base: number;
  readonly #log2: number;
  readonly #size: number;

  /** Words `[base, base + validMapWords(log2))` of `words`, zero at first. */
  constructor(words: Int32Array, base: number, log2: number) {
    this.#words = words;
    this.#base = base;
    this.#log2 = log2;
    this.#size = 1 << log2;
  }

  /** Marks positions `[from, to)`. What was stored before it is visible to whoever finds them valid. */
  mark(from: number, to: number): void {
    for (let at = from; at !== to; ) {
      const slots = this.#run(at, to);
      Atomics.xor(this.#words, this.#word(at), this.#mask(at, slots));
      at = (at + slots) & POSITION_MASK;
    }
  }

  /** The first position of `[from, to)` from which on not all are known to be valid; `to` when all are. */
  validUntil(from: number, to: number): number {
    let at = from;
    while (at !== to) {
      const slots = this.#run(at, to);
      const mask = this.#mask(at, slots);
      const expected = ((at >>> this.#log2) & 1) === 0 ? mask : 0;
      if ((Atomics.load(this.#words, this.#word(at)) & mask) !== expected) return at;
      at = (at + slots) & POSITION_MASK;
    }
    return at;
  }

  #word(at: number): number {
    return this.#base + ((at & (this.#size - 1)) >> 5);
  }

  /** Slots from `at` on that lie in one word of the map, up to `to`. */
  #run(at: number, to: number): number {
    const slot = at & (this.#size - 1);
    return Math.min(32 - (slot & 31), this.#size - slot, (to - at) & POSITION_MASK);
  }

  #mask(at: number, slots: number): number {
    return (slots === 32 ? -1 : (1 << slots) - 1) << (at & (this.#size - 1) & 31);
  }
}
