export { DmaApi } from "./dma.ts";
export type { CoherentBuffer } from "./dma.ts";
export { IommuDomain } from "./domain.ts";
export type { DomainOps, DomainOptions, DomainType } from "./domain.ts";
export { FaultLog } from "./faults.ts";
export { FLUSH_QUEUE_SIZE, FLUSH_QUEUE_TIMEOUT, FlushQueue } from "./flush-queue.ts";
export { IotlbGather } from "./gather.ts";
export { IommuGroup } from "./group.ts";
export { IommuCore } from "./iommu-core.ts";
export type { IommuCoreOptions } from "./iommu-core.ts";
export { IOVA_LIMIT, IovaAllocator } from "./iova.ts";
export type { IovaOptions } from "./iova.ts";
export { RangeMapper } from "./map.ts";
export type {
  DefaultDomainType,
  FaultReport,
  Fwspec,
  IommuCapability,
  IommuFault,
  IommuInstance,
  IommuOps,
  ReservedRegion,
} from "./ops.ts";
export { DMA_DIR, PROT, dirProt } from "./prot.ts";
export { sgEntry } from "./sg.ts";
export type { SgEntry } from "./sg.ts";
export { Swiotlb } from "./swiotlb.ts";
