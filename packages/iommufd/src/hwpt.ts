import type { IommuCore, IommuDomain } from "@smmuv3/iommu-core";
import type { FaultQueue } from "./fault.ts";
import type { Ioas } from "./ioas.ts";
import { IommufdObject } from "./objects.ts";
import type { ViommuObject } from "./viommu.ts";

/** A page table of an IOMMU (`struct iommufd_hw_pagetable`). */
export abstract class Hwpt extends IommufdObject {
  readonly domain: IommuDomain;
  /** Where page requests of its devices go. */
  readonly fault: FaultQueue | undefined;
  /** It was made for PASIDs. */
  readonly pasid: boolean;
  protected readonly core: IommuCore;

  constructor(core: IommuCore, domain: IommuDomain, fault: FaultQueue | undefined, pasid: boolean) {
    super();
    this.core = core;
    this.domain = domain;
    this.fault = fault;
    this.pasid = pasid;
    if (fault === undefined) return;
    fault.users++;
    domain.iopfHandler = (group) => fault.deliver(group);
  }

  /** The page table over the address space below it. */
  abstract get paging(): HwptPaging;

  destroy(): void {
    this.core.freeDomain(this.domain);
    if (this.fault !== undefined) this.fault.users--;
  }
}

/** Over an address space. */
export class HwptPaging extends Hwpt {
  readonly kind = "hwpt-paging";
  readonly ioas: Ioas;
  readonly nestParent: boolean;
  /** Made by attaching a device to the address space: goes with the last device. */
  readonly auto: boolean;

  constructor(
    core: IommuCore, domain: IommuDomain, ioas: Ioas,
    options: { fault?: FaultQueue | undefined; pasid: boolean; nestParent: boolean; auto: boolean },
  ) {
    super(core, domain, options.fault, options.pasid);
    this.ioas = ioas;
    this.nestParent = options.nestParent;
    this.auto = options.auto;
    ioas.users++;
  }

  get paging(): this {
    return this;
  }

  override destroy(): void {
    this.ioas.removeDomain(this.domain);
    this.ioas.users--;
    super.destroy();
  }
}

/** A virtual machine's, over a paging one. */
export class HwptNested extends Hwpt {
  readonly kind = "hwpt-nested";
  readonly viommu: ViommuObject;

  constructor(core: IommuCore, domain: IommuDomain, viommu: ViommuObject, fault: FaultQueue | undefined) {
    super(core, domain, fault, false);
    this.viommu = viommu;
    viommu.users++;
  }

  get paging(): HwptPaging {
    return this.viommu.hwpt;
  }

  override destroy(): void {
    super.destroy();
    this.viommu.users--;
  }
}
