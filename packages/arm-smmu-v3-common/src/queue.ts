import { ERRNO, PERM_WRITE } from "@smmuv3/platform";
import type { Cpu, Memory, RegisterWindow } from "@smmuv3/platform";
import { CMD, CMD_BYTES, CMD_WORDS, COMMANDS, OFFSET, setAddress } from "@smmuv3/smmu-v3-defs";
import { COPY_COMMANDS, DEFAULT_TIMEOUT, makeQueueSync, PAGE_SLOT_SHIFT, ringPage, skipRejected } from "./queue-ring.ts";
import type { CommandRing, CommandSink, RingOptions } from "./queue-ring.ts";

export type CommandQueueOptions = RingOptions;

/** Commands that are inserted together at most. */
export const BATCH_COMMANDS = 64;

/**
 * The producer of a command queue that one agent fills: interrupts are taken only while it waits, so insertion is atomic;
 * handlers may insert while another insertion waits.
 *
 * Positions count modulo 2^32, wider than the registers (index and wrap bit), so that comparing two of them needs no lap.
 */
export class CommandQueue implements CommandRing {
  readonly pa: number;
  readonly log2: number;
  /** Bytes of the ring. */
  readonly bytes: number;
  /** The command that {@link skipError} found. */
  readonly errorCommand: Int32Array = new Int32Array(CMD_WORDS);
  readonly #cpu: Cpu;
  readonly #memory: Memory;
  readonly #window: RegisterWindow;
  readonly #prodOffset: number;
  readonly #consOffset: number;
  readonly #size: number;
  /** Masks a position to what the registers hold. */
  readonly #pointerMask: number;
  readonly #slotMask: number;
  /** First word and page of the ring in {@link Memory}. */
  readonly #word: number;
  readonly #page: number;
  readonly #msi: boolean;
  readonly #timeout: number;
  readonly #options: CommandQueueOptions;
  readonly #sync: Int32Array = new Int32Array(CMD_WORDS);
  /** Next free position; position up to which the SMMU is known to have consumed. */
  #prod = 0;
  #cons = 0;

  constructor(options: CommandQueueOptions) {
    const { cpu, pa, log2 } = options;
    this.#page = ringPage("CommandQueue", cpu.memory, pa, log2);
    this.pa = pa;
    this.log2 = log2;
    this.bytes = CMD_BYTES << log2;
    this.#cpu = cpu;
    this.#memory = cpu.memory;
    this.#window = options.window;
    this.#prodOffset = options.prodOffset ?? OFFSET.CMDQ_PROD;
    this.#consOffset = options.consOffset ?? OFFSET.CMDQ_CONS;
    this.#size = 1 << log2;
    this.#pointerMask = (2 << log2) - 1;
    this.#slotMask = (1 << log2) - 1;
    this.#word = (pa - cpu.memory.base) / 4;
    const method = options.syncMethod ?? "sev";
    this.#msi = method === "msi";
    this.#timeout = options.timeout ?? DEFAULT_TIMEOUT;
    this.#options = options;
    makeQueueSync(this.#sync, method);
  }

  /** Value for CMDQ_PROD: what has been inserted. */
  get prod(): number {
    return this.#prod & this.#pointerMask;
  }

  /** Empties it: the SMMU's pointers were set to zero. */
  reset(): void {
    this.#prod = 0;
    this.#cons = 0;
  }

  /**
   * Inserts `count` commands from `words` (4 words each), followed by a SYNC when `sync`, and then waits for that SYNC.
   * @returns 0; -ETIMEDOUT when the queue stays full (nothing is inserted) or the SYNC does not complete; -EINVAL when
   * they can never fit
   */
  issue(words: Int32Array, count: number, sync: boolean): number {
    const need = sync ? count + 1 : count;
    if (this.#size - ((this.#prod - this.#cons) | 0) < need) {
      if (need > this.#size) return -ERRNO.EINVAL;
      const status = this.#waitForSpace(need);
      if (status < 0) return status;
    }
    const start = this.#prod;
    // Two runs where the ring wraps.
    const first = Math.min(count, this.#size - (start & this.#slotMask));
    this.#put(start, words, 0, first);
    if (first < count) this.#put(start + first, words, first, count - first);
    if (sync) this.#putSync(start + count);
    const end = (start + need) | 0;
    this.#prod = end;
    this.#cpu.barrier();
    this.#window.write32(this.#prodOffset, end & this.#pointerMask);
    return sync ? this.#waitForSync(end) : 0;
  }

  /**
   * Handles CMDQ_CONS.ERR, IHI 0070 7.1 and 4.1.2: a command that the SMMU rejects is replaced by a SYNC, so that the queue
   * goes on when the caller acknowledges the error in GERRORN; after the others the SMMU repeats by itself.
   * @returns the error, of CERROR; `errorCommand` holds the command that was replaced
   */
  skipError(): number {
    const cons = this.#window.read32(this.#consOffset);
    const polled = this.#sync[0] === COMMANDS.SYNC.opcode;
    return skipRejected(this.#memory, this.pa, this.log2, cons, polled, this.errorCommand);
  }

  /** Index into the memory's words of `position`'s slot, after the permission check of its page. */
  #slot(position: number): number {
    const slot = position & this.#slotMask;
    if ((this.#memory.perm[this.#page + (slot >> PAGE_SLOT_SHIFT)]! & PERM_WRITE) === 0) {
      this.#memory.index(this.pa + slot * CMD_BYTES, true);
    }
    return this.#word + slot * CMD_WORDS;
  }

  /** Stores `count` commands, from command `from` of `words` on, at consecutive slots that do not wrap. */
  #put(position: number, words: Int32Array, from: number, count: number): void {
    let at = this.#slot(position);
    for (let page = 1 << PAGE_SLOT_SHIFT; page < count; page += 1 << PAGE_SLOT_SHIFT) this.#slot(position + page);
    if (count > 1) this.#slot(position + count - 1);
    const ring = this.#memory.words;
    const end = (from + count) * CMD_WORDS;
    if (count >= COPY_COMMANDS) ring.set(words.subarray(from * CMD_WORDS, end), at);
    else for (let i = from * CMD_WORDS; i < end; i++) ring[at++] = words[i]!;
  }

  #putSync(position: number): void {
    const words = this.#sync;
    if (this.#msi) setAddress(words, 0, CMD.MSIAddr, this.pa + (position & this.#slotMask) * CMD_BYTES);
    const at = this.#slot(position);
    const ring = this.#memory.words;
    ring[at] = words[0]!;
    ring[at + 1] = words[1]!;
    ring[at + 2] = words[2]!;
    ring[at + 3] = words[3]!;
  }

  /** Reads CMDQ_CONS. A value that is not between what was consumed and what was inserted is not believed. */
  #readCons(): void {
    const cons = this.#window.read32(this.#consOffset);
    const step = (cons - this.#cons) & this.#pointerMask;
    if (step <= ((this.#prod - this.#cons) | 0)) this.#cons = (this.#cons + step) | 0;
  }

  #waitForSpace(need: number): number {
    this.#readCons();
    if (this.#size - ((this.#prod - this.#cons) | 0) >= need) return 0;
    const deadline = this.#cpu.now() + this.#timeout;
    for (;;) {
      this.#relax();
      this.#readCons();
      if (this.#size - ((this.#prod - this.#cons) | 0) >= need) return 0;
      if (this.#cpu.now() >= deadline) return -ERRNO.ETIMEDOUT;
    }
  }

  /** Waits until the SYNC before position `end` is complete. */
  #waitForSync(end: number): number {
    if (this.#completed(end)) return 0;
    const deadline = this.#cpu.now() + this.#timeout;
    for (;;) {
      this.#relax();
      if (this.#completed(end)) return 0;
      if (this.#cpu.now() >= deadline) return -ERRNO.ETIMEDOUT;
    }
  }

  #completed(end: number): boolean {
    if (((this.#cons - end) | 0) >= 0) return true;
    if (!this.#msi) {
      this.#readCons();
      return ((this.#cons - end) | 0) >= 0;
    }
    if (this.#memory.words[this.#slot(end - 1)] !== 0) return false;
    this.#cons = end;
    return true;
  }

  #relax(): void {
    this.#options.onWait?.();
    this.#cpu.relax();
  }
}

/**
 * Collects commands and inserts them {@link BATCH_COMMANDS} at a time:
 * `cfgiSte(batch.words, batch.next(), sid, true)`, then `batch.submit()`.
 */
export class CommandBatch {
  readonly words: Int32Array = new Int32Array(BATCH_COMMANDS * CMD_WORDS);
  readonly #sink: CommandSink;
  readonly #limit: number;
  readonly #syncEach: boolean;
  #count = 0;
  #status = 0;

  /** `forceSync`: the erratum that wants a SYNC after 63 commands. */
  constructor(sink: CommandSink, forceSync: boolean = false) {
    this.#sink = sink;
    this.#syncEach = forceSync;
    this.#limit = forceSync ? BATCH_COMMANDS - 1 : BATCH_COMMANDS;
  }

  /** Commands that wait. */
  get count(): number {
    return this.#count;
  }

  /** Index into {@link words} of the next command, which counts from now on; a full batch is inserted first. */
  next(): number {
    if (this.#count === this.#limit) this.#flush(this.#syncEach);
    return this.#count++ * CMD_WORDS;
  }

  /** Inserts what waits, with a SYNC, even when that is nothing. Returns the first error since the last submit, or 0. */
  submit(): number {
    this.#flush(true);
    const status = this.#status;
    this.#status = 0;
    return status;
  }

  #flush(sync: boolean): void {
    const count = this.#count;
    this.#count = 0;
    const status = this.#sink.issue(this.words, count, sync);
    if (status < 0 && this.#status === 0) this.#status = status;
  }
}
