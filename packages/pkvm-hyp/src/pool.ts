import { REQUEST, TOPUP_MAX_ORDER } from "@smmuv3/pkvm-abi";
import { ERRNO, LEVEL, PAGE_SIZE, SpinLock } from "@smmuv3/platform";
import type { HypCpu, LockOrder } from "@smmuv3/platform";

import { LOCK_RANK } from "./iommu-driver.ts";
import { OWNER, PAGE_STATE } from "./page-state.ts";
import type { PageStates } from "./page-state.ts";
import type { Requests } from "./requests.ts";

/** What pool memory is used for; each has a gauge `pool.<purpose>` in bytes. */
export const POOL_PURPOSES = ["pageState", "hostStage2", "idmap", "streamTables", "vm", "domains"] as const;
export type PoolPurpose = (typeof POOL_PURPOSES)[number];

/** What a pool needs of EL2. */
export interface PoolEnv {
  readonly cpu: HypCpu;
  readonly states: PageStates;
  readonly locks: LockOrder;
  readonly requests: Requests;
}

/** Page `n` is `n + 1` in a link, so that zeroed memory is the end of a list. */
const NEXT = 0;
const PREVIOUS = 4;

/**
 * Pages that EL2 allocates from: a buddy allocator whose free blocks are listed in their own memory and marked in the page-state
 * table. Blocks are zeroed, a power of two of 4K pages and naturally aligned. Exhaustion is a value and a request to the host,
 * never a panic: the host decides how much EL2 has.
 */
export class HypPool {
  readonly #env: PoolEnv;
  readonly #id: number;
  readonly #owner: number;
  readonly #lock: SpinLock;
  /** First free block of each order. */
  readonly #heads = new Int32Array(TOPUP_MAX_ORDER + 1);
  /** Pages that are never given back: `[first, end)`. */
  #keepFirst = 0;
  #keepEnd = 0;
  #free = 0;

  /** Empty pool `id` (see POOL) of pages that `owner` owns. */
  constructor(env: PoolEnv, id: number, owner: number = OWNER.hyp) {
    this.#env = env;
    this.#id = id;
    this.#owner = owner;
    this.#lock = new SpinLock(`pool ${id}`, LOCK_RANK.pool, env.locks);
  }

  /** Pages not in use. */
  get freePages(): number {
    return this.#free;
  }

  /** Adds the owner's pages `[base, base + pages * 4K)`; with `keep`, which is for the first ones, {@link take} leaves them. */
  add(base: number, pages: number, keep: boolean = false): void {
    const { cpu, states } = this.#env;
    const first = cpu.memory.pageIndex(base);
    if (keep) {
      this.#keepFirst = first;
      this.#keepEnd = first + pages;
    }
    this.#lock.lock(cpu);
    for (let page = first; page < first + pages; page++) {
      states.set(page, this.#owner, PAGE_STATE.owned, 1);
      this.#insert(page, 0);
    }
    this.#free += pages;
    this.#lock.unlock(cpu);
  }

  /** Address of zeroed memory of at least `bytes`, or -ENOMEM. */
  alloc(bytes: number, purpose: PoolPurpose): number {
    const { cpu, requests } = this.#env;
    const order = orderOf(bytes);
    this.#lock.lock(cpu);
    const page = this.#remove(order);
    this.#lock.unlock(cpu);
    if (page < 0) {
      requests.note(REQUEST.memory, this.#id, 2 ** order);
      return -ERRNO.ENOMEM;
    }
    const pa = this.#address(page);
    cpu.memory.fill(pa, PAGE_SIZE * 2 ** order, 0);
    account(cpu, purpose, PAGE_SIZE * 2 ** order);
    return pa;
  }

  /** Takes back what {@link alloc} gave for the same `bytes` and `purpose`. */
  free(pa: number, bytes: number, purpose: PoolPurpose): void {
    const { cpu, states } = this.#env;
    const order = orderOf(bytes);
    const page = cpu.memory.pageIndex(pa);
    if (pa % PAGE_SIZE !== 0 || page < 0 || !states.is(page, this.#owner, PAGE_STATE.owned, 1)) {
      cpu.panic("pool: freed memory that it never gave");
    }
    this.#lock.lock(cpu);
    this.#insert(page, order);
    this.#free += 2 ** order;
    this.#lock.unlock(cpu);
    account(cpu, purpose, -PAGE_SIZE * 2 ** order);
  }

  /** Address of a free page that need not be kept; it leaves the pool. -ENOENT: there is none. */
  take(): number {
    const { cpu } = this.#env;
    this.#lock.lock(cpu);
    const page = this.#spare();
    this.#lock.unlock(cpu);
    return page < 0 ? -ERRNO.ENOENT : this.#address(page);
  }

  #spare(): number {
    for (let order = 0; order <= TOPUP_MAX_ORDER; order++) {
      for (let page = this.#heads[order]! - 1; page >= 0; page = this.#link(page, NEXT)) {
        if (!this.#kept(page)) return this.#split(page, order, 0);
      }
    }
    return -1;
  }

  /** A block of 2^order pages, in use from here on, or -1. */
  #remove(order: number): number {
    for (let at = order; at <= TOPUP_MAX_ORDER; at++) {
      const page = this.#heads[at]! - 1;
      if (page >= 0) return this.#split(page, at, order);
    }
    return -1;
  }

  /** Takes the first 2^to pages of a free block; the rest stays free. */
  #split(page: number, from: number, to: number): number {
    this.#unlist(page, from);
    for (let order = from - 1; order >= to; order--) this.#list(page + 2 ** order, order);
    this.#free -= 2 ** to;
    return page;
  }

  /** Makes a block free, together with its free buddies. */
  #insert(block: number, order: number): void {
    const { cpu, states } = this.#env;
    const { basePage, pages } = cpu.memory;
    let page = block;
    let at = order;
    for (; at < TOPUP_MAX_ORDER; at++) {
      const buddy = ((page + basePage) ^ (1 << at)) - basePage;
      if (buddy < 0 || buddy >= pages || this.#kept(buddy) !== this.#kept(page)) break;
      if (!states.is(buddy, this.#owner, PAGE_STATE.free, this.#mark(at))) break;
      this.#unlist(buddy, at);
      page = Math.min(page, buddy);
    }
    this.#list(page, at);
  }

  #list(page: number, order: number): void {
    const next = this.#heads[order]!;
    this.#setLink(page, NEXT, next);
    this.#setLink(page, PREVIOUS, 0);
    if (next !== 0) this.#setLink(next - 1, PREVIOUS, page + 1);
    this.#heads[order] = page + 1;
    this.#env.states.set(page, this.#owner, PAGE_STATE.free, this.#mark(order));
  }

  #unlist(page: number, order: number): void {
    const next = this.#link(page, NEXT);
    const previous = this.#link(page, PREVIOUS);
    if (next >= 0) this.#setLink(next, PREVIOUS, previous + 1);
    if (previous >= 0) this.#setLink(previous, NEXT, next + 1);
    else this.#heads[order] = next + 1;
    this.#env.states.set(page, this.#owner, PAGE_STATE.owned, 1);
  }

  /** The pins of a free block: never 0, so that the host cannot have the page. */
  #mark(order: number): number {
    return (this.#id << 8) | (order + 1);
  }

  #kept(page: number): boolean {
    return page >= this.#keepFirst && page < this.#keepEnd;
  }

  #link(page: number, at: number): number {
    return this.#env.cpu.memory.load32(this.#address(page) + at) - 1;
  }

  #setLink(page: number, at: number, link: number): void {
    this.#env.cpu.memory.store32(this.#address(page) + at, link);
  }

  #address(page: number): number {
    return this.#env.cpu.memory.base + page * PAGE_SIZE;
  }
}

/** Adds `bytes` to the gauge of `purpose`. */
export function account(cpu: HypCpu, purpose: PoolPurpose, bytes: number): void {
  cpu.counters.add(cpu.counters.id(`pool.${purpose}`) + LEVEL.el2, bytes);
}

/** log2 of the pages of the block that holds `bytes`. */
function orderOf(bytes: number): number {
  let order = 0;
  while (PAGE_SIZE * 2 ** order < bytes) order++;
  return order;
}
