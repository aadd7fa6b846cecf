import { CERROR, maskOf, PAGE_FIELDS, PAGE_REGISTERS, place } from "@smmuv3/smmu-v3-defs";
import type { CommandPort, CommandQueues, CommandRunner } from "./command-runner.ts";
import { GERROR_BIT } from "./irq.ts";
import type { Interrupts } from "./irq.ts";
import type { RegisterLayout } from "./layout.ts";
import { queueEmpty, queueFull, queueIndex, queueNext, queuePointer } from "./queues.ts";
import type { RegisterFile } from "./registers.ts";
import type { StateReader, StateWriter } from "./state.ts";

const { ECMDQ_BASE, ECMDQ_PROD, ECMDQ_CONS } = PAGE_FIELDS;
const PROD = PAGE_REGISTERS.ECMDQ_PROD.offset;
const CONS = PAGE_REGISTERS.ECMDQ_CONS.offset;
/** EN and ENACK, ERRACK and ERR are in the same places of PROD and CONS. */
const EN = maskOf(ECMDQ_PROD.EN);
const ERR = maskOf(ECMDQ_CONS.ERR);
const REASON = maskOf(ECMDQ_CONS.ERR_REASON);
const RD = maskOf(ECMDQ_CONS.RD);

/** Enhanced Command queues, IHI 0070 3.5.6. They depend neither on CR0.CMDQEN nor on GERROR.CMDQ_ERR. */
export class EnhancedCommandQueues implements CommandQueues {
  readonly #file: RegisterFile;
  readonly #interrupts: Interrupts;
  readonly #port: CommandPort;
  readonly #layout: RegisterLayout;
  /** Offset of each queue that is, or was, enabled, with what executes its commands. */
  readonly #queues = new Map<number, CommandRunner>();
  readonly #sendEvent: () => void;
  #busy = false;

  /** @param sendEvent wakes a CPU when a queue that was full is so no more; for IDR0.SEV */
  constructor(
    file: RegisterFile,
    interrupts: Interrupts,
    layout: RegisterLayout,
    port: CommandPort,
    sendEvent: () => void,
  ) {
    this.#file = file;
    this.#interrupts = interrupts;
    this.#layout = layout;
    this.#port = port;
    this.#sendEvent = sendEvent;
  }

  /** A register was written. Returns false where it is not one of a control page. */
  written(offset: number): boolean {
    const first = this.#layout.ecmdqPages[0];
    if (first === undefined || offset < first) return false;
    const queue = offset - ((offset - first) % this.#layout.ecmdqStride);
    if (offset !== queue + PROD) return true;
    if (!this.#queues.has(queue) && (this.#file.get(queue + PROD) & EN) !== 0) this.#queues.set(queue, this.#port.newRunner());
    if (this.#port.immediate) {
      this.#acknowledge(queue);
      this.#consume(Number.MAX_SAFE_INTEGER);
    }
    return true;
  }

  advance(limit: number): number {
    for (const queue of this.#queues.keys()) this.#acknowledge(queue);
    return this.#consume(limit);
  }

  reset(): void {
    this.#queues.clear();
  }

  /** What is not in the registers: the queues in use, and which of them have an invalidation without an answer. */
  save(out: StateWriter): void {
    out.put("ecmdqs", [...this.#queues].map(([queue, { timedOut }]) => [queue, timedOut]));
  }

  restore(from: StateReader): void {
    this.#queues.clear();
    for (const [queue, timedOut] of from.get("ecmdqs") as [number, boolean][]) {
      const runner = this.#port.newRunner();
      runner.timedOut = timedOut;
      this.#queues.set(queue, runner);
    }
  }

  /** An active error does not hold it up (3.5.6.2). */
  #acknowledge(queue: number): void {
    const cons = this.#file.get(queue + CONS);
    this.#file.set(queue + CONS, (cons & ~EN) | (this.#file.get(queue + PROD) & EN));
  }

  /** One command of each queue in turn: no queue holds up another. */
  #consume(limit: number): number {
    if (this.#busy) return 0;
    this.#busy = true;
    try {
      let done = 0;
      for (let before = -1; before !== done && done < limit; ) {
        before = done;
        for (const [queue, runner] of this.#queues) if (done < limit && this.#runOne(queue, runner)) done++;
      }
      return done;
    } finally {
      this.#busy = false;
    }
  }

  /** Runs the next command of a queue. Returns false where there is none, or it is in error. */
  #runOne(queue: number, runner: CommandRunner): boolean {
    const file = this.#file;
    const prod = file.get(queue + PROD);
    const cons = file.get(queue + CONS);
    const base = file.get(queue);
    const log2 = Math.min(base & maskOf(ECMDQ_BASE.LOG2SIZE), this.#port.maxLog2);
    if ((prod & cons & EN) === 0 || ((prod ^ cons) & ERR) !== 0 || queueEmpty(prod, cons, log2)) return false;
    if (runner.halted) return false;
    const full = queueFull(prod, cons, log2);
    const lo = (base & ECMDQ_BASE.ADDR.loMask & ~((16 << log2) - 1)) | (queueIndex(cons, log2) << 4);
    const error = runner.execute(lo, file.high(queue) & ECMDQ_BASE.ADDR.hiMask);
    if (error !== CERROR.NONE) {
      // RD stays on the command; ERR is visible before CMDQP_ERR is (3.5.6.3).
      file.set(queue + CONS, ((cons & ~REASON) ^ ERR) | place(ECMDQ_CONS.ERR_REASON, error));
      this.#interrupts.raise(GERROR_BIT.CMDQP_ERR);
      return false;
    }
    const now = file.get(queue + CONS);
    file.set(queue + CONS, (now & ~RD) | queueNext(queuePointer(now, log2), log2));
    runner.signal();
    if (full) this.#sendEvent();
    return true;
  }
}
