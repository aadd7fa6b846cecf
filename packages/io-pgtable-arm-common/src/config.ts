import type { Memory } from "@smmuv3/platform";

/** Permission and attribute bits of a mapping, as `IOMMU_*` in Linux. */
export const IOMMU_PROT = {
  READ: 1,
  WRITE: 2,
  /** DMA is cache coherent. */
  CACHE: 4,
  NOEXEC: 8,
  /** Device memory, e.g. an MSI doorbell. */
  MMIO: 16,
  PRIV: 32,
} as const;

/** Format variations, as `IO_PGTABLE_QUIRK_*` in Linux. */
export const IO_PGTABLE_QUIRK = {
  /** Tables and leaves are non-secure. */
  ARM_NS: 0x1,
  /** Stage 1: the table of the upper half of the address space. */
  ARM_TTBR1: 0x20,
  /** Stage 1, non-coherent walker: outer write-back, write-allocate. */
  ARM_OUTER_WBWA: 0x40,
  /** Stage 1: hardware dirty state. */
  ARM_HD: 0x80,
  /** Stage 2: MemAttr by FEAT_S2FWB. */
  ARM_S2FWB: 0x100,
  /** Overlapping maps and unmaps of holes are expected: no {@link IoPgtableConfig.onWarn}. */
  NO_WARN: 0x200,
} as const;

/** Where tables live: what is used of a `Memory`, so that a worker can build it around a SharedArrayBuffer it was sent. */
export type TableRam = Pick<Memory, "words" | "perm" | "base" | "basePage" | "size" | "index">;

/** What the tables read of a range that is collected for invalidation. */
export interface IotlbGather {
  /** A later flush of everything covers it: no {@link IommuFlushOps.addPage}. */
  readonly queued: boolean;
}

/** Invalidations the tables ask for. Sizes are in bytes. Under `ARM_TTBR1`, IOVAs are negative (signed 64 bits). */
export interface IommuFlushOps {
  /** Everything of this address space. */
  flushAll(): void;
  /** `[iova, iova + size)`, walk caches included, before this returns: a table is about to be freed. */
  flushWalk(iova: number, size: number, granule: number): void;
  /** The leaf of `granule` bytes at `iova` went away. */
  addPage(gather: IotlbGather, iova: number, granule: number): void;
}

/** Reasons given to {@link IoPgtableConfig.onWarn}: where Linux prints a warning. */
export type WarnReason =
  | "bad page size"
  | "address out of range"
  | "already mapped"
  | "not mapped"
  | "partial unmap of a block"
  | "dirty range";

/** Names of the table formats, as in `ARM_*_LPAE*` of Linux. */
export type FormatName = "64_S1" | "64_S2" | "32_S1" | "32_S2" | "MALI";

export interface IoPgtableConfig {
  /** Where tables live; words are read and written in place after a permission check per 4K page. */
  readonly memory: TableRam;
  /** Set of page and block sizes the hardware has, e.g. `0x40201000`. */
  readonly pgsizeBitmap: number;
  /** Input address bits. */
  readonly ias: number;
  /** Output address bits: 32, 36, 40, 42, 44, 48 or 52. */
  readonly oas: number;
  /** The walker snoops the caches of the CPU. */
  readonly coherentWalk: boolean;
  /** Bits of {@link IO_PGTABLE_QUIRK}. */
  readonly quirks?: number;
  /** Granule to prefer. Default 4096. */
  readonly pageSize?: number;
  readonly tlb: IommuFlushOps;
  /** Physical address of `bytes` of memory aligned to `bytes` (need not be zero), or a negative number. */
  alloc(bytes: number): number;
  /** Takes back what `alloc` gave. */
  free(pa: number, bytes: number): void;
  /** Non-coherent walkers: makes `[pa, pa + bytes)` visible to the walker. */
  syncPte?(pa: number, bytes: number): void;
  /** Told where Linux would print a warning. */
  onWarn?(reason: WarnReason): void;
}
