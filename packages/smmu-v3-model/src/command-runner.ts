import { LEVEL } from "@smmuv3/platform";
import type { Counters, Memory } from "@smmuv3/platform";
import { CERROR, CMD_WORDS, COMMANDS } from "@smmuv3/smmu-v3-defs";
import { CONSUMED } from "./command-target.ts";
import type { CommandTarget } from "./command-target.ts";
import { signalCompletion } from "./commands.ts";
import type { CommandTable } from "./commands.ts";

/** Looks at the four words of a command before it runs, and may change them. False makes it illegal. */
export type CommandFilter = (words: Int32Array) => boolean;

const everything: CommandFilter = () => true;

/** Executes commands for a queue beside the Command queue, one at a time: an ECMDQ or a virtual command queue. */
export class CommandRunner {
  readonly #memory: Memory;
  readonly #table: CommandTable;
  readonly #target: CommandTarget;
  readonly #counts: Float64Array;
  readonly #commandsId: number;
  readonly #syncsId: number;
  readonly #words = new Int32Array(CMD_WORDS);
  #signals = false;

  constructor(memory: Memory, table: CommandTable, target: CommandTarget, counters: Counters) {
    this.#memory = memory;
    this.#table = table;
    this.#target = target;
    this.#counts = counters.values;
    this.#commandsId = counters.id("commands") + LEVEL.device;
    this.#syncsId = counters.id("syncs") + LEVEL.device;
  }

  /** Service Failure Mode: queues are left alone (12.3). */
  get halted(): boolean {
    return this.#target.interrupts.serviceFailure;
  }

  /** An invalidation had no answer, which the next CMD_SYNC reports; for saving. */
  get timedOut(): boolean {
    return this.#target.ats?.timedOut === true;
  }

  set timedOut(timedOut: boolean) {
    if (this.#target.ats !== undefined) this.#target.ats.timedOut = timedOut;
  }

  /**
   * Executes the command at the physical address. The caller then moves its index and calls {@link signal}.
   * @returns a CERROR code; other than NONE, the command is not consumed
   */
  execute(lo: number, hi: number, filter: CommandFilter = everything): number {
    const memory = this.#memory;
    const words = this.#words;
    this.#signals = false;
    const page = memory.pageOf(lo, hi);
    if (page < 0 || (memory.perm[page]! & 1) === 0) return CERROR.ABT;
    const at = (page << 10) | ((lo & 0xfff) >>> 2);
    for (let i = 0; i < CMD_WORDS; i++) words[i] = memory.words[at + i]!;
    const opcode = words[0]! & 0xff;
    const handler = this.#table.handlers[opcode];
    if (handler === undefined || (words[0]! & this.#table.illegalBits[opcode]!) !== 0) return CERROR.ILL;
    if (!filter(words)) return CERROR.ILL;
    const result = handler(this.#target, words, 0);
    if (result > CERROR.NONE) return result;
    this.#counts[this.#commandsId]!++;
    if (opcode === COMMANDS.SYNC.opcode) this.#counts[this.#syncsId]!++;
    this.#signals = result === CONSUMED.signals;
    return CERROR.NONE;
  }

  /** Signals the completion of the CMD_SYNC that was executed last, if it was one that asks for it (4.7.3). */
  signal(): void {
    if (!this.#signals) return;
    this.#signals = false;
    signalCompletion(this.#target, this.#words, 0);
  }
}

/** Command queues beside the Command queue, as the SMMU sees them. */
export interface CommandQueues {
  /** Puts requested enables into effect and consumes up to `limit` commands. Returns how many were consumed. */
  advance(limit: number): number;
  /** The SMMU is reset. */
  reset(): void;
}

/** What command queues get of the SMMU that they belong to. */
export interface CommandPort {
  readonly memory: Memory;
  /** log2 of the largest queue: IDR1.CMDQS. */
  readonly maxLog2: number;
  /** Progress is `immediate`: they work at the register write, and are not called otherwise. */
  readonly immediate: boolean;
  /** For one queue: its CMD_SYNC waits for the commands that it executed. */
  newRunner(): CommandRunner;
}
