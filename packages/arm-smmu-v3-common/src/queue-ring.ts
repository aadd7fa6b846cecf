import type { Cpu, Memory, RegisterWindow } from "@smmuv3/platform";
import {
  CERROR,
  CMD,
  CMD_BYTES,
  CMD_WORDS,
  extract,
  place,
  REG,
  setAddress,
  setField,
  SHAREABILITY,
  SYNC_CS,
} from "@smmuv3/smmu-v3-defs";
import { sync as makeSync } from "./commands.ts";

/** How the completion of a SYNC is awaited. `msi`: the SMMU overwrites the SYNC in the queue with zero. */
export type SyncMethod = "sev" | "none" | "msi";

/** What every command queue is made of. */
export interface RingOptions {
  readonly cpu: Cpu;
  /** Registers of the device; offsets of CMDQ_PROD and CMDQ_CONS are the architecture's unless given. */
  readonly window: RegisterWindow;
  readonly prodOffset?: number;
  readonly consOffset?: number;
  /** Address of the ring, 4K aligned, and log2 of its entries (1 to 19). */
  readonly pa: number;
  readonly log2: number;
  readonly syncMethod?: SyncMethod;
  /** ns until a queue that stays full, or a SYNC that does not complete, is given up. Default 1 s. */
  readonly timeout?: number;
  /** Called at every step of waiting, before {@link Cpu.relax}: where no interrupt reports errors. */
  onWait?(): void;
}

/** What inserts commands: a command queue, or what stands for one. */
export interface CommandSink {
  /**
   * Inserts `count` commands from `words` (4 words each), followed by a SYNC when `sync`, and then waits for that SYNC.
   * @returns 0 or a negative errno
   */
  issue(words: Int32Array, count: number, sync: boolean): number;
  /** Whether it takes commands of this opcode; without it all. */
  supports?(opcode: number): boolean;
}

/** A command queue, whoever its producers are. */
export interface CommandRing extends CommandSink {
  readonly pa: number;
  readonly log2: number;
  /** Bytes of the ring. */
  readonly bytes: number;
  /** Value for CMDQ_PROD: what has been inserted. */
  readonly prod: number;
  /** The command that {@link skipError} found. */
  readonly errorCommand: Int32Array;
  /** Empties it: the SMMU's pointers were set to zero. */
  reset(): void;
  /** Handles CMDQ_CONS.ERR; returns it, of CERROR. */
  skipError(): number;
}

const SECOND = 1_000_000_000;
/** Default of {@link RingOptions.timeout}. */
export const DEFAULT_TIMEOUT: number = SECOND;
/** 16-byte commands of a 4K page, as a shift. */
export const PAGE_SLOT_SHIFT = 8;
/** From this many commands on, a view and one copy of it cost less than a loop over their words. */
export const COPY_COMMANDS = 16;
/** MSI attributes of a SYNC to normal memory: inner and outer write-back. */
const MSI_ATTR_WB = 0xf;
const CS: Readonly<Record<SyncMethod, number>> = { none: SYNC_CS.none, sev: SYNC_CS.sev, msi: SYNC_CS.irq };

/** x_BASE of a queue at `pa` with 2^`log2` entries; bit 62 is the allocation hint (RA, WA). `value`: 2 words. */
export function queueBase(value: Int32Array, pa: number, log2: number): void {
  value.fill(0);
  setAddress(value, 0, REG.CMDQ_BASE.ADDR, pa);
  setField(value, 0, REG.CMDQ_BASE.LOG2SIZE, log2);
  setField(value, 0, REG.CMDQ_BASE.RA, 1);
}

/** The SYNC that signals by `method`; MSIAddress is left out. `out`: 4 words. */
export function makeQueueSync(out: Int32Array, method: SyncMethod): void {
  makeSync(out, 0, CS[method]);
  if (method === "msi") out[0] = out[0]! | place(CMD.MSH, SHAREABILITY.inner) | place(CMD.MSIAttr, MSI_ATTR_WB);
}

/** Index of the ring's first page. Throws RangeError for what cannot be a ring in `memory`. */
export function ringPage(name: string, memory: Memory, pa: number, log2: number): number {
  if (!Number.isInteger(log2) || log2 < 1 || log2 > 19) {
    throw new RangeError(`${name}: log2 must be an integer from 1 to 19, got ${log2}`);
  }
  const page = memory.pageIndex(pa);
  if (pa % 4096 !== 0 || page < 0 || memory.pageIndex(pa + (CMD_BYTES << log2) - 1) < 0) {
    throw new RangeError(`${name}: pa must be 4K aligned with all of its ring in RAM, got 0x${pa.toString(16)}`);
  }
  return page;
}

/**
 * Handles the error in `cons`, a value of CMDQ_CONS, IHI 0070 7.1 and 4.1.2: a command that the SMMU rejects is copied to
 * `found` and replaced by a SYNC, so that the queue goes on when the error is acknowledged; after the others the SMMU repeats
 * by itself.
 * @param polled the ring's SYNCs have CS = none, and so has the replacement
 * @returns the error, of CERROR
 */
export function skipRejected(memory: Memory, pa: number, log2: number, cons: number, polled: boolean, found: Int32Array): number {
  const error = extract(cons, REG.CMDQ_CONS.ERR);
  if (error === CERROR.NONE || error === CERROR.ABT || error === CERROR.ATC_INV_SYNC) return error;
  const slot = pa + (cons & ((1 << log2) - 1)) * CMD_BYTES;
  memory.read(slot, found);
  const replacement = new Int32Array(CMD_WORDS);
  makeSync(replacement, 0, polled ? SYNC_CS.none : SYNC_CS.sev);
  memory.write(slot, replacement);
  return error;
}
