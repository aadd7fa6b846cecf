/**
 * Property of a device whose DMA is active at boot and goes to memory that firmware mapped one to one: its streams keep an
 * identity map instead of being blocked when an SMMU is taken over.
 */
export const BOOT_DMA_PROPERTY = "iommu-addresses";

/** A device as firmware describes it. */
export interface FirmwareNode {
  /** Unique, e.g. `smmuv3@9050000` or `0000:00:01.0`. */
  readonly name: string;
  /** Binding names, best first, e.g. `arm,smmu-v3`. */
  readonly compatible: readonly string[];
  /** Register windows. */
  readonly reg: readonly { readonly base: number; readonly size: number }[];
  /** Interrupts by name. */
  readonly interrupts: Readonly<Record<string, number>>;
  /** `iommus` property: StreamIDs behind which IOMMU node. */
  readonly iommus: readonly { readonly iommu: string; readonly id: number }[];
  /** Boolean and numeric properties, e.g. `dma-coherent`, `dma-mask-bits`. */
  readonly properties: Readonly<Record<string, boolean | number>>;
}

/** What firmware tells every level about the machine: a flattened device tree as data. */
export interface Firmware {
  readonly memory: { readonly base: number; readonly size: number };
  /** Device space that is not in any node's `reg` but may be reached by DMA, e.g. the MSI doorbell. */
  readonly doorbells: readonly { readonly base: number; readonly size: number }[];
  readonly nodes: readonly FirmwareNode[];
}
