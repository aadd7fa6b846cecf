import { ERRNO } from "@smmuv3/platform";
import type { IommuDomain } from "./domain.ts";
import { IotlbGather } from "./gather.ts";

/** Pages that a device has written to: a bit for each `granule` bytes from `base` on (`struct iommu_dirty_bitmap`). */
export class DirtyBitmap {
  readonly base: number;
  readonly size: number;
  readonly granule: number;
  readonly words: Int32Array;

  /** Throws RangeError where `size` is not a positive multiple of `granule`. */
  constructor(base: number, size: number, granule: number) {
    const bits = size / granule;
    if (!Number.isSafeInteger(bits) || bits < 1) {
      throw new RangeError(`DirtyBitmap: size must be a positive multiple of ${granule}, got ${size}`);
    }
    this.base = base;
    this.size = size;
    this.granule = granule;
    this.words = new Int32Array(Math.ceil(bits / 32));
  }

  /** Marks what of `[iova, iova + size)` the bit map covers. */
  set(iova: number, size: number): void {
    const first = Math.max(0, Math.floor((iova - this.base) / this.granule));
    const last = Math.min(this.size / this.granule, Math.ceil((iova + size - this.base) / this.granule));
    for (let bit = first; bit < last; bit++) this.words[bit >> 5]! |= 1 << (bit & 31);
  }

  /** Whether the page at `iova` was written to. */
  has(iova: number): boolean {
    const bit = Math.floor((iova - this.base) / this.granule);
    return ((this.words[bit >> 5] ?? 0) & (1 << (bit & 31))) !== 0;
  }
}

/**
 * Reads what devices wrote to in the range of `bitmap`, and forgets it unless `noClear`: further writes are seen by the next call,
 * since translations that still say "dirty" are invalidated before this returns. 0; -EOPNOTSUPP where the domain does not track;
 * -EINVAL at a hole.
 */
export function readAndClearDirty(domain: IommuDomain, bitmap: DirtyBitmap, noClear: boolean): number {
  if (domain.ops.readAndClearDirty === undefined || !domain.tracksDirty) return -ERRNO.EOPNOTSUPP;
  const gather = new IotlbGather();
  const visit = (iova: number, size: number): void => {
    bitmap.set(iova, size);
  };
  const status = domain.ops.readAndClearDirty(domain, bitmap.base, bitmap.size, noClear, visit, gather);
  gather.sync(domain);
  return status;
}

/** Begins or ends dirty tracking. 0; -EOPNOTSUPP where the domain was not made for it. */
export function setDirtyTracking(domain: IommuDomain, enable: boolean): number {
  if (!domain.tracksDirty) return -ERRNO.EOPNOTSUPP;
  return domain.ops.setDirtyTracking?.(domain, enable) ?? 0;
}
