import { LEVEL } from "@smmuv3/platform";
import type { Counters, Memory } from "@smmuv3/platform";
import { CERROR, CMD_WORDS, COMMANDS, maskOf, OFFSET, place, REG } from "@smmuv3/smmu-v3-defs";
import { CONSUMED } from "./command-target.ts";
import type { CommandTarget } from "./command-target.ts";
import { signalCompletion } from "./commands.ts";
import type { CommandTable } from "./commands.ts";
import { GERROR_BIT } from "./irq.ts";
import type { Features } from "./presets.ts";
import { QuickCommands } from "./quick-commands.ts";
import type { RegisterFile } from "./registers.ts";

const CMDQEN = maskOf(REG.CR0ACK.CMDQEN);
const SYNC = COMMANDS.SYNC.opcode;
const BASE = OFFSET.CMDQ_BASE;
const PROD = OFFSET.CMDQ_PROD;
const CONS = OFFSET.CMDQ_CONS;
const CR0ACK = OFFSET.CR0ACK;
const LOG2SIZE = maskOf(REG.CMDQ_BASE.LOG2SIZE);
const ADDRESS_LO = REG.CMDQ_BASE.ADDR.loMask;
const ADDRESS_HI = REG.CMDQ_BASE.ADDR.hiMask;
/** Commands of a 4K page. */
const PAGE_COMMANDS = 256;
const ERR = maskOf(REG.CMDQ_CONS.ERR);

/** The Command queue, IHI 0070 4.1: fetches, checks legality, executes, reports errors. */
export class CommandQueue {
  readonly #file: RegisterFile;
  readonly #memory: Memory;
  readonly #table: CommandTable;
  readonly #target: CommandTarget;
  readonly #quick: QuickCommands;
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
    this.#quick = new QuickCommands(table, target);
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
    const quick = this.#quick;
    const log2 = this.#log2;
    // The base is aligned to the queue's size (6.3.26).
    const lo = file.get(BASE) & ADDRESS_LO & ~((16 << log2) - 1);
    const hi = file.high(BASE) & ADDRESS_HI;
    const indexMask = (1 << log2) - 1;
    const wrapMask = (2 << log2) - 1;
    let cons = file.get(CONS) & wrapMask;
    const pending = (file.get(PROD) - cons) & wrapMask;
    const granted = Math.min(limit, pending);
    let left = granted;
    let syncs = 0;
    let error: number = CERROR.NONE;
    let signal = -1;
    while (left > 0) {
      const index = cons & indexMask;
      const address = lo | (index << 4);
      const page = memory.pageOf(address, hi);
      if (page < 0 || (memory.perm[page]! & 1) === 0) {
        error = CERROR.ABT;
        break;
      }
      let at = (page << 10) | ((address & 0xfff) >>> 2);
      // Those that follow without a gap: the queue wraps, and its next page may be somewhere else.
      const count = Math.min(indexMask + 1 - index, PAGE_COMMANDS - (index & (PAGE_COMMANDS - 1)), left);
      const begin = at;
      const end = at + count * CMD_WORDS;
      let result: number = CERROR.NONE;
      while (at < end && result === CERROR.NONE) {
        if (quick.has(words[at]! & 0xff)) {
          at = quick.run(words, at, end);
          syncs += quick.syncs;
          if (at === end) break;
        }
        const word0 = words[at]!;
        const opcode = word0 & 0xff;
        const handler = handlers[opcode];
        result = handler === undefined || (word0 & illegalBits[opcode]!) !== 0 ? CERROR.ILL : handler(target, words, at);
        if (result > CERROR.NONE) break;
        if (opcode === SYNC) syncs++;
        if (result === CONSUMED.signals) signal = at;
        at += CMD_WORDS;
      }
      const ran = (at - begin) / CMD_WORDS;
      left -= ran;
      cons = (cons + ran) & wrapMask;
      if (result === CERROR.NONE) continue;
      error = Math.max(result, CERROR.NONE);
      break;
    }
    // Whoever sees the signal of a SYNC sees the SYNC consumed (4.7.3).
    file.set(CONS, cons);
    this.#consumed = granted - left;
    this.#counts[this.#syncsId]! += syncs;
    if (signal >= 0) signalCompletion(target, words, signal);
    // What was full before was full to anyone who looked (4.1.2).
    if (pending === 1 << log2 && left < granted && target.features.sev) target.sendEvent();
    return error;
  }
}
