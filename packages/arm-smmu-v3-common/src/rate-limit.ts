/** Messages in an interval at most, and the interval in ns: what the kernel has for messages that a device can provoke. */
const BURST = 10;
const INTERVAL = 5_000_000_000;

/** Limits messages that hardware can cause at any rate: the first ten of each five seconds pass. */
export class RateLimit {
  #start = 0;
  #admitted = 0;

  /** Whether a message at time `now`, in ns, may be printed. */
  admit(now: number): boolean {
    if (now - this.#start >= INTERVAL) {
      this.#start = now;
      this.#admitted = 0;
    }
    if (this.#admitted === BURST) return false;
    this.#admitted++;
    return true;
  }
}
