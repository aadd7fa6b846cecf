import type { CounterReading, Counters } from "@smmuv3/platform";

/** What the machine is doing, so that costs can be told apart from checks. */
export type Phase = "boot" | "replay" | "check" | "isolation" | "teardown";

/** Splits the counters of a run by phase. Switching costs one pass over the counters. */
export class PhaseCounters {
  readonly #counters: Counters;
  readonly #sums: Readonly<Record<Phase, Float64Array>>;
  readonly #last: Float64Array;
  #phase: Phase = "boot";

  constructor(counters: Counters) {
    this.#counters = counters;
    const size = counters.values.length;
    this.#last = new Float64Array(size);
    this.#sums = {
      boot: new Float64Array(size),
      replay: new Float64Array(size),
      check: new Float64Array(size),
      isolation: new Float64Array(size),
      teardown: new Float64Array(size),
    };
  }

  /** Everything since the last switch belongs to the phase that ends here. */
  enter(phase: Phase): void {
    const { values } = this.#counters;
    const sum = this.#sums[this.#phase];
    const last = this.#last;
    for (let i = 0; i < values.length; i++) {
      sum[i]! += values[i]! - last[i]!;
      last[i] = values[i]!;
    }
    this.#phase = phase;
  }

  /** Counts of `phase` by name; call {@link enter} first, so that the present phase is complete. */
  read(phase: Phase): Record<string, CounterReading> {
    const sum = this.#sums[phase];
    const out: Record<string, CounterReading> = {};
    for (const name of this.#counters.names()) {
      const id = this.#counters.id(name);
      const [el1, el2, device] = [sum[id]!, sum[id + 1]!, sum[id + 2]!];
      out[name] = { el1, el2, device, total: el1 + el2 + device };
    }
    return out;
  }
}
