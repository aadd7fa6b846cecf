export { allocIoPgtable } from "./alloc.ts";
export { IO_PGTABLE_QUIRK, IOMMU_PROT } from "./config.ts";
export type { IoPgtableConfig, IoPgtableFormat, IommuFlushOps, IotlbGather, WarnReason } from "./config.ts";
export { DESC, DESC_TYPE } from "./descriptor.ts";
export type { Tcr, Vtcr } from "./geometry.ts";
export type { IoPgtable } from "./io-pgtable.ts";
export type { DirtyVisitor, LeafVisitor, WalkVisitor } from "./visit.ts";
