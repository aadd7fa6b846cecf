export { DmaApi } from "./dma.ts";
export type { CoherentBuffer } from "./dma.ts";
export { DirtyBitmap } from "./dirty.ts";
export { DOMAIN_FLAG, IommuDomain } from "./domain.ts";
export type { DomainOps, DomainOptions, DomainType } from "./domain.ts";
export { FaultLog } from "./faults.ts";
export { fromDeviceTree, fromIort, IORT_MODEL } from "./firmware-tables.ts";
export type {
  DtNode, FirmwareTables, IdMap, IortNamedComponent, IortNode, IortRmr, IortRootComplex, IortSmmuV3, Rmr,
} from "./firmware-tables.ts";
export { FLUSH_QUEUE_SIZE, FLUSH_QUEUE_TIMEOUT, FlushQueue } from "./flush-queue.ts";
export { IotlbGather } from "./gather.ts";
export { IommuGroup } from "./group.ts";
export { IommuCore } from "./iommu-core.ts";
export type { IommuCoreOptions } from "./iommu-core.ts";
export { FAULT_PERM, IopfGroup } from "./iopf.ts";
export type { IopfHandler, PageRequest, PageResponse } from "./iopf.ts";
export { IOVA_LIMIT, IovaAllocator } from "./iova.ts";
export type { IovaOptions } from "./iova.ts";
export { RangeMapper } from "./map.ts";
export { Mm } from "./mm.ts";
export type { FaultHandler, MmTable, MmuNotifier } from "./mm.ts";
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
export { pasidLimit } from "./pasid.ts";
export { DMA_DIR, PROT, dirProt } from "./prot.ts";
export { sgEntry } from "./sg.ts";
export type { SgEntry } from "./sg.ts";
export type { SvaHandle } from "./sva.ts";
export { Swiotlb } from "./swiotlb.ts";
export { copyUserData, copyUserEntry, isZero, Viommu } from "./viommu.ts";
export type { HwInfo, HwQueue, UserData, UserDataArray, UserDataOut, Vdevice, ViommuHost, ViommuOps } from "./viommu.ts";
