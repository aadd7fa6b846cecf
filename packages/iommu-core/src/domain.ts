import type { Device } from "@smmuv3/driver-core";
import type { FlushQueue } from "./flush-queue.ts";
import type { IotlbGather } from "./gather.ts";
import type { IopfHandler } from "./iopf.ts";
import type { IovaAllocator } from "./iova.ts";

/**
 * `identity`: DMA addresses are physical. `blocked`: all DMA aborts. `paging`: a page table translates. `sva`: that of a process, by
 * PASID. `nested`: that of a guest, over a paging domain.
 */
export type DomainType = "identity" | "blocked" | "paging" | "sva" | "nested";

/** What a paging domain is wanted for (`IOMMU_HWPT_ALLOC_*`). */
export const DOMAIN_FLAG = {
  /** Guests' tables may be put over it. */
  nestParent: 1,
  /** {@link DomainOps.readAndClearDirty} works. */
  dirtyTracking: 2,
  /** It may be attached to PASIDs, or to devices that have some attached. */
  pasid: 8,
} as const;

/** `struct iommu_domain_ops`. Statuses are 0 or a negative errno. */
export interface DomainOps {
  /**
   * Moves `dev` from `old` (`undefined` at its first attach) to `domain`. On failure the hardware still uses `old`. Must not
   * fail for identity and blocked domains.
   */
  attachDev(domain: IommuDomain, dev: Device, old: IommuDomain | undefined): number;
  /**
   * Moves the traffic of `dev` with `pasid` (1 or above) from `old` to `domain`; on the blocked domain: detaches the PASID and
   * must not fail. Rules as for {@link attachDev}.
   */
  setDevPasid?(domain: IommuDomain, dev: Device, pasid: number, old: IommuDomain | undefined): number;
  /**
   * Maps `pgcount` pages of `pgsize` (one of the domain's sizes) from aligned `iova` to aligned `pa`. May stop early with
   * status 0: `domain.mapped` is set to the bytes that this call mapped, on errors too.
   */
  mapPages?(domain: IommuDomain, iova: number, pa: number, pgsize: number, pgcount: number, prot: number): number;
  /** Unmaps pages, adding them to `gather` (which ignores them while it is queued). Returns bytes unmapped; 0 ends the caller's loop. */
  unmapPages?(domain: IommuDomain, iova: number, pgsize: number, pgcount: number, gather: IotlbGather): number;
  /** Called once after a successful map of `[iova, iova + size)`; 0 or a negative errno, which undoes the map. */
  iotlbSyncMap?(domain: IommuDomain, iova: number, size: number): number;
  /** Invalidates what `gather` holds, and waits. */
  iotlbSync?(domain: IommuDomain, gather: IotlbGather): void;
  /** Invalidates all of the domain, and waits. */
  flushIotlbAll?(domain: IommuDomain): void;
  /** Physical address of `iova`, or 0. */
  iovaToPhys?(domain: IommuDomain, iova: number): number;
  /**
   * From now on all DMA is coherent, whatever devices ask for: false where one of them cannot, with nothing changed. Devices that
   * cannot do it are refused afterwards.
   */
  enforceCacheCoherency?(domain: IommuDomain): boolean;
  /** Dirty tracking begins or ends. */
  setDirtyTracking?(domain: IommuDomain, enable: boolean): number;
  /**
   * Visits what of `[iova, iova + size)` was written to, and makes it clean unless `noClear`; what has to be invalidated for that
   * goes to `gather`. 0, or -EINVAL at a hole.
   */
  readAndClearDirty?(
    domain: IommuDomain, iova: number, size: number, noClear: boolean, visit: (iova: number, size: number) => void, gather: IotlbGather,
  ): number;
  /** Frees the domain; no device is attached. */
  free?(domain: IommuDomain): void;
}

export interface DomainOptions {
  readonly type: DomainType;
  readonly ops: DomainOps;
  /** Sum of the page sizes that can be mapped, in bytes (exact below 2^53). Paging domains need one before mapping. */
  readonly pgsizeBitmap?: number;
  /** Last IOVA that can be mapped. */
  readonly apertureEnd?: number;
}

/** `struct iommu_domain`. Drivers extend it or keep their own map. */
export class IommuDomain {
  readonly type: DomainType;
  readonly ops: DomainOps;
  /** Last IOVA that can be mapped. */
  apertureEnd: number;
  /** Bytes that the last `mapPages` mapped. */
  mapped: number = 0;
  /** Page sizes, ascending; from {@link pgsizeBitmap}. */
  pageSizes: readonly number[] = [];
  /** IOVA space of the DMA API; set for default domains. */
  iovas: IovaAllocator | undefined = undefined;
  /** Set when unmaps of the DMA API are flushed late. */
  flushQueue: FlushQueue | undefined = undefined;
  /** Devices and PASIDs attached. */
  users: number = 0;
  /** Serves page requests of its devices; set before it is attached (a fault-capable domain). */
  iopfHandler: IopfHandler | undefined = undefined;
  /** It was made with dirty tracking. */
  tracksDirty: boolean = false;
  #pgsizeBitmap = 0;

  constructor(options: DomainOptions) {
    this.type = options.type;
    this.ops = options.ops;
    this.apertureEnd = options.apertureEnd ?? Number.MAX_SAFE_INTEGER;
    this.pgsizeBitmap = options.pgsizeBitmap ?? 0;
  }

  get pgsizeBitmap(): number {
    return this.#pgsizeBitmap;
  }

  /** A driver that finalises the page table late sets it then. */
  set pgsizeBitmap(bitmap: number) {
    if (!Number.isSafeInteger(bitmap) || bitmap < 0) {
      throw new RangeError(`IommuDomain: pgsizeBitmap must be a sum of page sizes below 2^53, got ${bitmap}`);
    }
    this.#pgsizeBitmap = bitmap;
    const sizes: number[] = [];
    for (let size = 1, rest = bitmap; rest > 0; size *= 2, rest = Math.floor(rest / 2)) {
      if (rest % 2 === 1) sizes.push(size);
    }
    this.pageSizes = sizes;
  }
}
