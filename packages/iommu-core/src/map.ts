import { ERRNO, LEVEL } from "@smmuv3/platform";
import type { Counters } from "@smmuv3/platform";
import type { IommuDomain } from "./domain.ts";
import { IotlbGather } from "./gather.ts";

/** Page sizes up to here are tested on the low address word. */
const LOW_WORD = 0x8000_0000;

/** True when both addresses are multiples of `size`, a power of two. */
function aligned(a: number, b: number, size: number): boolean {
  if (size <= LOW_WORD) return ((a | b) & (size - 1)) === 0;
  return a % size === 0 && b % size === 0;
}

/** True when both addresses have the same offset in a page of `size`. */
function congruent(a: number, b: number, size: number): boolean {
  if (size <= LOW_WORD) return ((a ^ b) & (size - 1)) === 0;
  return a % size === b % size;
}

/**
 * Maps and unmaps ranges with the largest pages that fit (`iommu_map`, `iommu_unmap`). Result fields instead of tuples: one
 * object serves all domains.
 */
export class RangeMapper {
  /** Page size that {@link pick} chose; 0 when none fits. */
  pgsize: number = 0;
  /** Number of such pages. */
  pgcount: number = 0;
  readonly #counters: Counters;
  readonly #maps: number;
  readonly #unmaps: number;

  constructor(counters: Counters) {
    this.#counters = counters;
    this.#maps = counters.id("dma.pgtableMaps") + LEVEL.el1;
    this.#unmaps = counters.id("dma.pgtableUnmaps") + LEVEL.el1;
  }

  /**
   * Chooses {@link pgsize}: the largest that `size` and the alignment of `iova` and `pa` allow; and {@link pgcount}: as many as
   * fit before a larger size can take over.
   */
  pick(domain: IommuDomain, iova: number, pa: number, size: number): void {
    const sizes = domain.pageSizes;
    let at = sizes.length - 1;
    while (at >= 0 && (sizes[at]! > size || !aligned(iova, pa, sizes[at]!))) at--;
    if (at < 0) {
      this.pgsize = 0;
      this.pgcount = 0;
      return;
    }
    const pgsize = sizes[at]!;
    const larger = sizes[at + 1];
    let bytes = size;
    if (larger !== undefined && congruent(iova, pa, larger)) {
      const offset = larger - (iova % larger);
      if (offset + larger <= size) bytes = offset;
    }
    this.pgsize = pgsize;
    this.pgcount = Math.floor(bytes / pgsize);
  }

  /** Maps `[iova, iova + size)`; 0, or a negative errno with nothing of it left mapped. */
  map(domain: IommuDomain, iova: number, pa: number, size: number, prot: number): number {
    const { ops } = domain;
    const least = domain.pageSizes[0];
    if (ops.mapPages === undefined || least === undefined) return -ERRNO.EINVAL;
    if (!(size > 0) || size % least !== 0 || !aligned(iova, pa, least)) return -ERRNO.EINVAL;
    let done = 0;
    let status = 0;
    while (done < size) {
      this.pick(domain, iova + done, pa + done, size - done);
      domain.mapped = 0;
      this.#counters.add(this.#maps, 1);
      status = ops.mapPages(domain, iova + done, pa + done, this.pgsize, this.pgcount, prot);
      done += domain.mapped;
      if (status < 0) break;
      if (domain.mapped === 0) {
        status = -ERRNO.EINVAL;
        break;
      }
    }
    if (status === 0 && ops.iotlbSyncMap !== undefined) status = ops.iotlbSyncMap(domain, iova, size);
    if (status < 0 && done > 0) this.#undo(domain, iova, done);
    return status;
  }

  /**
   * Unmaps `[iova, iova + size)` into `gather`, which the caller syncs.
   * @returns bytes unmapped: less than `size` when a hole or a larger page stopped it; 0 for a range that is not aligned
   */
  unmap(domain: IommuDomain, iova: number, size: number, gather: IotlbGather): number {
    const { ops } = domain;
    const least = domain.pageSizes[0];
    if (ops.unmapPages === undefined || least === undefined) return 0;
    if (!(size > 0) || size % least !== 0 || !aligned(iova, 0, least)) return 0;
    let done = 0;
    while (done < size) {
      this.pick(domain, iova + done, iova + done, size - done);
      this.#counters.add(this.#unmaps, 1);
      const bytes = ops.unmapPages(domain, iova + done, this.pgsize, this.pgcount, gather);
      if (bytes === 0) break;
      done += bytes;
    }
    return done;
  }

  #undo(domain: IommuDomain, iova: number, size: number): void {
    const gather = new IotlbGather();
    this.unmap(domain, iova, size, gather);
    gather.sync(domain);
  }
}
