import type { HypCore, PoolPurpose, UnmapVisitor } from "@smmuv3/pkvm-hyp";
import { UNMAP_MAX } from "@smmuv3/pkvm-hyp";
import { ERRNO, LEVEL, PAGE_SIZE } from "@smmuv3/platform";

import type { HypRiscvIommu } from "./hyp-iommu.ts";
import { SvTable } from "./sv-table.ts";

/** A second stage and the identifier that tags its TLB entries: the identity map, or a paravirtual domain. */
export class Space {
  readonly gscid: number;
  readonly table: SvTable;
  /** Devices that lead here, by IOMMU. While it is 0, the IOMMU has nothing of this space in its caches. */
  readonly users: Int32Array;
  readonly #core: HypCore;
  readonly #iommus: readonly HypRiscvIommu[];
  readonly #tableWrites: number;
  readonly #pas: Float64Array = new Float64Array(UNMAP_MAX);

  private constructor(core: HypCore, iommus: readonly HypRiscvIommu[], most: number, gscid: number, table: SvTable) {
    this.gscid = gscid;
    this.table = table;
    this.users = new Int32Array(most);
    this.#core = core;
    this.#iommus = iommus;
    this.#tableWrites = core.cpu.counters.id("tableWrites") + LEVEL.el2;
  }

  /** An empty space with memory of `purpose`, or -ENOMEM; for at most `most` IOMMUs. */
  static create(
    core: HypCore, iommus: readonly HypRiscvIommu[], most: number, gscid: number, purpose: PoolPurpose,
  ): Space | number {
    const pool = purpose === "domains" ? core.iommuPool : core.pool;
    const table = SvTable.create({
      memory: core.cpu.memory,
      alloc: (bytes) => pool.alloc(bytes, purpose),
      free: (pa, bytes) => { pool.free(pa, bytes, purpose); },
    });
    return typeof table === "number" ? table : new Space(core, iommus, most, gscid, table);
  }

  /** Bytes mapped, fewer than asked for at the first failure; or that failure's negative errno. */
  map(address: number, pa: number, size: number, count: number, flags: number): number {
    let status = 0;
    let done = 0;
    while (done < count && status === 0) {
      status = this.table.map(address + done * size, pa + done * size, size, flags);
      if (status === 0) done++;
    }
    this.#core.cpu.counters.add(this.#tableWrites, done);
    this.#core.cpu.barrier();
    return done > 0 ? done * size : status;
  }

  /**
   * Unmaps up to a hole, part of a larger leaf or {@link UNMAP_MAX} leaves, and tells what is gone once no TLB has it. Returns bytes;
   * a negative errno when an IOMMU does not answer: the leaves are gone, and stay in use.
   */
  unmap(start: number, end: number, visit: UnmapVisitor): number {
    let at = start;
    let leaves = 0;
    let size = 0;
    while (at < end && leaves < UNMAP_MAX && this.table.lookUp(at)) {
      const { leafSize, leafPa } = this.table;
      if (at % leafSize !== 0 || at + leafSize > end || (leaves > 0 && leafSize !== size)) break;
      size = leafSize;
      this.#pas[leaves++] = leafPa;
      this.table.clear();
      at += leafSize;
    }
    if (leaves === 0) return 0;
    this.#core.cpu.counters.add(this.#tableWrites, leaves);
    const status = this.sync(start, at - start);
    if (status < 0) return status;
    for (let i = 0; i < leaves; i++) visit(this.#pas[i]!, size);
    return at - start;
  }

  /** No TLB has an entry for `[start, start + size)` when this returns 0. */
  sync(start: number, size: number): number {
    const { cpu } = this.#core;
    cpu.barrier();
    let first = 0;
    for (let i = 0; i < this.#iommus.length; i++) {
      if (this.users[i] === 0) continue;
      const iommu = this.#iommus[i]!;
      iommu.lock.lock(cpu);
      const status = iommu.invalidate(this.gscid, start, size);
      iommu.lock.unlock(cpu);
      if (first === 0) first = status;
    }
    return first;
  }

  /** One device less, after the IOMMU forgot its context. The last one takes the TLB's entries with it; the caller holds the lock. */
  leave(iommu: HypRiscvIommu): void {
    if (--this.users[iommu.index]! > 0) return;
    // An IOMMU that does not answer stays a user: nothing of what it may reach is given away.
    if (iommu.invalidateAll(this.gscid) < 0) this.users[iommu.index] = 1;
  }

  get used(): boolean {
    return this.users.some((count) => count !== 0);
  }

  /** Frees the tables, which no TLB knows; `visit` for each leaf that was left. -EBUSY: an IOMMU may still know them. */
  free(visit: UnmapVisitor): number {
    if (this.used) return -ERRNO.EBUSY;
    this.table.free(visit);
    return 0;
  }
}

/** Maps `[start, end)` one to one, with the largest leaves when `large`. What is mapped already stays. 0, or a negative errno. */
export function mapIdentity(space: Space, start: number, end: number, flags: number, sizes: readonly number[]): number {
  for (let at = start; at < end; ) {
    const size = sizes.findLast((one) => at % one === 0 && at + one <= end) ?? PAGE_SIZE;
    const status = space.map(at, at, size, 1, flags);
    if (status < 0 && status !== -ERRNO.EEXIST) return status;
    at += size;
  }
  return 0;
}
