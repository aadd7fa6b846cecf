import { ERRNO } from "@smmuv3/platform";
import type { Memory } from "@smmuv3/platform";

/** Owner of a page; protected VMs count from {@link OWNER}.firstVm. */
export const OWNER = { host: 0, hyp: 1, firstVm: 2 } as const;

/** State of a page as its owner sees it. */
export const PAGE_STATE = {
  /** Nobody else has access. */
  owned: 0,
  /** EL2 has access as well. */
  sharedOwned: 1,
  /** Its VM is gone; it waits to be wiped and given back. */
  reclaim: 2,
  /** EL2 reads or writes it on behalf of a host that did not share it; lasts as long as it is pinned. */
  lent: 3,
} as const;

const OWNER_MASK = 0xff;
const STATE_SHIFT = 8;
const STATE_MASK = 0xff;
const PIN_SHIFT = 16;
const PIN_MAX = 0xffff;
const PIN_ONE = 1 << PIN_SHIFT;

/**
 * The page-state table: one 32-bit word for each page of RAM, itself in RAM that EL2 owns. Owner in bits [7:0], state in
 * [15:8], pins in [31:16]. Pages are indices from the start of RAM.
 */
export class PageStates {
  readonly #words: Int32Array;
  readonly #start: number;

  /** Table at `pa`, zeroed: the host owns every page. */
  constructor(memory: Memory, pa: number) {
    this.#words = memory.words;
    this.#start = memory.index(pa, true);
  }

  owner(page: number): number {
    return this.#words[this.#start + page]! & OWNER_MASK;
  }

  state(page: number): number {
    return (this.#words[this.#start + page]! >>> STATE_SHIFT) & STATE_MASK;
  }

  /** References that keep the page where it is. */
  pins(page: number): number {
    return this.#words[this.#start + page]! >>> PIN_SHIFT;
  }

  /** True when the host owns the page, alone or shared. */
  hostOwned(page: number): boolean {
    return (this.#words[this.#start + page]! & OWNER_MASK) === OWNER.host;
  }

  /** Sets owner, state and pins. */
  set(page: number, owner: number, state: number, pins: number = 0): void {
    this.#words[this.#start + page] = owner | (state << STATE_SHIFT) | (pins << PIN_SHIFT);
  }

  /** One more pin; -EBUSY when the count is full. */
  pin(page: number): number {
    if (this.pins(page) === PIN_MAX) return -ERRNO.EBUSY;
    this.#words[this.#start + page]! += PIN_ONE;
    return 0;
  }

  /** One pin less; there is at least one. */
  unpin(page: number): void {
    this.#words[this.#start + page]! -= PIN_ONE;
  }
}
