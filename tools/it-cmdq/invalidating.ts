// A thread that invalidates a domain over and over, and notices commands for devices that have left it.
import { workerData } from "node:worker_threads";
import { Invalidator, Invs } from "@smmuv3/arm-smmu-v3-common";
import { CMD, COMMANDS, getField } from "@smmuv3/smmu-v3-defs";
import { CONTROL } from "./invalidating-data.ts";
import type { InvalidatingData } from "./invalidating-data.ts";
import { Random } from "./random.ts";

/** One list in so many waits, for so many ms, between its commands and their insertion. */
const WAIT_EVERY = 20;
const WAIT = 1;

const { arrays, cell, control, left, seed, keepsArray } = workerData as InvalidatingData;
const random = new Random(seed);
const pause = (): void => {
  if (random.below(WAIT_EVERY) === 0) Atomics.wait(control, CONTROL.never, 0, WAIT);
};

/** Collects the commands of a list; looks at them where a queue would take them. */
class Collector {
  readonly words: Int32Array = new Int32Array(64 * 4);
  #count = 0;

  next(): number {
    return this.#count++ * 4;
  }

  submit(): number {
    pause();
    for (let at = 0; at < this.#count * 4; at += 4) {
      const ats = getField(this.words, at, CMD.Opcode) === COMMANDS.ATC_INV.opcode;
      if (ats && Atomics.load(left, getField(this.words, at, CMD.SID)) !== 0) Atomics.add(control, CONTROL.late, 1);
    }
    this.#count = 0;
    Atomics.add(control, CONTROL.lists, 1);
    return 0;
  }
}

const collector = new Collector();
const invalidator = new Invalidator({
  pageShift: 12,
  keepsArray,
  barrier: () => {},
  relax: pause,
  current: () => {
    const found = new Invs(arrays[Atomics.load(control, CONTROL.published)]!, cell);
    pause();
    return found;
  },
  batchOf: () => collector,
});
while (Atomics.load(control, CONTROL.stop) === 0) invalidator.invalidate(0, 4096, 4096, true);
