import { ABORT_ACTION } from "@smmuv3/platform";
import type { AbortAction, Memory, RegisterWindow, Stage2Regime } from "@smmuv3/platform";
import { Machine } from "../src/index.ts";
import type { MachineOptions } from "../src/index.ts";

export const RAM = 0x8000_0000;
export const RAM_SIZE = 0x80_0000;
export const DEVICE = 0x900_0000;
export const TABLES = 0x8070_0000;

/** S2AP of a leaf. */
export const NONE = 0;
export const RO = 1;
export const WO = 2;
export const RW = 3;

const MEM_ATTR_WB = 0xf << 2;
const INNER_SHAREABLE = 3 << 8;
const AF = 1 << 10;
const TABLE = 3;

/** VTCR_EL2 for the 4K granule and 48-bit output: T0SZ | SL0 << 6 | PS << 16. */
export const VTCR: Readonly<Record<"level0" | "level1", number>> = {
  level0: 16 | (2 << 6) | (5 << 16),
  level1: 25 | (1 << 6) | (5 << 16),
};

/** Stage-2 tables written by hand: 4K granule. */
export class Tables {
  readonly root: number;
  readonly #memory: Memory;
  readonly #start: 0 | 1;
  #next: number;

  constructor(memory: Memory, at: number = TABLES, start: 0 | 1 = 1) {
    this.#memory = memory;
    this.#start = start;
    this.root = at;
    this.#next = at + 4096;
  }

  get regime(): Stage2Regime {
    return { ttb: this.root, vtcr: this.#start === 1 ? VTCR.level1 : VTCR.level0, vmid: 1 };
  }

  /** Writes the leaf of `ipa` at `level` 1..3; `rights` NONE makes it invalid. */
  map(ipa: number, rights: number, level: 1 | 2 | 3 = 3, pa: number = ipa): void {
    let table = this.root;
    for (let at: number = this.#start; at < level; at++) table = this.#table(this.#slot(table, ipa, at));
    const leaf = MEM_ATTR_WB | INNER_SHAREABLE | AF | (rights << 6) | (level === 3 ? 3 : 1);
    this.#memory.store32(this.#slot(table, ipa, level) + 4, Math.floor(pa / 2 ** 32));
    this.#memory.store32(this.#slot(table, ipa, level), rights === NONE ? 0 : (pa | leaf) | 0);
  }

  /** Maps `count` pages. */
  mapPages(ipa: number, count: number, rights: number): void {
    for (let i = 0; i < count; i++) this.map(ipa + i * 4096, rights);
  }

  #slot(table: number, ipa: number, level: number): number {
    return table + (Math.floor(ipa / 2 ** (39 - 9 * level)) % 512) * 8;
  }

  #table(slot: number): number {
    const entry = this.#memory.load32(slot);
    if ((entry & 3) === TABLE) return (entry & ~0xfff) >>> 0;
    const table = this.#next;
    this.#next += 4096;
    this.#memory.fill(table, 4096, 0);
    this.#memory.store32(slot + 4, 0);
    this.#memory.store32(slot, (table | TABLE) | 0);
    return table;
  }
}

/** A device that stores what is written and records each access. */
export class Scratch implements RegisterWindow {
  readonly log: string[] = [];
  readonly values: Map<number, number> = new Map<number, number>();
  hi = 0;

  read32(offset: number): number {
    this.log.push(`r32 ${offset.toString(16)}`);
    return this.values.get(offset) ?? 0;
  }

  write32(offset: number, value: number): void {
    this.log.push(`w32 ${offset.toString(16)}=${value.toString(16)}`);
    this.values.set(offset, value);
  }

  read64(offset: number): number {
    this.log.push(`r64 ${offset.toString(16)}`);
    this.hi = this.values.get(offset + 4) ?? 0;
    return this.values.get(offset) ?? 0;
  }

  write64(offset: number, lo: number, hi: number): void {
    this.log.push(`w64 ${offset.toString(16)}=${hi.toString(16)}:${lo.toString(16)}`);
    this.values.set(offset, lo);
    this.values.set(offset + 4, hi);
  }
}

export interface Rig {
  readonly machine: Machine;
  readonly device: Scratch;
  readonly tables: Tables;
  /** Copies of the data-abort frames that EL2 saw. */
  readonly frames: number[][];
  /** What EL2 does with the next aborts. */
  onAbort: (frame: Int32Array) => AbortAction;
}

/** A machine with one two-page device and an EL2 that records its aborts; stage 2 is off. */
export function rig(options: Partial<MachineOptions> = {}): Rig {
  const machine = new Machine({ memory: { base: RAM, size: RAM_SIZE }, ...options });
  const device = new Scratch();
  machine.addDevice("scratch", DEVICE, 0x2000, device);
  const result: Rig = {
    machine,
    device,
    tables: new Tables(machine.memory),
    frames: [],
    onAbort: () => ABORT_ACTION.inject,
  };
  machine.hyp.install({
    hvc: (frame) => {
      frame[0] = 0;
    },
    dataAbort: (frame) => {
      result.frames.push([...frame]);
      return result.onAbort(frame);
    },
  });
  return result;
}

/** What `body` throws. */
export function thrown(body: () => unknown): unknown {
  try {
    body();
  } catch (error) {
    return error;
  }
  throw new Error("expected an exception");
}
