import { PAGE_SIZE, PERM_READ, PERM_RW, PERM_WRITE, lo32 } from "@smmuv3/platform";
import type { IoPgtableConfig, TableRam } from "./config.ts";

/** Where the tables of one address space live: allocation, permission, visibility to the walker. A slot is a word index. */
export class TableMemory {
  /** Bytes of all tables. */
  bytes: number = 0;
  declare readonly words: Int32Array;
  declare readonly perm: Uint8Array;
  declare readonly basePage: number;
  /** Low word of the first RAM address. */
  declare readonly baseLo: number;
  declare readonly coherent: boolean;
  declare private readonly memory: TableRam;
  declare private readonly cfg: IoPgtableConfig;

  constructor(cfg: IoPgtableConfig) {
    const { memory } = cfg;
    this.words = memory.words;
    this.perm = memory.perm;
    this.basePage = memory.basePage;
    this.baseLo = lo32(memory.base);
    this.coherent = cfg.coherentWalk;
    this.memory = memory;
    this.cfg = cfg;
  }

  paOf(slot: number): number {
    return this.memory.base + slot * 4;
  }

  slotOf(pa: number): number {
    return ((pa - this.memory.base) * 0.25) | 0;
  }

  /** Asks for permission (`PERM_*`) on every 4K page that `n` descriptors from `slot` on touch. Aborts as the view does. */
  touch(slot: number, n: number, need: number): void {
    const perm = this.perm;
    const last = (slot + (n << 1) - 1) >> 10;
    for (let page = slot >> 10; page <= last; page++) {
      if ((perm[page]! & need) !== need) this.#ask(page, need);
    }
  }

  /** A table of `bytes`, zeroed unless its user writes all of it, or a negative number. Throws RangeError when the allocator's address is not aligned to its size. */
  allocate(bytes: number, zeroed: boolean = true): number {
    const pa = this.cfg.alloc(bytes);
    if (pa < 0) return -1;
    if ((lo32(pa) & (bytes - 1)) !== 0) {
      throw new RangeError(`alloc: address must be aligned to ${bytes}, got 0x${pa.toString(16)}`);
    }
    const slot = this.slotOf(pa);
    this.touch(slot, bytes >> 3, PERM_WRITE);
    if (zeroed) this.words.fill(0, slot, slot + (bytes >> 2));
    this.bytes += bytes;
    if (!this.coherent) this.cfg.syncPte?.(pa, bytes);
    return pa;
  }

  release(slot: number, bytes: number): void {
    this.bytes -= bytes;
    this.cfg.free(this.paOf(slot), bytes);
  }

  /** Makes `n` descriptors visible to a walker that does not snoop. */
  sync(slot: number, n: number): void {
    if (!this.coherent) this.cfg.syncPte?.(this.paOf(slot), n * 8);
  }

  #ask(page: number, need: number): void {
    const pa = this.memory.base + page * PAGE_SIZE;
    if ((need & PERM_READ) !== 0) this.memory.index(pa, false);
    if ((need & PERM_RW) !== PERM_READ) this.memory.index(pa, true);
  }
}
