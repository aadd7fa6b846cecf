import { ERRNO, PAGE_SIZE, PAGE_WORDS } from "@smmuv3/platform";
import type { Memory } from "@smmuv3/platform";

import { OWNER } from "./page-state.ts";

/** Page frame number, number of pages, owner. */
const RECORD_WORDS = 4;
const RECORDS = PAGE_WORDS / RECORD_WORDS;
const PFN = 0;
const PAGES = 1;
const OWNED_BY = 2;

/**
 * Device pages that are not the host's alone: records in one page of EL2's RAM. A record of the host is of pages that its devices
 * may reach, so that nobody else can ever have them. All other device space is the host's.
 */
export class MmioOwners {
  readonly #words: Int32Array;
  readonly #start: number;
  #count = 0;

  /** Records in the zeroed page at `pa`. */
  constructor(memory: Memory, pa: number) {
    this.#words = memory.words;
    this.#start = memory.index(pa, true);
  }

  /** True when there is a record of a page of `[base, base + size)`; with `except`, of another owner. */
  overlaps(base: number, size: number, except?: number): boolean {
    const first = Math.floor(base / PAGE_SIZE);
    const end = Math.ceil((base + size) / PAGE_SIZE);
    for (let i = 0; i < this.#count; i++) {
      const pfn = this.#get(i, PFN);
      const overlap = pfn < end && first < pfn + this.#get(i, PAGES);
      if (overlap && this.#get(i, OWNED_BY) !== except) return true;
    }
    return false;
  }

  /** True when there is exactly this record. */
  has(base: number, size: number, owner: number): boolean {
    return this.#index(base, size, owner) >= 0;
  }

  /** Owner of a record of the page at `base`; the host without one. */
  ownerOf(base: number): number {
    for (let i = 0; i < this.#count; i++) {
      const at = Math.floor(base / PAGE_SIZE) - this.#get(i, PFN);
      if (at >= 0 && at < this.#get(i, PAGES)) return this.#get(i, OWNED_BY);
    }
    return OWNER.host;
  }

  /** Records of `owner`. */
  count(owner: number): number {
    let count = 0;
    for (let i = 0; i < this.#count; i++) if (this.#get(i, OWNED_BY) === owner) count++;
    return count;
  }

  /** Records the page-aligned `[base, base + size)`; -ENOSPC when the page of records is full. */
  add(base: number, size: number, owner: number): number {
    if (this.#count === RECORDS) return -ERRNO.ENOSPC;
    this.#write(this.#count++, base / PAGE_SIZE, size / PAGE_SIZE, owner);
    return 0;
  }

  /** Removes exactly the record of `[base, base + size)`; -EPERM when there is none. */
  remove(base: number, size: number, owner: number): number {
    const i = this.#index(base, size, owner);
    if (i < 0) return -ERRNO.EPERM;
    const last = --this.#count;
    this.#write(i, this.#get(last, PFN), this.#get(last, PAGES), this.#get(last, OWNED_BY));
    return 0;
  }

  #index(base: number, size: number, owner: number): number {
    for (let i = 0; i < this.#count; i++) {
      const same = this.#get(i, PFN) === base / PAGE_SIZE && this.#get(i, PAGES) === size / PAGE_SIZE;
      if (same && this.#get(i, OWNED_BY) === owner) return i;
    }
    return -1;
  }

  #get(record: number, word: number): number {
    return this.#words[this.#start + record * RECORD_WORDS + word]! >>> 0;
  }

  #write(record: number, pfn: number, pages: number, owner: number): void {
    const at = this.#start + record * RECORD_WORDS;
    this.#words[at + PFN] = pfn | 0;
    this.#words[at + PAGES] = pages | 0;
    this.#words[at + OWNED_BY] = owner;
  }
}
