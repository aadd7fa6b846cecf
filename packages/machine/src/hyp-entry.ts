import {
  ABORT,
  ABORT_FLAG_DEVICE,
  ABORT_FLAG_WRITE,
  ABORT_WORDS,
  FRAME_WORDS,
  hi32,
  LEVEL,
  lo32,
} from "@smmuv3/platform";
import type { AbortAction, Counters, HypVectors } from "@smmuv3/platform";

import { isHypPanic, isMachineError } from "./latch.ts";
import type { Latch } from "./latch.ts";

const NOT_SUPPORTED = -1;

/** Names the counter of a hypercall by its function id (low word of x0). */
export type HvcCounter = (functionId: number) => string;

/**
 * Entry to EL2 from EL1. While EL2 runs no interrupt is taken; whatever escapes from EL2 is a panic, and after a panic there
 * is no entry any more.
 */
export class HypEntry {
  vectors: HypVectors | undefined = undefined;
  readonly #latch: Latch;
  readonly #counters: Counters;
  readonly #hvcCounter: HvcCounter;
  readonly #abortFrame = new Int32Array(ABORT_WORDS);
  #running = false;

  constructor(latch: Latch, counters: Counters, hvcCounter: HvcCounter) {
    this.#latch = latch;
    this.#counters = counters;
    this.#hvcCounter = hvcCounter;
  }

  /** EL2 code is running. */
  get running(): boolean {
    return this.#running;
  }

  /** Value that an emulated read returns, after {@link dataAbort}. */
  get valueLo(): number {
    return this.#abortFrame[ABORT.valueLo]!;
  }

  get valueHi(): number {
    return this.#abortFrame[ABORT.valueHi]!;
  }

  hvc(frame: Int32Array): void {
    if (frame.length !== FRAME_WORDS) {
      throw new RangeError(`hvc: the frame has ${FRAME_WORDS} words, got ${frame.length}`);
    }
    this.#enter();
    try {
      this.#counters.add(this.#counters.id(this.#hvcCounter(frame[0]!)) + LEVEL.el1, 1);
      if (this.vectors === undefined) frame[0] = NOT_SUPPORTED;
      else this.vectors.hvc(frame);
    } catch (error) {
      this.#escaped(error);
    } finally {
      this.#running = false;
    }
    this.#latch.checkAlive();
  }

  /** HVC of a vCPU, while {@link hvc} runs it. Returns false when EL2 has no handler. */
  guestHvc(handle: number, vcpu: number, frame: Int32Array): boolean {
    if (this.vectors?.guestHvc === undefined) return false;
    try {
      this.vectors.guestHvc(handle, vcpu, frame);
    } catch (error) {
      this.#escaped(error);
    }
    return true;
  }

  /** Takes a stage-2 abort of EL1 to EL2; `lo`, `hi` hold the value of a device write. */
  dataAbort(ipa: number, size: number, write: boolean, device: boolean, lo: number, hi: number): AbortAction {
    this.#enter();
    const frame = this.#abortFrame;
    frame[ABORT.ipaLo] = lo32(ipa);
    frame[ABORT.ipaHi] = hi32(ipa);
    frame[ABORT.flags] = (write ? ABORT_FLAG_WRITE : 0) | (device ? ABORT_FLAG_DEVICE : 0);
    frame[ABORT.size] = size;
    frame[ABORT.valueLo] = lo;
    frame[ABORT.valueHi] = hi;
    let action: AbortAction | undefined;
    try {
      if (this.vectors === undefined) this.#latch.panic("stage-2 abort without vectors");
      action = this.vectors.dataAbort(frame);
    } catch (error) {
      this.#escaped(error);
    } finally {
      this.#running = false;
    }
    this.#latch.checkAlive();
    return action;
  }

  #enter(): void {
    this.#latch.checkAlive();
    // EL2 has no stage 2 of its own: code that gets here uses EL1's CPU while it runs at EL2.
    if (this.#running) this.#latch.fail("EL2 used the host CPU");
    this.#running = true;
  }

  #escaped(error: unknown): never {
    if (isMachineError(error) || (isHypPanic(error) && this.#latch.panicked)) throw error;
    this.#latch.panic(`exception at EL2: ${error instanceof Error ? error.message : String(error)}`);
  }
}
