import { ERRNO } from "@smmuv3/platform";
import type { Device } from "@smmuv3/driver-core";
import type { IommuDomain } from "./domain.ts";
import { IotlbGather } from "./gather.ts";
import type { IovaAllocator } from "./iova.ts";
import type { RangeMapper } from "./map.ts";
import type { SgEntry } from "./sg.ts";

/**
 * The DMA API on a translating domain. Strict: an unmap is invalidated before it returns. With a flush queue: before its IOVA
 * can be used again.
 */
export class DmaIommu {
  readonly #mapper: RangeMapper;
  readonly #gather: IotlbGather = new IotlbGather();

  constructor(mapper: RangeMapper) {
    this.#mapper = mapper;
  }

  /** IOVA of `[pa, pa + size)`: the covering pages are mapped, the offset in the page is kept. Or a negative errno. */
  map(dev: Device, domain: IommuDomain, iovas: IovaAllocator, pa: number, size: number, prot: number): number {
    const { granule } = iovas;
    const offset = pa % granule;
    const total = Math.ceil((offset + size) / granule) * granule;
    const iova = iovas.alloc(total, dev.dmaMask);
    if (iova < 0) return iova;
    const status = this.#mapper.map(domain, iova, pa - offset, total, prot);
    if (status < 0) {
      iovas.free(iova, total);
      return status;
    }
    return iova + offset;
  }

  /** Unmaps, invalidates, then frees the IOVA (or leaves both to the flush queue). 0, or -EINVAL when `[dmaAddr, dmaAddr + size)` is not a mapping. */
  unmap(domain: IommuDomain, iovas: IovaAllocator, dmaAddr: number, size: number): number {
    const { granule } = iovas;
    const offset = dmaAddr % granule;
    const total = Math.ceil((offset + size) / granule) * granule;
    return this.#unmapRange(domain, iovas, dmaAddr - offset, total);
  }

  /**
   * Maps the first `count` entries into one contiguous IOVA range, each entry on pages of its own, and writes the joined DMA
   * segments to the leading entries.
   * @returns number of DMA segments, or a negative errno
   */
  mapSg(
    dev: Device,
    domain: IommuDomain,
    iovas: IovaAllocator,
    entries: readonly SgEntry[],
    count: number,
    prot: number,
  ): number {
    const { granule } = iovas;
    const total = coveredBytes(entries, count, granule);
    const iova = iovas.alloc(total, dev.dmaMask);
    if (iova < 0) return iova;
    const status = this.#mapEntries(domain, iova, entries, count, prot, granule);
    if (status < 0) {
      iovas.free(iova, total);
      return status;
    }
    return joinSegments(iova, entries, count, granule);
  }

  /** Undoes {@link mapSg} of the same entries. 0 or -EINVAL. */
  unmapSg(domain: IommuDomain, iovas: IovaAllocator, entries: readonly SgEntry[], count: number): number {
    const first = entries[0]!;
    const offset = first.dmaAddress % iovas.granule;
    return this.#unmapRange(domain, iovas, first.dmaAddress - offset, coveredBytes(entries, count, iovas.granule));
  }

  #unmapRange(domain: IommuDomain, iovas: IovaAllocator, iova: number, total: number): number {
    if (!iovas.owns(iova, total)) return -ERRNO.EINVAL;
    const gather = this.#gather;
    const queue = domain.flushQueue;
    gather.reset();
    gather.queued = queue !== undefined;
    const unmapped = this.#mapper.unmap(domain, iova, total, gather);
    if (queue === undefined) {
      gather.sync(domain);
      iovas.free(iova, total);
    } else if (unmapped > 0) queue.add(iova, total);
    return unmapped === total ? 0 : -ERRNO.EINVAL;
  }

  /** Maps runs of physically contiguous entries with one map each; on failure nothing stays mapped. */
  #mapEntries(
    domain: IommuDomain,
    iova: number,
    entries: readonly SgEntry[],
    count: number,
    prot: number,
    granule: number,
  ): number {
    let mapped = 0;
    let runStart = 0;
    let runBytes = 0;
    for (let i = 0; i <= count; i++) {
      const entry = i < count ? entries[i]! : undefined;
      const start = entry === undefined ? -1 : entry.pa - (entry.pa % granule);
      if (runBytes > 0 && start !== runStart + runBytes) {
        const status = this.#mapper.map(domain, iova + mapped, runStart, runBytes, prot);
        if (status < 0) {
          this.#undo(domain, iova, mapped);
          return status;
        }
        mapped += runBytes;
        runBytes = 0;
      }
      if (entry === undefined) break;
      if (runBytes === 0) runStart = start;
      runBytes += coverage(entry, granule);
    }
    return 0;
  }

  #undo(domain: IommuDomain, iova: number, size: number): void {
    if (size === 0) return;
    const gather = this.#gather;
    gather.reset();
    this.#mapper.unmap(domain, iova, size, gather);
    gather.sync(domain);
  }
}

/** Bytes of the pages that an entry covers. */
function coverage(entry: SgEntry, granule: number): number {
  return Math.ceil(((entry.pa % granule) + entry.length) / granule) * granule;
}

function coveredBytes(entries: readonly SgEntry[], count: number, granule: number): number {
  let total = 0;
  for (let i = 0; i < count; i++) total += coverage(entries[i]!, granule);
  return total;
}

/** Joins an entry to the segment before it when no byte of a page lies between them. */
function joinSegments(iova: number, entries: readonly SgEntry[], count: number, granule: number): number {
  let at = iova;
  let segments = 0;
  for (let i = 0; i < count; i++) {
    const entry = entries[i]!;
    const dmaAddress = at + (entry.pa % granule);
    const { length } = entry;
    at += coverage(entry, granule);
    const previous = segments > 0 ? entries[segments - 1]! : undefined;
    if (previous !== undefined && previous.dmaAddress + previous.dmaLength === dmaAddress) {
      previous.dmaLength += length;
    } else {
      const segment = entries[segments]!;
      segment.dmaAddress = dmaAddress;
      segment.dmaLength = length;
      segments++;
    }
  }
  return segments;
}
