export { DomainIds } from "./ids.ts";
export { PvDomain, PvIommu } from "./pv-iommu.ts";
export type { PagingLimits, PvIommuOptions, PvPaging } from "./pv-iommu.ts";
