import { ERRNO } from "@smmuv3/platform";
import type { Memory } from "@smmuv3/platform";

/** Owner of a page; protected VMs count from {@link OWNER}.firstVm. */
export const OWNER = { host: 0, hyp: 1, firstVm: 2 } as const;

/** State of a page as its owner sees it. In the odd ones somebody else has access as well. */
export const PAGE_STATE = {
  /** Nobody else has access. */
  owned: 0,
  /** EL2 has access to a page of the host, the host to a page of a VM. */
  sharedOwned: 1,
  /** Its VM is gone; it waits to be wiped and given back. */
  reclaim: 2,
  /** The same, and the host has had access all along. */
  reclaimShared: 3,
  /** EL2 reads or writes it on behalf of a host that did not share it; lasts as long as it is pinned. */
  lent: 4,
  /** First page of a free block of a pool; the pins say which. */
  free: 6,
} as const;

const OWNER_MASK = 0xff;
const STATE_SHIFT = 8;
const STATE_MASK = 0xff;
const SHARED = 1 << STATE_SHIFT;
const PIN_SHIFT = 16;
const PIN_MAX = 0xffff;
const PIN_ONE = 1 << PIN_SHIFT;

/**
 * The page-state table: one 32-bit word for each page of RAM, itself in RAM that EL2 owns. Owner in bits [7:0], state in
 * [15:8], pins in [31:16]. Pages are indices from the start of RAM. It changes under the host lock, but for {@link unpin}, which may
 * come at any time, and for pages of a pool.
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

  /** True when the host may reach the page: it owns it, or a VM shares it. */
  hostReaches(page: number): boolean {
    const word = this.#words[this.#start + page]!;
    return (word & OWNER_MASK) === OWNER.host || (word & SHARED) !== 0;
  }

  /** True when owner, state and pins are these. */
  is(page: number, owner: number, state: number, pins: number): boolean {
    return this.#words[this.#start + page] === word(owner, state, pins);
  }

  /** Sets owner, state and pins. */
  set(page: number, owner: number, state: number, pins: number = 0): void {
    this.#words[this.#start + page] = word(owner, state, pins);
  }

  /** One more pin; -EBUSY when the count is full. */
  pin(page: number): number {
    if (this.pins(page) === PIN_MAX) return -ERRNO.EBUSY;
    Atomics.add(this.#words, this.#start + page, PIN_ONE);
    return 0;
  }

  /** One pin less; there is at least one. */
  unpin(page: number): void {
    Atomics.sub(this.#words, this.#start + page, PIN_ONE);
  }
}

function word(owner: number, state: number, pins: number): number {
  return owner | (state << STATE_SHIFT) | (pins << PIN_SHIFT);
}

/** What a page is to the host. */
export type HostView = "owned" | "shared" | "borrowed" | "donated";

/** The host's view of `page`: its own, shared with EL2, a VM's that shares it, or somebody else's. */
export function hostView(states: PageStates, page: number): HostView {
  if (!states.hostOwned(page)) return states.hostReaches(page) ? "borrowed" : "donated";
  return states.state(page) === PAGE_STATE.sharedOwned ? "shared" : "owned";
}
