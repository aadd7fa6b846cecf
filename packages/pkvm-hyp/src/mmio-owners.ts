import { ERRNO, PAGE_SIZE, PAGE_WORDS } from "@smmuv3/platform";
import type { Memory } from "@smmuv3/platform";

/** Page frame number, number of pages. */
const RECORD_WORDS = 2;
const RECORDS = PAGE_WORDS / RECORD_WORDS;

/** Device pages that EL2 owns: records in one page of EL2's RAM. All other device space is the host's. */
export class MmioOwners {
  readonly #words: Int32Array;
  readonly #start: number;
  #count = 0;

  /** Records in the zeroed page at `pa`. */
  constructor(memory: Memory, pa: number) {
    this.#words = memory.words;
    this.#start = memory.index(pa, true);
  }

  /** True when EL2 owns a page of `[base, base + size)`. */
  overlaps(base: number, size: number): boolean {
    const first = Math.floor(base / PAGE_SIZE);
    const end = Math.ceil((base + size) / PAGE_SIZE);
    for (let i = 0; i < this.#count; i++) {
      const pfn = this.#pfn(i);
      if (pfn < end && first < pfn + this.#pages(i)) return true;
    }
    return false;
  }

  /** Records the page-aligned `[base, base + size)`; -ENOSPC when the page of records is full. */
  add(base: number, size: number): number {
    if (this.#count === RECORDS) return -ERRNO.ENOSPC;
    this.#write(this.#count++, base / PAGE_SIZE, size / PAGE_SIZE);
    return 0;
  }

  /** Removes exactly the record of `[base, base + size)`; -EPERM when there is none. */
  remove(base: number, size: number): number {
    for (let i = 0; i < this.#count; i++) {
      if (this.#pfn(i) !== base / PAGE_SIZE || this.#pages(i) !== size / PAGE_SIZE) continue;
      this.#count--;
      this.#write(i, this.#pfn(this.#count), this.#pages(this.#count));
      return 0;
    }
    return -ERRNO.EPERM;
  }

  #pfn(record: number): number {
    return this.#words[this.#start + record * RECORD_WORDS]! >>> 0;
  }

  #pages(record: number): number {
    return this.#words[this.#start + record * RECORD_WORDS + 1]! >>> 0;
  }

  #write(record: number, pfn: number, pages: number): void {
    this.#words[this.#start + record * RECORD_WORDS] = pfn | 0;
    this.#words[this.#start + record * RECORD_WORDS + 1] = pages | 0;
  }
}
