import type { IommuDomain } from "./domain.ts";

/** Start of an empty gather: above every IOVA. */
const NO_START = Number.MAX_SAFE_INTEGER;

/**
 * Range of IOVAs that await one TLB invalidation (`struct iommu_iotlb_gather`). Reusable: an IOTLB sync empties it.
 */
export class IotlbGather {
  /** First byte. */
  start: number = NO_START;
  /** Last byte, inclusive. */
  end: number = 0;
  /** Size of the pages gathered; 0 while empty (and for ranges added without one). */
  pgsize: number = 0;
  /** The invalidation is left to a flush queue: {@link addPage} does nothing. */
  queued: boolean = false;

  /** Nothing gathered. */
  get empty(): boolean {
    return this.start > this.end;
  }

  /** True when `[iova, iova + size)` neither overlaps nor touches what is gathered. */
  isDisjoint(iova: number, size: number): boolean {
    return !this.empty && (iova > this.end + 1 || iova + size < this.start);
  }

  /**
   * Adds a page that the driver unmapped. What is gathered is synced first when the page size differs or the range would
   * get a hole, so that one invalidation never covers more than was unmapped.
   */
  addPage(domain: IommuDomain, iova: number, size: number): void {
    if (this.queued) return;
    if ((this.pgsize !== 0 && this.pgsize !== size) || this.isDisjoint(iova, size)) this.sync(domain);
    this.pgsize = size;
    this.addRange(iova, size);
  }

  /** Adds a range without a page size (dirty tracking). */
  addRange(iova: number, size: number): void {
    if (iova < this.start) this.start = iova;
    if (iova + size - 1 > this.end) this.end = iova + size - 1;
  }

  /** `iommu_iotlb_sync`: lets the driver invalidate, then empties this. */
  sync(domain: IommuDomain): void {
    domain.ops.iotlbSync?.(domain, this);
    this.reset();
  }

  /** Empties without invalidating. */
  reset(): void {
    this.start = NO_START;
    this.end = 0;
    this.pgsize = 0;
    this.queued = false;
  }
}
