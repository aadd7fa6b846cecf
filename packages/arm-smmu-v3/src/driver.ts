import { ERRNO } from "@smmuv3/platform";
import type { Device, Driver, KernelContext } from "@smmuv3/driver-core";
import type { IommuCore } from "@smmuv3/iommu-core";
import { EventHandlers } from "./events.ts";
import { IdAllocator } from "./ids.ts";
import type { Backend, ImplOps } from "./impl.ts";
import { hasPairedHooks } from "./iommufd.ts";
import { NativeBackend } from "./native.ts";
import { createOps, createStaticDomains } from "./ops.ts";
import type { StaticDomains } from "./ops.ts";
import { smmuParams } from "./params.ts";
import type { SmmuParamOptions, SmmuParams } from "./params.ts";
import { SmmuDevice } from "./smmu.ts";
import { Tegra241Impl } from "./tegra241.ts";
import type { Tegra241Options } from "./tegra241.ts";

export interface ArmSmmuV3Options extends SmmuParamOptions, Tegra241Options {
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
  readonly #impl: ImplOps | undefined;
  readonly #tegra241: Tegra241Options;
  readonly #params: SmmuParams;
  readonly #domains: StaticDomains;
  /** One space for all SMMUs, so that a domain's ASID is the same everywhere. */
  readonly #asids: IdAllocator = new IdAllocator();
  #probed = 0;

  constructor(kernel: KernelContext, iommu: IommuCore, options: ArmSmmuV3Options) {
    this.#kernel = kernel;
    this.#iommu = iommu;
    this.#impl = options.impl;
    this.#tegra241 = options;
    this.#params = smmuParams(options);
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
    const smmu = SmmuDevice.fromFirmware(this.#kernel, this.#iommu, dev, this.#params, this.#probed++);
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
    }, handlers);
    if (status === 0) {
      status = this.#register(smmu, backend);
      if (status === 0) return 0;
      backend.disable();
    }
    backend.remove?.();
    this.#forget(smmu);
    return status;
  }

  #register(smmu: SmmuDevice, backend: Backend): number {
    const ops = createOps(smmu, backend, this.#domains, smmu.impl ?? NO_IMPL);
    const { maxPasids } = backend;
    smmu.instance = { name: smmu.name, ops, dev: smmu.dev, node: smmu.node, ...(maxPasids === undefined ? {} : { maxPasids }) };
    this.smmus.push(smmu);
    return this.#iommu.register(smmu.instance);
  }

  /** The implementation's back end, else the driver's own. */
  #backend(smmu: SmmuDevice): Backend | number {
    const impl: ImplOps = this.#impl ?? Tegra241Impl.create(smmu, this.#tegra241) ?? NO_IMPL;
    smmu.impl = impl;
    const other = impl.probe?.(smmu) ?? -ERRNO.ENODEV;
    if (other !== -ERRNO.ENODEV && other !== -ERRNO.ENOSYS) return other;
    if (!hasPairedHooks(impl)) return -ERRNO.EINVAL;
    return NativeBackend.create(smmu, impl, this.#asids);
  }

  #remove(dev: Device): void {
    const smmu = this.#of(dev);
    if (smmu === undefined) return;
    if (smmu.instance !== undefined) this.#iommu.unregister(smmu.instance);
    smmu.backend?.disable();
    smmu.backend?.remove?.();
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
