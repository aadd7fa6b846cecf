import { ERRNO, PAGE_SIZE } from "@smmuv3/platform";
import type { Memory } from "@smmuv3/platform";
import { RV_PTE, RV_ROOT_BYTES, rvPpnAddress, rvPpnField } from "@smmuv3/riscv-iommu-defs";

const LEVELS = 4;
const ENTRIES = 512;
const ENTRY_BYTES = 8;
/** Sv48x4: two more bits at the top. */
export const SV48X4_BITS = 50;
/** Bytes of leaves at levels 0 to 2. */
export const LEAF_SIZES: readonly number[] = [PAGE_SIZE, 0x20_0000, 0x4000_0000];
const LEAF_RIGHTS: number = RV_PTE.r | RV_PTE.w | RV_PTE.x;

export interface SvTableOptions {
  readonly memory: Memory;
  /** Zeroed memory, naturally aligned, or -ENOMEM. */
  readonly alloc: (bytes: number) => number;
  readonly free: (pa: number, bytes: number) => void;
}

/**
 * Sv48x4 second-stage tables. The caller serialises, and invalidates before it relies on an unmap. Intermediate tables live until
 * {@link free}: nothing is ever freed under a TLB.
 */
export class SvTable {
  readonly root: number;
  /** After {@link lookUp}: the leaf's output address and bytes. */
  leafPa = 0;
  leafSize = 0;
  /** Address of the entry that {@link lookUp} found. */
  #entry = 0;
  readonly #options: SvTableOptions;

  private constructor(options: SvTableOptions, root: number) {
    this.#options = options;
    this.root = root;
  }

  /** Empty tables, or -ENOMEM. */
  static create(options: SvTableOptions): SvTable | number {
    const root = options.alloc(RV_ROOT_BYTES);
    return root < 0 ? root : new SvTable(options, root);
  }

  /**
   * Maps `size` bytes, one of {@link LEAF_SIZES}, by one leaf where its place is free; `flags` of RV_PTE r, w, x. 0; -EINVAL (alignment, size, range), -EEXIST, or
   * -ENOMEM with nothing mapped.
   */
  map(address: number, pa: number, size: number, flags: number): number {
    const level = LEAF_SIZES.indexOf(size);
    if (level < 0 || address % size !== 0 || pa % size !== 0 || address >= 2 ** SV48X4_BITS) return -ERRNO.EINVAL;
    let table = this.root;
    for (let at = LEVELS - 1; at > level; at--) {
      const entry = table + this.#index(address, at) * ENTRY_BYTES;
      const next = this.#next(entry);
      if (next < 0) return next;
      table = next;
    }
    const entry = table + this.#index(address, level) * ENTRY_BYTES;
    const { memory } = this.#options;
    const old = memory.load32(entry);
    if ((old & RV_PTE.v) !== 0) {
      if ((old & LEAF_RIGHTS) !== 0) return -ERRNO.EEXIST;
      const below = rvPpnAddress(old, memory.load32(entry + 4));
      return this.#holdsLeaf(below) ? -ERRNO.EEXIST : this.#mapBelow(address, pa, level, flags);
    }
    // A and D are set from the start: hardware that does not update them would fault.
    const [lo, hi] = rvPpnField(pa);
    memory.store64(entry, lo | flags | RV_PTE.v | RV_PTE.u | RV_PTE.a | RV_PTE.d, hi);
    return 0;
  }

  /** Maps what a leaf of `level` would by smaller ones: its place has a table that is empty, and a TLB may know the table. */
  #mapBelow(address: number, pa: number, level: number, flags: number): number {
    const size = LEAF_SIZES[level - 1]!;
    let status = 0;
    for (let i = 0; i < ENTRIES && status === 0; i++) status = this.map(address + i * size, pa + i * size, size, flags);
    return status;
  }

  #holdsLeaf(table: number): boolean {
    const { memory } = this.#options;
    for (let at = table; at < table + PAGE_SIZE; at += ENTRY_BYTES) {
      const lo = memory.load32(at);
      if ((lo & RV_PTE.v) === 0) continue;
      if ((lo & LEAF_RIGHTS) !== 0 || this.#holdsLeaf(rvPpnAddress(lo, memory.load32(at + 4)))) return true;
    }
    return false;
  }

  /** Finds the leaf at `address`; false when nothing is mapped. */
  lookUp(address: number): boolean {
    if (address >= 2 ** SV48X4_BITS) return false;
    const { memory } = this.#options;
    let table = this.root;
    for (let level = LEVELS - 1; level >= 0; level--) {
      const entry = table + this.#index(address, level) * ENTRY_BYTES;
      const index = memory.index(entry, false);
      const lo = memory.words[index]!;
      if ((lo & RV_PTE.v) === 0) return false;
      const pa = rvPpnAddress(lo, memory.words[index + 1]!);
      if ((lo & LEAF_RIGHTS) !== 0) {
        this.leafPa = pa;
        this.leafSize = LEAF_SIZES[level]!;
        this.#entry = entry;
        return true;
      }
      table = pa;
    }
    return false;
  }

  /** Removes the leaf that {@link lookUp} has just found. */
  clear(): void {
    this.#options.memory.store32(this.#entry, 0);
  }

  /** Calls `visit` for each leaf, and gives all table memory back. Nothing may use the tables any more. */
  free(visit: (pa: number, size: number) => void): void {
    this.#free(this.root, LEVELS - 1, ENTRIES * 4, visit);
  }

  #index(address: number, level: number): number {
    return Math.floor(address / (PAGE_SIZE * ENTRIES ** level)) % (level === LEVELS - 1 ? ENTRIES * 4 : ENTRIES);
  }

  /** The table that `entry` leads to, made when there is none. */
  #next(entry: number): number {
    const { memory, alloc } = this.#options;
    const lo = memory.load32(entry);
    if ((lo & RV_PTE.v) !== 0) {
      return (lo & LEAF_RIGHTS) !== 0 ? -ERRNO.EEXIST : rvPpnAddress(lo, memory.load32(entry + 4));
    }
    const table = alloc(PAGE_SIZE);
    if (table < 0) return table;
    const [low, high] = rvPpnField(table);
    memory.store64(entry, low | RV_PTE.v, high);
    return table;
  }

  #free(table: number, level: number, entries: number, visit: (pa: number, size: number) => void): void {
    const { memory, free } = this.#options;
    for (let i = 0; i < entries; i++) {
      const lo = memory.load32(table + i * ENTRY_BYTES);
      if ((lo & RV_PTE.v) === 0) continue;
      const pa = rvPpnAddress(lo, memory.load32(table + i * ENTRY_BYTES + 4));
      if ((lo & LEAF_RIGHTS) !== 0) visit(pa, LEAF_SIZES[level]!);
      else this.#free(pa, level - 1, ENTRIES, visit);
    }
    free(table, entries * ENTRY_BYTES);
  }
}
