/** Random numbers that a seed determines (xorshift32). */
export class Random {
  #state: number;

  constructor(seed: number) {
    // A state of 0 would stay 0.
    this.#state = Math.imul(seed + 1, 0x9e37_79b1) | 0 || 1;
  }

  /** An integer of `[0, below)`. */
  below(below: number): number {
    let state = this.#state;
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    this.#state = state;
    return (state >>> 0) % below;
  }
}
