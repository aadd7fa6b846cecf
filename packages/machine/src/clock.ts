/** Simulated time: moves only when somebody advances it. */
export class Clock {
  #now = 0;

  /** Nanoseconds since reset. */
  now(): number {
    return this.#now;
  }

  /** Moves time forward by `ns` >= 0. */
  advance(ns: number): void {
    if (!(ns >= 0)) throw new RangeError(`Clock: cannot advance by ${ns} ns`);
    this.#now += ns;
  }
}
