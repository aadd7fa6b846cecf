import { LEVEL } from "@smmuv3/platform";
import type { Counters, Memory } from "@smmuv3/platform";
import { CERROR, COMMANDS, maskOf, OFFSET, place, REG } from "@smmuv3/smmu-v3-defs";
import { CONSUMED } from "./command-target.ts";
import type { CommandTarget } from "./command-target.ts";
import { signalCompletion } from "./commands.ts";
import type { CommandTable } from "./commands.ts";
import { GERROR_BIT } from "./irq.ts";
import type { Features } from "./presets.ts";
import type { RegisterFile } from "./registers.ts";

const CMDQEN = maskOf(REG.CR0ACK.CMDQEN);
const SYNC = COMMANDS.SYNC.opcode;
const BASE = OFFSET.CMDQ_BASE;
const PROD = OFFSET.CMDQ_PROD;
const CONS = OFFSET.CMDQ_CONS;
const CR0ACK = OFFSET.CR0ACK;
const LOG2SIZE = maskOf(REG.CMDQ_BASE.LOG2SIZE);
const ERR = maskOf(REG.CMDQ_CONS.ERR);

/** The Command queue, IHI 0070 4.1: fetches, checks legality, executes, reports errors. */
export class CommandQueue {
  readonly #file: RegisterFile;
  readonly #memory: Memory;
  readonly #table: CommandTable;
  readonly #target: CommandTarget;
  readonly #maxLog2: number;
  readonly #counts: Float64Array;
  readonly #commandsId: number;
  readonly #syncsId: number;
  #busy = false;
  /** Commands that the last batch consumed. */
  #consumed = 0;

  constructor(
    file: RegisterFile,
    features: Features,
    memory: Memory,
    table: CommandTable,
    target: CommandTarget,
    counters: Counters,
  ) {
    this.#file = file;
    this.#memory = memory;
    this.#table = table;
    this.#target = target;
    this.#maxLog2 = features.cmdqs;
    this.#counts = counters.values;
    this.#commandsId = counters.id("commands") + LEVEL.device;
    this.#syncsId = counters.id("syncs") + LEVEL.device;
  }

  /**
   * Consumes up to `limit` commands, until the queue is empty or one is in error. Returns how many were consumed. A call from
   * within a command (an interrupt handler that rings the doorbell) does nothing: the outer one goes on.
   */
  consume(limit: number): number {
    if (this.#busy) return 0;
    this.#busy = true;
    try {
      return this.#run(limit);
    } finally {
      this.#busy = false;
    }
  }

  #run(limit: number): number {
    let done = 0;
    let error: number = CERROR.NONE;
    // PROD and the enables are read again after each batch: what a command causes may change them.
    while (done < limit && error === CERROR.NONE && this.#ready()) {
      error = this.#batch(limit - done);
      done += this.#consumed;
    }
    this.#counts[this.#commandsId]! += done;
    if (error !== CERROR.NONE) {
      // RD stays on the command; ERR is visible before the error is (4.1.2).
      this.#file.set(CONS, (this.#file.get(CONS) & ~ERR) | place(REG.CMDQ_CONS.ERR, error));
      this.#target.interrupts.raise(GERROR_BIT.CMDQ_ERR);
    }
    return done;
  }

  #ready(): boolean {
    const file = this.#file;
    return (
      (file.get(CR0ACK) & CMDQEN) !== 0 &&
      !this.#target.interrupts.active(GERROR_BIT.CMDQ_ERR) &&
      !this.#target.interrupts.serviceFailure &&
      ((file.get(PROD) ^ file.get(CONS)) & ((2 << this.#log2) - 1)) !== 0
    );
  }

  /** log2 of the entries in effect. */
  get #log2(): number {
    return Math.min(this.#file.get(BASE) & LOG2SIZE, this.#maxLog2);
  }

  /** Consumes commands up to PROD, and up to and with the first that reaches out of the SMMU. Returns a CERROR code. */
  #batch(limit: number): number {
    const file = this.#file;
    const memory = this.#memory;
    const words = memory.words;
    const { handlers, illegalBits } = this.#table;
    const target = this.#target;
    const log2 = this.#log2;
    // The base is aligned to the queue's size (6.3.26).
    const lo = file.get(BASE) & REG.CMDQ_BASE.ADDR.loMask & ~((16 << log2) - 1);
    const hi = file.high(BASE) & REG.CMDQ_BASE.ADDR.hiMask;
    const indexMask = (1 << log2) - 1;
    const wrapMask = (2 << log2) - 1;
    const prod = file.get(PROD) & wrapMask;
    let cons = file.get(CONS) & wrapMask;
    let left = limit;
    let syncs = 0;
    let error: number = CERROR.NONE;
    let page = -1;
    let pageLo = -1;
    let signal = -1;
    // What is full now was full to anyone who looked (4.1.2).
    const full = ((prod ^ cons) & wrapMask) === 1 << log2;
    while (cons !== prod && left > 0) {
      const address = lo | ((cons & indexMask) << 4);
      if ((address & ~0xfff) !== pageLo) {
        pageLo = address & ~0xfff;
        page = memory.pageOf(address, hi);
        if (page < 0 || (memory.perm[page]! & 1) === 0) {
          error = CERROR.ABT;
          break;
        }
      }
      const at = (page << 10) | ((address & 0xfff) >>> 2);
      const word0 = words[at]!;
      const opcode = word0 & 0xff;
      const handler = handlers[opcode];
      if (handler === undefined || (word0 & illegalBits[opcode]!) !== 0) {
        error = CERROR.ILL;
        break;
      }
      const result = handler(target, words, at);
      if (result > CERROR.NONE) {
        error = result;
        break;
      }
      left--;
      cons = (cons + 1) & wrapMask;
      if (opcode === SYNC) syncs++;
      if (result < CERROR.NONE) {
        if (result === CONSUMED.signals) signal = at;
        break;
      }
    }
    // Whoever sees the signal of a SYNC sees the SYNC consumed (4.7.3).
    file.set(CONS, cons);
    this.#consumed = limit - left;
    this.#counts[this.#syncsId]! += syncs;
    if (signal >= 0) signalCompletion(target, words, signal);
    if (full && left < limit && target.features.sev) target.sendEvent();
    return error;
  }
}
