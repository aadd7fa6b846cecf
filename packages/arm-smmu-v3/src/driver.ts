import { ERRNO } from "@smmuv3/platform";
import type { Device, Driver, KernelContext } from "@smmuv3/driver-core";
import type { IommuCore } from "@smmuv3/iommu-core";
import { EventHandlers } from "./events.ts";
import { IdAllocator } from "./ids.ts";
import type { Backend, ImplOps } from "./impl.ts";
import { NativeBackend } from "./native.ts";
import { createOps, createStaticDomains } from "./ops.ts";
import type { StaticDomains } from "./ops.ts";
import { SmmuDevice } from "./smmu.ts";

export interface ArmSmmuV3Options {
  /** Hooks of an implementation. */
  readonly impl?: ImplOps;
  /** Also bind auxiliary devices of this id, with the resources of their parent. */
  readonly auxiliaryId?: string;
  /** Bind platform devices; default true. */
  readonly platform?: boolean;
}

const NAME = "arm-smmu-v3";
const COMPATIBLE = "arm,smmu-v3";
const NO_IMPL: ImplOps = { name: "none" };

/** The driver of all SMMUs of one kernel. */
export class ArmSmmuV3 {
  /** Bound SMMUs, oldest first. */
  readonly smmus: SmmuDevice[] = [];
  readonly drivers: readonly Driver[];
  readonly #kernel: KernelContext;
  readonly #iommu: IommuCore;
  readonly #impl: ImplOps;
  readonly #domains: StaticDomains;
  /** One space for all SMMUs, so that a domain's ASID is the same everywhere. */
  readonly #asids: IdAllocator = new IdAllocator();

  constructor(kernel: KernelContext, iommu: IommuCore, options: ArmSmmuV3Options) {
    this.#kernel = kernel;
    this.#iommu = iommu;
    this.#impl = options.impl ?? NO_IMPL;
    this.#domains = createStaticDomains(iommu);
    const methods = {
      probe: (dev: Device) => this.#probe(dev),
      remove: (dev: Device) => {
        this.#remove(dev);
      },
      shutdown: (dev: Device) => {
        this.#of(dev)?.backend?.disable();
      },
    };
    const drivers: Driver[] = [];
    if (options.platform !== false) drivers.push({ name: NAME, bus: "platform", ids: [COMPATIBLE], ...methods });
    if (options.auxiliaryId !== undefined) {
      drivers.push({ name: `${NAME}.aux`, bus: "auxiliary", ids: [options.auxiliaryId], ...methods });
    }
    this.drivers = drivers;
  }

  #of(dev: Device): SmmuDevice | undefined {
    return this.smmus.find((smmu) => smmu.dev === dev);
  }

  #probe(dev: Device): number {
    const smmu = SmmuDevice.fromFirmware(this.#kernel, this.#iommu, dev);
    if (typeof smmu === "number") return smmu;
    const backend = this.#backend(smmu);
    if (typeof backend === "number") {
      smmu.freeMemory();
      return backend;
    }
    smmu.backend = backend;
    const handlers = new EventHandlers(smmu).byName();
    let status = backend.start(() => {
      smmu.requestInterrupts(handlers);
    });
    if (status === 0) {
      status = this.#register(smmu, backend);
      if (status === 0) return 0;
      backend.disable();
    }
    this.#forget(smmu);
    return status;
  }

  #register(smmu: SmmuDevice, backend: Backend): number {
    const ops = createOps(smmu, backend, this.#domains);
    smmu.instance = { name: smmu.name, ops, dev: smmu.dev, node: smmu.node };
    this.smmus.push(smmu);
    return this.#iommu.register(smmu.instance);
  }

  /** The implementation's back end, else the driver's own. */
  #backend(smmu: SmmuDevice): Backend | number {
    const other = this.#impl.probe?.(smmu) ?? -ERRNO.ENODEV;
    if (other !== -ERRNO.ENODEV && other !== -ERRNO.ENOSYS) return other;
    return NativeBackend.create(smmu, this.#impl, this.#asids);
  }

  #remove(dev: Device): void {
    const smmu = this.#of(dev);
    if (smmu === undefined) return;
    if (smmu.instance !== undefined) this.#iommu.unregister(smmu.instance);
    smmu.backend?.disable();
    this.#forget(smmu);
  }

  #forget(smmu: SmmuDevice): void {
    smmu.freeInterrupts();
    smmu.freeMemory();
    const at = this.smmus.indexOf(smmu);
    if (at >= 0) this.smmus.splice(at, 1);
  }
}

/**
 * Registers the SMMUv3 driver: for platform devices, and for auxiliary devices when an id is given.
 * @returns the driver; its `smmus` are those that are bound
 */
export function registerArmSmmuV3(
  kernel: KernelContext, iommu: IommuCore, options: ArmSmmuV3Options = {},
): ArmSmmuV3 {
  const driver = new ArmSmmuV3(kernel, iommu, options);
  for (const entry of driver.drivers) kernel.core.registerDriver(entry);
  return driver;
}
