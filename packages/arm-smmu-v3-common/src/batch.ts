import { CMD, CMD_WORDS, COMMANDS, getField } from "@smmuv3/smmu-v3-defs";
import { BATCH_COMMANDS } from "./queue.ts";
import type { CommandSink } from "./queue-ring.ts";

/** Chooses the queue of a list by the opcode of its first command. */
export type SelectQueue = (opcode: number) => CommandSink;

/** Ways in which an SMMU's command queues deviate. */
export interface BatchErrata {
  /** A SYNC has to follow 63 commands at most. */
  readonly forceSync?: boolean;
  /** Synchronised lists of CFGI and TLBI commands have to be sent twice: see {@link repeatingSink}. */
  readonly repeat?: boolean;
}

/** CFGI and TLBI commands. */
function isInvalidation(opcode: number): boolean {
  return opcode >= COMMANDS.CFGI_STE.opcode && opcode < COMMANDS.ATC_INV.opcode;
}

/** As {@link CommandSink.issue}, and again where the erratum wants it. */
function issueTwice(sink: CommandSink, words: Int32Array, count: number, sync: boolean): number {
  if (!sync || count === 0 || !isInvalidation(getField(words, 0, CMD.Opcode))) return sink.issue(words, count, sync);
  // Whoever is served while the first list is waited for may fill the words again.
  const again = words.slice(0, count * CMD_WORDS);
  const status = sink.issue(words, count, sync);
  return status < 0 ? status : sink.issue(again, count, sync);
}

/** A queue that sends each synchronised list of CFGI or TLBI commands, by its first command, a second time. */
export function repeatingSink(sink: CommandSink): CommandSink {
  return {
    issue: (words, count, sync) => issueTwice(sink, words, count, sync),
    supports: (opcode) => sink.supports?.(opcode) ?? true,
  };
}

/** Opcodes that a Tegra241 VCMDQ takes in an interface which is not the hypervisor's own, as a guest's are. */
export const VCMDQ_GUEST_OPCODES: ReadonlySet<number> = /* @__PURE__ */ new Set([
  COMMANDS.TLBI_NH_ASID.opcode,
  COMMANDS.TLBI_NH_VA.opcode,
  COMMANDS.ATC_INV.opcode,
]);

/** The main queue, and a secondary queue in front of it where there is one and it takes the opcode. */
export function preferSecondary(main: CommandSink, secondary: () => CommandSink | undefined): SelectQueue {
  return (opcode) => {
    const other = secondary();
    return other !== undefined && (other.supports?.(opcode) ?? true) ? other : main;
  };
}

/**
 * Collects commands for the queue that takes the first of them, and inserts them {@link BATCH_COMMANDS} at a time:
 * `cfgiSte(batch.words, batch.next(), sid, true)`, then `batch.submit()`. A command that this queue does not take begins a
 * new list, behind a SYNC.
 */
export class SelectingBatch {
  readonly words: Int32Array = new Int32Array(BATCH_COMMANDS * CMD_WORDS);
  readonly #select: SelectQueue;
  readonly #errata: BatchErrata;
  readonly #limit: number;
  /** Queue of the commands in {@link words}, known when the first of them is. */
  #sink: CommandSink | undefined = undefined;
  /** Commands in {@link words}, and those of them that are known to be for {@link #sink}. */
  #count = 0;
  #settled = 0;
  #status = 0;

  constructor(select: SelectQueue, errata: BatchErrata = {}) {
    this.#select = select;
    this.#errata = errata;
    this.#limit = errata.forceSync === true ? BATCH_COMMANDS - 1 : BATCH_COMMANDS;
  }

  /** Commands that wait. */
  get count(): number {
    return this.#count;
  }

  /** Index into {@link words} of the next command, which counts from now on; a full batch is inserted first. */
  next(): number {
    this.#settle();
    if (this.#count === this.#limit) {
      const { forceSync, repeat } = this.#errata;
      this.#flush(this.#count, forceSync === true || (repeat === true && isInvalidation(this.#opcode(0))));
    }
    return this.#count++ * CMD_WORDS;
  }

  /** Inserts what waits, with a SYNC, even when that is nothing. Returns the first error since the last submit, or 0. */
  submit(): number {
    this.#settle();
    this.#flush(this.#count, true);
    const status = this.#status;
    this.#status = 0;
    return status;
  }

  #opcode(index: number): number {
    return getField(this.words, index * CMD_WORDS, CMD.Opcode);
  }

  /** The last command is written now: if it is for another queue, the others go first. */
  #settle(): void {
    if (this.#settled === this.#count) return;
    const last = this.#count - 1;
    const opcode = this.#opcode(last);
    if (this.#sink !== undefined && this.#sink.supports?.(opcode) === false) {
      const command = this.words.slice(last * CMD_WORDS, this.#count * CMD_WORDS);
      this.#flush(last, true);
      this.words.set(command);
      this.#count = 1;
    }
    this.#sink ??= this.#select(opcode);
    this.#settled = this.#count;
  }

  #flush(count: number, sync: boolean): void {
    // A bare SYNC is for the queue that would take one.
    const sink = this.#sink ?? this.#select(COMMANDS.SYNC.opcode);
    // Empty before it is waited for: interrupt handlers that run meanwhile may use it.
    this.#sink = undefined;
    this.#settled = 0;
    this.#count = 0;
    const { words } = this;
    const status = this.#errata.repeat === true ? issueTwice(sink, words, count, sync) : sink.issue(words, count, sync);
    if (status < 0 && this.#status === 0) this.#status = status;
  }
}
