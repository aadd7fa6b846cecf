import type { Device } from "@smmuv3/driver-core";
import type { Swiotlb } from "./swiotlb.ts";

/** The DMA API without translation: the DMA address is the physical one, or that of a bounce buffer. */
export class DmaDirect {
  readonly #swiotlb: Swiotlb;

  constructor(swiotlb: Swiotlb) {
    this.#swiotlb = swiotlb;
  }

  /** DMA address of `[pa, pa + size)`, or -ENOMEM. */
  map(dev: Device, pa: number, size: number, dir: number): number {
    const mask = dev.dmaMask;
    if (pa + size - 1 <= mask) return pa;
    return this.#swiotlb.map(pa, size, dir, mask);
  }

  /** 0 or a negative errno. */
  unmap(dmaAddr: number, size: number, dir: number): number {
    return this.#swiotlb.contains(dmaAddr) ? this.#swiotlb.unmap(dmaAddr, size, dir) : 0;
  }
}
