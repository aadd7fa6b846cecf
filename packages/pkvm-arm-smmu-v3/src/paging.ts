import { IOMMU_NO_PASID, IOMMU_STATE } from "@smmuv3/pkvm-abi";
import type { HypDomain, HypIommuDriver, HypIommuPaging, UnmapVisitor } from "@smmuv3/pkvm-hyp";
import { ERRNO } from "@smmuv3/platform";
import type { HypCpu } from "@smmuv3/platform";

import { IdentityDriver } from "./identity.ts";
import { resume, suspend } from "./power.ts";
import type { HypSmmu } from "./smmu.ts";
import { AddressSpace, newAddressSpace } from "./space.ts";
import { Streams } from "./streams.ts";

/** What {@link HypIommuPaging.allocDomain} kept of the domain. */
function spaceOf(domain: HypDomain): AddressSpace {
  return domain.data as AddressSpace;
}

/** {@link IdentityDriver} with paravirtual domains of either stage. */
class PagingDriver extends IdentityDriver implements HypIommuDriver, HypIommuPaging {
  readonly #cpu: HypCpu;
  readonly #streams: Streams[] = [];

  constructor(cpu: HypCpu) {
    super(cpu);
    this.#cpu = cpu;
  }

  get paging(): HypIommuPaging {
    return this;
  }

  allocDomain(iommu: number, domain: HypDomain): number {
    const { core } = this;
    const smmu = this.smmus[iommu];
    if (core === undefined || smmu === undefined) return -ERRNO.ENODEV;
    const space = newAddressSpace(core, this.smmus, smmu, domain);
    if (typeof space === "number") return space;
    domain.data = space;
    return 0;
  }

  freeDomain(domain: HypDomain, visit: UnmapVisitor): number {
    return spaceOf(domain).free(visit);
  }

  attach(iommu: number, sid: number, pasid: number, domain: HypDomain): number {
    const smmu = this.smmus[iommu];
    if (smmu === undefined) return -ERRNO.ENODEV;
    const space = spaceOf(domain);
    if (!smmu.hasSid(sid) || !space.fits(smmu)) return -ERRNO.EINVAL;
    smmu.lock.lock(this.#cpu);
    const status = this.#of(smmu).attach(sid, pasid, space);
    smmu.lock.unlock(this.#cpu);
    return status;
  }

  override setState(iommu: number, sid: number, pasid: number, state: number): number {
    const smmu = this.smmus[iommu];
    if (smmu === undefined || pasid === IOMMU_NO_PASID) return super.setState(iommu, sid, pasid, state);
    if (!smmu.hasSid(sid) || state !== IOMMU_STATE.blocking) return -ERRNO.EINVAL;
    smmu.lock.lock(this.#cpu);
    const status = this.#of(smmu).block(sid, pasid);
    smmu.lock.unlock(this.#cpu);
    return status;
  }

  mapPages(domain: HypDomain, iova: number, pa: number, pgsize: number, count: number, prot: number): number {
    return spaceOf(domain).map(iova, pa, pgsize, count, prot);
  }

  unmapPages(domain: HypDomain, iova: number, pgsize: number, count: number, visit: UnmapVisitor): number {
    return spaceOf(domain).unmap(iova, pgsize * count, visit);
  }

  iovaToPhys(domain: HypDomain, iova: number): number {
    return spaceOf(domain).lookUp(iova);
  }

  suspend(iommu: number): number {
    const smmu = this.smmus[iommu];
    if (smmu === undefined) return -ERRNO.ENODEV;
    smmu.lock.lock(this.#cpu);
    const status = suspend(smmu, this.events[iommu]);
    smmu.lock.unlock(this.#cpu);
    return status;
  }

  resume(iommu: number): number {
    const smmu = this.smmus[iommu];
    if (smmu === undefined) return -ERRNO.ENODEV;
    smmu.lock.lock(this.#cpu);
    const status = resume(this.#cpu, smmu, this.events[iommu]);
    smmu.lock.unlock(this.#cpu);
    return status;
  }

  protected override block(smmu: HypSmmu, sid: number): number {
    return this.#of(smmu).block(sid, IOMMU_NO_PASID);
  }

  protected override identity(smmu: HypSmmu, sid: number, ste: Int32Array): number {
    return this.#of(smmu).detach(sid, ste);
  }

  #of(smmu: HypSmmu): Streams {
    let streams = this.#streams[smmu.index];
    if (streams === undefined) this.#streams[smmu.index] = streams = new Streams(this.core!, smmu);
    return streams;
  }
}

/** EL2's SMMUv3 driver for designs in which the host asks by hypercall, with paging. */
export function pagingDriver(cpu: HypCpu): HypIommuDriver {
  return new PagingDriver(cpu);
}
