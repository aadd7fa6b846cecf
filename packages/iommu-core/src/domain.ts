import type { Device } from "@smmuv3/driver-core";
import type { FlushQueue } from "./flush-queue.ts";
import type { IotlbGather } from "./gather.ts";
import type { IovaAllocator } from "./iova.ts";

/** `identity`: DMA addresses are physical. `blocked`: all DMA aborts. `paging`: a page table translates. */
export type DomainType = "identity" | "blocked" | "paging";

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
