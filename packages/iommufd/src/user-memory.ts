import { PAGE_SIZE } from "@smmuv3/platform";
import type { Memory } from "@smmuv3/platform";
import { UAPI_ERRNO } from "./errno.ts";

interface Mapping {
  readonly va: number;
  readonly pa: number;
  readonly size: number;
  readonly writeable: boolean;
}

/** The memory of the process that has the file open, as far as requests point into it. */
export class UserMemory {
  /** Pages that IO page tables keep in place. */
  pinned: number = 0;
  readonly #memory: Memory;
  readonly #mappings: Mapping[] = [];

  constructor(memory: Memory) {
    this.#memory = memory;
  }

  /** Puts the pages `[pa, pa + size)` at `va`. Throws RangeError when they are not whole pages, or overlap others. */
  map(va: number, pa: number, size: number, writeable: boolean = true): void {
    if ([va, pa, size].some((value) => value % PAGE_SIZE !== 0)) {
      throw new RangeError(`UserMemory: expected whole pages, got ${size} bytes of ${pa} at ${va}`);
    }
    if (this.#mappings.some((other) => va < other.va + other.size && other.va < va + size)) {
      throw new RangeError(`UserMemory: something is at ${va} already`);
    }
    this.#mappings.push({ va, pa, size, writeable });
  }

  /** Physical address of `va`, or -EFAULT. */
  phys(va: number, write: boolean): number {
    const found = this.#mappings.find((mapping) => va >= mapping.va && va < mapping.va + mapping.size);
    if (found === undefined || (write && !found.writeable)) return -UAPI_ERRNO.EFAULT;
    return found.pa + (va - found.va);
  }

  /**
   * Keeps the pages of `[va, va + size)`, of whole pages, where they are.
   * @returns their physical addresses, or -EFAULT with none kept
   */
  pin(va: number, size: number, write: boolean): Float64Array | number {
    const pages = new Float64Array(size / PAGE_SIZE);
    for (let i = 0; i < pages.length; i++) {
      const pa = this.phys(va + i * PAGE_SIZE, write);
      if (pa < 0) return pa;
      pages[i] = pa;
    }
    this.pinned += pages.length;
    return pages;
  }

  unpin(pages: Float64Array): void {
    this.pinned -= pages.length;
  }

  /** `length` bytes from `va`, or -EFAULT. */
  read(va: number, length: number): Uint8Array | number {
    const out = new Uint8Array(length);
    for (let i = 0; i < length; i++) {
      const pa = this.phys(va + i, false);
      if (pa < 0) return pa;
      out[i] = this.#memory.load32(pa - (pa % 4)) >>> ((pa % 4) * 8);
    }
    return out;
  }

  /** Stores `bytes` at `va`. 0 or -EFAULT. */
  write(va: number, bytes: Uint8Array): number {
    for (let i = 0; i < bytes.length; i++) {
      const pa = this.phys(va + i, true);
      if (pa < 0) return pa;
      const shift = (pa % 4) * 8;
      const word = this.#memory.load32(pa - (pa % 4)) & ~(0xff << shift);
      this.#memory.store32(pa - (pa % 4), word | (bytes[i]! << shift));
    }
    return 0;
  }
}
