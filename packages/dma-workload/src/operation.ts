/** `enum dma_data_direction` of Linux: which way the data goes, seen from memory. */
export const DMA_DIRECTION = { BIDIRECTIONAL: 0, TO_DEVICE: 1, FROM_DEVICE: 2, NONE: 3 } as const;
/** 0 both ways, 1 the device reads memory, 2 the device writes memory, 3 none. */
export type DmaDirection = (typeof DMA_DIRECTION)[keyof typeof DMA_DIRECTION];

/**
 * The call of the DMA API that an operation stands for: `dma_map_page` (and `_phys`, `_resource`), `dma_map_sg`,
 * `dma_alloc_coherent` (every `dma_alloc*`), or the mapping of the MSI doorbell that the IOMMU layer makes by itself.
 */
export type DmaApi = "page" | "sg" | "coherent" | "doorbell";

/** A device joins its domain. */
export interface AttachOperation {
  readonly kind: "attach";
  /** As the kernel names it, `0000:00:01.0` for PCI. */
  readonly device: string;
  /** Line of the recording that names it, from 1; 0 when there is none. */
  readonly line: number;
}

/** One physically contiguous piece of a scatter list. */
export interface Segment {
  /** Physical address in the recording. */
  readonly pa: number;
  /** Bytes. */
  readonly size: number;
}

/** One call that makes a mapping. */
export interface MapOperation {
  readonly kind: "map";
  /** Pairs this operation with its {@link UnmapOperation}; from 1, ascending, never used again. */
  readonly id: number;
  readonly device: string;
  readonly api: DmaApi;
  readonly dir: DmaDirection;
  /** DMA address in the recording, offset in the page included. A replay has its own allocator. */
  readonly iova: number;
  /** Physical address in the recording: a hint for a replay that has other memory. */
  readonly pa: number;
  /** Bytes the device may use. The pages that hold them are what is mapped. */
  readonly size: number;
  /** Of an `sg` operation, in order; undefined for the others. */
  readonly segments: readonly Segment[] | undefined;
  /** Number of `map:` lines that this call caused. */
  readonly mapLines: number;
  readonly line: number;
}

/** The call that ends the mapping `id`. */
export interface UnmapOperation {
  readonly kind: "unmap";
  readonly id: number;
  readonly device: string;
  readonly api: DmaApi;
  readonly iova: number;
  readonly size: number;
  readonly line: number;
}

/** What a harness replays, in order. One for each call of the DMA API, not for each line. */
export type Operation = AttachOperation | MapOperation | UnmapOperation;

const PCI_NAME = /^[0-9a-f]{4,8}:([0-9a-f]{2}):([01][0-9a-f])\.([0-7])$/;

/**
 * StreamID of a PCI function on a system that maps RequesterIDs one to one: bus << 8 | device << 3 | function. Throws
 * RangeError when `device` is not a name such as `0000:00:01.0`.
 */
export function streamId(device: string): number {
  const match = PCI_NAME.exec(device);
  if (match === null) throw new RangeError(`device: expected a PCI name such as 0000:00:01.0, got "${device}"`);
  const [, bus, slot, fn] = match;
  return (parseInt(bus!, 16) << 8) | (parseInt(slot!, 16) << 3) | parseInt(fn!, 16);
}
