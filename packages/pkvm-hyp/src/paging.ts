import { ERRNO } from "@smmuv3/platform";

import { WHEN } from "./calls.ts";
import type { Call, Context, HypModule } from "./calls.ts";
import { Domains } from "./domains.ts";
import { OWNER } from "./page-state.ts";

/** A call of the host on its domains. */
function host(run: (domains: Domains, a: number, b: number, c: number, d: number, e: number, f: number) => number): Call {
  return {
    ...WHEN.always,
    run: ({ domains }, a, b, c, d, e, f) => (domains === undefined ? -ERRNO.EOPNOTSUPP : run(domains, a, b, c, d, e, f)),
  };
}

const { host: HOST } = OWNER;

/** Paravirtual domains: the host maps, EL2 writes the tables. Needs IOMMU support. */
export const paging: HypModule = {
  init(context: Context): number {
    if (context.iommus === undefined) return -ERRNO.EINVAL;
    const domains = Domains.create(context.core, context.iommus);
    if (typeof domains === "number") return domains;
    context.domains = domains;
    return 0;
  },
  calls: {
    __pkvm_iommu_alloc_domain: host((domains, iommu, id, type) => domains.alloc(HOST, iommu, id, type)),
    __pkvm_iommu_free_domain: host((domains, id) => domains.free(HOST, id)),
    __pkvm_iommu_map_pages: host((domains, id, iova, pa, pgsize, count, prot) =>
      domains.map(HOST, id, iova, pa, pgsize, count, prot),
    ),
    __pkvm_iommu_unmap_pages: host((domains, id, iova, pgsize, count) => domains.unmap(HOST, id, iova, pgsize, count)),
    __pkvm_iommu_map_sg: host((domains, id, iova, list, entries, prot) =>
      domains.mapSg(HOST, id, iova, list, entries, prot),
    ),
    __pkvm_iommu_iova_to_phys: host((domains, id, iova) => domains.iovaToPhys(HOST, id, iova)),
  },
};
