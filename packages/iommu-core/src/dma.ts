import { ERRNO, LEVEL, PAGE_SIZE, alignUp } from "@smmuv3/platform";
import type { Counters } from "@smmuv3/platform";
import type { Device, KernelContext } from "@smmuv3/driver-core";
import { DmaDirect } from "./dma-direct.ts";
import { DmaIommu } from "./dma-iommu.ts";
import type { IommuDomain } from "./domain.ts";
import { deviceIommu } from "./group.ts";
import type { RangeMapper } from "./map.ts";
import { DMA_DIR, PROT, dirProt } from "./prot.ts";
import type { SgEntry } from "./sg.ts";
import type { Swiotlb } from "./swiotlb.ts";

/** Memory that the CPU and a device share for long. */
export interface CoherentBuffer {
  readonly pa: number;
  readonly dma: number;
  /** Bytes, whole pages. */
  readonly size: number;
}

function isCoherent(dev: Device): boolean {
  return dev.node?.properties["dma-coherent"] === true;
}

/** Highest physical address of the entries' bytes. */
function highest(entries: readonly SgEntry[], count: number): number {
  let top = 0;
  for (let i = 0; i < count; i++) top = Math.max(top, entries[i]!.pa + entries[i]!.length - 1);
  return top;
}

/**
 * The kernel's DMA API. The device's domain decides: translated on its default paging domain, direct on identity or without
 * an IOMMU, -EIO on any other. Addresses are non-negative; negative results are errnos. `dir` is one of {@link DMA_DIR}.
 */
export class DmaApi {
  readonly #kernel: KernelContext;
  readonly #counters: Counters;
  readonly #maps: number;
  readonly #unmaps: number;
  readonly #iommu: DmaIommu;
  readonly #direct: DmaDirect;

  constructor(kernel: KernelContext, mapper: RangeMapper, swiotlb: Swiotlb) {
    this.#kernel = kernel;
    this.#counters = kernel.cpu.counters;
    this.#maps = this.#counters.id("dma.maps") + LEVEL.el1;
    this.#unmaps = this.#counters.id("dma.unmaps") + LEVEL.el1;
    this.#iommu = new DmaIommu(mapper);
    this.#direct = new DmaDirect(swiotlb);
  }

  /**
   * Maps the physically contiguous `[pa, pa + size)` for a DMA.
   * @returns the address to program into the device, or a negative errno
   */
  mapPage(dev: Device, pa: number, size: number, dir: number): number {
    const prot = dirProt(dir, isCoherent(dev));
    if (!(size > 0)) return -ERRNO.EINVAL;
    this.#counters.add(this.#maps, 1);
    const domain = domainOf(dev);
    if (domain === undefined || domain.type === "identity") return this.#direct.map(dev, pa, size, dir);
    const { iovas } = domain;
    return iovas === undefined ? -ERRNO.EIO : this.#iommu.map(dev, domain, iovas, pa, size, prot);
  }

  /** Ends a mapping made by {@link mapPage} with the same `size` and `dir`. 0, or -EINVAL when there is none. */
  unmapPage(dev: Device, dmaAddr: number, size: number, dir: number): number {
    this.#counters.add(this.#unmaps, 1);
    const domain = domainOf(dev);
    if (domain === undefined || domain.type === "identity") return this.#direct.unmap(dmaAddr, size, dir);
    const { iovas } = domain;
    return iovas === undefined ? -ERRNO.EIO : this.#iommu.unmap(domain, iovas, dmaAddr, size);
  }

  /**
   * Maps the first `count` entries. Translated: one contiguous IOVA range, adjacent entries joined. Direct: entry by entry.
   * @returns number of DMA segments written to the leading entries, or a negative errno with nothing mapped
   */
  mapSg(dev: Device, entries: readonly SgEntry[], dir: number, count: number = entries.length): number {
    const prot = dirProt(dir, isCoherent(dev));
    if (count < 1 || count > entries.length) return -ERRNO.EINVAL;
    this.#counters.add(this.#maps, 1);
    const domain = domainOf(dev);
    if (domain === undefined || domain.type === "identity") return this.#mapSgDirect(dev, entries, dir, count);
    const { iovas } = domain;
    return iovas === undefined ? -ERRNO.EIO : this.#iommu.mapSg(dev, domain, iovas, entries, count, prot);
  }

  /** Ends a mapping made by {@link mapSg} with the same entries, `dir` and `count`. 0 or a negative errno. */
  unmapSg(dev: Device, entries: readonly SgEntry[], dir: number, count: number = entries.length): number {
    if (count < 1 || count > entries.length) return -ERRNO.EINVAL;
    this.#counters.add(this.#unmaps, 1);
    const domain = domainOf(dev);
    if (domain === undefined || domain.type === "identity") return this.#unmapSgDirect(entries, dir, count);
    const { iovas } = domain;
    return iovas === undefined ? -ERRNO.EIO : this.#iommu.unmapSg(domain, iovas, entries, count);
  }

  /** Zeroed, physically contiguous memory that `dev` may read and write; or a negative errno. */
  allocCoherent(dev: Device, size: number): CoherentBuffer | number {
    const { pages, memory } = this.#kernel;
    const bytes = alignUp(size, PAGE_SIZE);
    const domain = domainOf(dev);
    const direct = domain === undefined || domain.type === "identity";
    const pa = direct && dev.dmaMaskBits < 64 ? pages.alloc(bytes, PAGE_SIZE, dev.dmaMask) : pages.alloc(bytes);
    if (pa < 0) return pa;
    memory.fill(pa, bytes, 0);
    const dma = this.mapPage(dev, pa, bytes, DMA_DIR.bidirectional);
    if (dma < 0) {
      pages.free(pa, bytes);
      return dma;
    }
    return { pa, dma, size: bytes };
  }

  /** Frees what {@link allocCoherent} returned. 0 or a negative errno (the memory is freed either way). */
  freeCoherent(dev: Device, buffer: CoherentBuffer): number {
    const status = this.unmapPage(dev, buffer.dma, buffer.size, DMA_DIR.bidirectional);
    this.#kernel.pages.free(buffer.pa, buffer.size);
    return status;
  }

  /** Maps device space, e.g. the page of an MSI doorbell; never bounced. The DMA address, or a negative errno. */
  mapResource(dev: Device, pa: number, size: number, dir: number): number {
    const prot = dirProt(dir, false) | PROT.MMIO | PROT.NOEXEC;
    if (!(size > 0)) return -ERRNO.EINVAL;
    this.#counters.add(this.#maps, 1);
    const domain = domainOf(dev);
    if (domain === undefined || domain.type === "identity") return pa + size - 1 <= dev.dmaMask ? pa : -ERRNO.EIO;
    const { iovas } = domain;
    return iovas === undefined ? -ERRNO.EIO : this.#iommu.map(dev, domain, iovas, pa, size, prot);
  }

  /** Ends a mapping made by {@link mapResource}. 0 or a negative errno. */
  unmapResource(dev: Device, dmaAddr: number, size: number, dir: number): number {
    return this.unmapPage(dev, dmaAddr, size, dir);
  }

  #mapSgDirect(dev: Device, entries: readonly SgEntry[], dir: number, count: number): number {
    const reachable = highest(entries, count) <= dev.dmaMask;
    for (let i = 0; i < count; i++) {
      const entry = entries[i]!;
      const address = reachable ? entry.pa : this.#direct.map(dev, entry.pa, entry.length, dir);
      if (address < 0) {
        if (i > 0) this.#unmapSgDirect(entries, dir, i);
        return address;
      }
      entry.dmaAddress = address;
      entry.dmaLength = entry.length;
    }
    return count;
  }

  #unmapSgDirect(entries: readonly SgEntry[], dir: number, count: number): number {
    let status = 0;
    for (let i = 0; i < count; i++) {
      const result = this.#direct.unmap(entries[i]!.dmaAddress, entries[i]!.length, dir);
      if (status === 0) status = result;
    }
    return status;
  }
}

/** Domain that the DMA of `dev` goes through; `undefined` without an IOMMU. */
function domainOf(dev: Device): IommuDomain | undefined {
  return deviceIommu(dev)?.group?.domain;
}
