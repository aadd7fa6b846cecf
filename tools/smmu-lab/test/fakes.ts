// A kernel whose DMA API is the identity, on a real board with a pretended IOMMU.
import type { BootStatus, HostPort } from "@smmuv3/arch-common";
import type { SgEntry } from "@smmuv3/iommu-core";
import type { MapOperation, UnmapOperation } from "@smmuv3/dma-workload";
import type { Memory } from "@smmuv3/platform";
import { alignUp, join, PAGE_SIZE, TRANSLATION } from "@smmuv3/platform";
import type { Translator } from "@smmuv3/platform";
import type { Board } from "../src/index.ts";
import { createBoard } from "../src/index.ts";

export const DEVICE = "0000:00:01.0";
export const OTHER = "4000000.ethernet";

/** Answers for the pages in {@link mapped}, at their own address. */
export class FakeIommu implements Translator {
  paLo = 0;
  paHi = 0;
  readonly mapped: Set<number> = new Set<number>();
  /** Answers for everything. */
  open = false;
  /** Answers for nothing. */
  aborts = false;
  /** Page that `redirected` goes to in place of its own. */
  redirected = -1;
  target = -1;

  translate(_sid: number, _ssid: number, lo: number, hi: number): number {
    const page = Math.floor(join(lo, hi) / PAGE_SIZE);
    if (this.aborts || (!this.open && !this.mapped.has(page))) return TRANSLATION.abort;
    this.paLo = page === this.redirected ? this.target * PAGE_SIZE + (lo & (PAGE_SIZE - 1)) : lo;
    this.paHi = hi;
    return TRANSLATION.ok;
  }
}

export class FakePort implements HostPort {
  readonly status: BootStatus = {
    protectedMode: true,
    iommuAtEl2: true,
    translation: "strict",
    initcalls: [],
    deferrals: 0,
    iommus: [],
    poolBytes: 0,
    warnings: [],
  };
  readonly devices: readonly string[];
  coherentPa = 0;
  faultsReported = 0;
  attaches = 0;
  allocatedBytes = 0;
  /** Result of the next calls that map. */
  mapStatus = 0;
  /** Results of donations, in turn; 0 when there are none left. */
  readonly donations: number[] = [];
  /** Called at the end of every map. */
  onMap: (pa: number) => void = () => {};
  /** Called when a vCPU runs. */
  onRun: () => void = () => {};
  /** Called when a VM ends. */
  onDestroy: (pages: readonly number[]) => void = () => {};
  readonly #memory: Memory;
  readonly #iommu: FakeIommu;
  #next: number;

  constructor({ machine, streams }: Board, iommu: FakeIommu) {
    this.devices = streams.map(({ node }) => node);
    this.#memory = machine.memory;
    this.#iommu = iommu;
    this.#next = machine.memory.base;
  }

  dmaMap(_device: number, pa: number, size: number): number {
    if (this.mapStatus < 0) return this.mapStatus;
    this.#pages(pa, size, (page) => this.#iommu.mapped.add(page));
    this.onMap(pa);
    return pa;
  }

  dmaUnmap(_device: number, dma: number, size: number): number {
    this.#pages(dma, size, (page) => this.#iommu.mapped.delete(page));
    return 0;
  }

  dmaMapSg(device: number, entries: readonly SgEntry[]): number {
    for (const entry of entries) {
      const dma = this.dmaMap(device, entry.pa, entry.length);
      if (dma < 0) return dma;
      entry.dmaAddress = dma;
      entry.dmaLength = entry.length;
    }
    return entries.length;
  }

  dmaUnmapSg(device: number, entries: readonly SgEntry[]): number {
    for (const { dmaAddress, dmaLength } of entries) this.dmaUnmap(device, dmaAddress, dmaLength);
    return 0;
  }

  dmaAlloc(device: number, size: number): number {
    this.coherentPa = this.allocPages(size);
    return this.dmaMap(device, this.coherentPa, size);
  }

  dmaFree(device: number, pa: number, dma: number, size: number): number {
    this.freePages(pa, size);
    return this.dmaUnmap(device, dma, size);
  }

  dmaMapResource(device: number, pa: number, size: number): number {
    return this.dmaMap(device, pa, size);
  }

  dmaUnmapResource(device: number, dma: number, size: number): number {
    return this.dmaUnmap(device, dma, size);
  }

  allocPages(bytes: number): number {
    const pa = this.#next;
    this.#next += alignUp(bytes, PAGE_SIZE);
    this.allocatedBytes += alignUp(bytes, PAGE_SIZE);
    return pa;
  }

  freePages(_pa: number, bytes: number): void {
    this.allocatedBytes -= alignUp(bytes, PAGE_SIZE);
  }

  load32(pa: number): number {
    return this.#memory.load32(pa);
  }

  store32(pa: number, value: number): void {
    this.#memory.store32(pa, value);
  }

  vmCreate(): number {
    return 1;
  }

  vmDonate(_handle: number, pa: number): number {
    const status = this.donations.shift() ?? 0;
    if (status >= 0) this.#memory.fill(pa, PAGE_SIZE, 0);
    return status;
  }

  vmRun(): number {
    this.onRun();
    return 0;
  }

  vmDestroy(_handle: number, pages: readonly number[]): number {
    for (const pa of pages) this.#memory.fill(pa, PAGE_SIZE, 0);
    this.onDestroy(pages);
    return 0;
  }

  poll(): void {}

  #pages(pa: number, size: number, visit: (page: number) => void): void {
    for (let page = Math.floor(pa / PAGE_SIZE); page * PAGE_SIZE < pa + size; page++) visit(page);
  }
}

export interface Fakes {
  readonly board: Board;
  readonly port: FakePort;
  readonly iommu: FakeIommu;
}

export function fakes(): Fakes {
  const iommu = new FakeIommu();
  const board = createBoard({ devices: [DEVICE, OTHER], profile: "lazy", ramBytes: 4 << 20, translator: () => iommu });
  return { board, port: new FakePort(board, iommu), iommu };
}

export function mapOp(id: number, more: Partial<MapOperation> = {}): MapOperation {
  const place = { iova: 0xfffff000, pa: 0x4280_0000, size: PAGE_SIZE, segments: undefined } as const;
  return { kind: "map", id, device: DEVICE, api: "page", dir: 0, mapLines: 1, line: id, ...place, ...more };
}

export function unmapOp({ id, device, api, iova, size, line }: MapOperation): UnmapOperation {
  return { kind: "unmap", id, device, api, iova, size, line: line + 100 };
}
