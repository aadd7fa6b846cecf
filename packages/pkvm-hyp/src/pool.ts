import { ERRNO, LEVEL, PAGE_SIZE } from "@smmuv3/platform";
import type { HypCpu } from "@smmuv3/platform";

/** What pool memory is used for; each has a gauge `pool.<purpose>` in bytes. */
export const POOL_PURPOSES = ["pageState", "hostStage2", "idmap", "streamTables", "vm"] as const;
export type PoolPurpose = (typeof POOL_PURPOSES)[number];

/**
 * Pages that EL2 allocates from: a carve-out that belongs to it. Blocks are zeroed, a power of two of 4K pages and naturally
 * aligned. Exhaustion is a value, never a panic: the host decides how much EL2 has.
 */
export class HypPool {
  readonly base: number;
  readonly pages: number;
  readonly #cpu: HypCpu;
  /** 1 = in use. */
  readonly #used: Uint8Array;
  /** Pages below this one are all in use. */
  #lowest = 0;
  #free: number;

  /** Pool over `[base, base + pages * 4K)`, page aligned RAM that EL2 owns. */
  constructor(cpu: HypCpu, base: number, pages: number) {
    this.base = base;
    this.pages = pages;
    this.#cpu = cpu;
    this.#used = new Uint8Array(pages);
    this.#free = pages;
  }

  /** Pages not in use. */
  get freePages(): number {
    return this.#free;
  }

  /** Address of zeroed memory of at least `bytes`, or -ENOMEM. */
  alloc(bytes: number, purpose: PoolPurpose): number {
    const count = blockPages(bytes);
    const misaligned = (this.base / PAGE_SIZE) % count;
    const first = misaligned === 0 ? 0 : count - misaligned;
    const from = this.#lowest <= first ? first : first + Math.ceil((this.#lowest - first) / count) * count;
    for (let at = from; at + count <= this.pages; at += count) {
      if (!this.#isFree(at, count)) continue;
      this.#used.fill(1, at, at + count);
      if (count === 1 && first === 0) this.#lowest = at + 1;
      this.#free -= count;
      const pa = this.base + at * PAGE_SIZE;
      this.#cpu.memory.fill(pa, count * PAGE_SIZE, 0);
      account(this.#cpu, purpose, count * PAGE_SIZE);
      return pa;
    }
    return -ERRNO.ENOMEM;
  }

  /** Takes back what {@link alloc} gave for the same `bytes` and `purpose`. */
  free(pa: number, bytes: number, purpose: PoolPurpose): void {
    const count = blockPages(bytes);
    const at = (pa - this.base) / PAGE_SIZE;
    if (!Number.isInteger(at) || at < 0 || at + count > this.pages || this.#used[at] !== 1) {
      this.#cpu.panic("pool: freed memory that it never gave");
    }
    this.#used.fill(0, at, at + count);
    this.#lowest = Math.min(this.#lowest, at);
    this.#free += count;
    account(this.#cpu, purpose, -count * PAGE_SIZE);
  }

  #isFree(at: number, count: number): boolean {
    for (let i = at; i < at + count; i++) if (this.#used[i] !== 0) return false;
    return true;
  }
}

/** Adds `bytes` to the gauge of `purpose`. */
export function account(cpu: HypCpu, purpose: PoolPurpose, bytes: number): void {
  cpu.counters.add(cpu.counters.id(`pool.${purpose}`) + LEVEL.el2, bytes);
}

/** Pages of the block that holds `bytes`. */
function blockPages(bytes: number): number {
  let pages = 1;
  while (pages * PAGE_SIZE < bytes) pages *= 2;
  return pages;
}
