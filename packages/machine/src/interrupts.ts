import { Errno, LEVEL } from "@smmuv3/platform";
import type { Counters, InterruptLine } from "@smmuv3/platform";

/** Interrupts taken at one point at most; a line that its handler raises again stays pending, it does not hang EL1. */
const BURST = 256;

/**
 * The interrupt controller: latches edges, and runs EL1's handlers where EL1 asks for it, lowest INTID first, one at a
 * time. An edge on a line that nobody requested waits for the request.
 */
export class InterruptController {
  readonly lines: number;
  readonly #pending: Uint8Array;
  readonly #handlers: ((() => void) | undefined)[];
  readonly #inputs = new Map<number, InterruptLine>();
  readonly #counters: Counters;
  readonly #counter: number;
  #edges = 0;
  #masks = 0;

  constructor(lines: number, counters: Counters) {
    if (!Number.isSafeInteger(lines) || lines <= 0) throw new RangeError(`irqLines must be positive, got ${lines}`);
    this.lines = lines;
    this.#pending = new Uint8Array(lines);
    this.#handlers = new Array<(() => void) | undefined>(lines).fill(undefined);
    this.#counters = counters;
    this.#counter = counters.id("interrupts") + LEVEL.el1;
  }

  line(intid: number): InterruptLine {
    this.#check(intid);
    let line = this.#inputs.get(intid);
    if (line === undefined) {
      line = {
        pulse: () => {
          if (this.#pending[intid] === 0) this.#edges++;
          this.#pending[intid] = 1;
        },
      };
      this.#inputs.set(intid, line);
    }
    return line;
  }

  request(intid: number, handler: () => void): void {
    this.#check(intid);
    if (this.#handlers[intid] !== undefined) throw new Errno("EBUSY", `interrupt ${intid} is already requested`);
    this.#handlers[intid] = handler;
  }

  free(intid: number): void {
    this.#check(intid);
    if (this.#handlers[intid] === undefined) throw new RangeError(`interrupt ${intid} is not requested`);
    this.#handlers[intid] = undefined;
  }

  pending(intid: number): boolean {
    this.#check(intid);
    return this.#pending[intid] !== 0;
  }

  get masked(): boolean {
    return this.#masks !== 0;
  }

  mask(): void {
    this.#masks++;
  }

  unmask(): void {
    if (this.#masks === 0) throw new RangeError("irqRestore without irqSave");
    this.#masks--;
  }

  /** Runs the handlers of what is pending, masked; nothing happens while masked. */
  take(): void {
    if (this.#edges === 0 || this.#masks !== 0) return;
    this.#masks++;
    try {
      for (let taken = 0; taken < BURST; taken++) {
        const intid = this.#next();
        if (intid < 0) return;
        this.#pending[intid] = 0;
        this.#edges--;
        this.#counters.add(this.#counter, 1);
        this.#handlers[intid]!();
      }
    } finally {
      this.#masks--;
    }
  }

  #next(): number {
    if (this.#edges === 0) return -1;
    for (let intid = 0; intid < this.lines; intid++) {
      if (this.#pending[intid] !== 0 && this.#handlers[intid] !== undefined) return intid;
    }
    return -1;
  }

  #check(intid: number): void {
    if (!Number.isInteger(intid) || intid < 0 || intid >= this.lines) {
      throw new RangeError(`interrupt: expected an INTID below ${this.lines}, got ${intid}`);
    }
  }
}
