import type { FirmwareNode } from "@smmuv3/platform";
import { PciFunction } from "./pci.ts";
import type { PciPort } from "./pci.ts";

/** Buses. Devices of `platform` and `pci` come from firmware; drivers create those of `auxiliary` and `faux`. */
export type BusName = "platform" | "pci" | "auxiliary" | "faux";

/** A device driver. */
export interface Driver {
  readonly name: string;
  readonly bus: BusName;
  /**
   * What it matches: `compatible` strings on platform and pci, device ids on auxiliary (e.g. `protected_kvm.smmu_v3_emu`),
   * nothing on faux, whose devices bring their driver.
   */
  readonly ids: readonly string[];
  /** Maps for its devices by itself (VFIO), instead of using the DMA API: it may bind devices whose IOMMU group is owned. */
  readonly managesDma?: boolean;
  /** Binds. 0, or a negative errno: -EPROBE_DEFER to be called again later, others leave the device unbound. */
  probe(dev: Device): number;
  /** Undoes {@link probe}: device removal, driver removal, unbind. */
  remove?(dev: Device): void;
  /** Quiesces at power-off; the device stays bound. */
  shutdown?(dev: Device): void;
}

export interface DeviceOptions {
  readonly name: string;
  readonly bus: BusName;
  readonly parent?: Device | undefined;
  /** Register windows, interrupts, `iommus`; devices of auxiliary and faux have none: their drivers use the parent's. */
  readonly node?: FirmwareNode | undefined;
  /** Auxiliary only: the id that drivers match. */
  readonly id?: string | undefined;
  /** Address bits that the device drives; default: `dma-mask-bits` of the node, else 64. */
  readonly dmaMaskBits?: number | undefined;
  /** PCI only: how to reach its configuration space. */
  readonly pciPort?: PciPort | undefined;
}

/** `struct device`. */
export class Device {
  readonly name: string;
  readonly bus: BusName;
  readonly parent: Device | undefined;
  readonly node: FirmwareNode | undefined;
  readonly id: string | undefined;
  readonly children: Device[] = [];
  /** What a PCI function can do; `undefined` on other buses. */
  readonly pci: PciFunction | undefined;
  /** Address bits that the device drives (1..64); its driver may lower it in probe. */
  dmaMaskBits: number;
  /** The bound driver. */
  driver: Driver | undefined = undefined;
  /** The bound driver's own data. */
  drvdata: unknown = undefined;
  /** The IOMMU layer's state of this device; nobody else's. */
  iommu: unknown = undefined;
  /** How often binding it was deferred. */
  deferrals: number = 0;

  constructor(options: DeviceOptions) {
    this.name = options.name;
    this.bus = options.bus;
    this.parent = options.parent;
    this.node = options.node;
    this.id = options.id;
    this.pci = options.bus === "pci" ? new PciFunction(this, options.pciPort) : undefined;
    const firmwareBits = options.node?.properties["dma-mask-bits"];
    this.dmaMaskBits = options.dmaMaskBits ?? (typeof firmwareBits === "number" ? firmwareBits : 64);
  }

  /** Highest address that the device can emit. */
  get dmaMask(): number {
    return 2 ** this.dmaMaskBits - 1;
  }

  /** Place in sysfs, e.g. `devices/platform/smmuv3@9050000/arm-smmu-v3-emu.0`. */
  get path(): string {
    return this.parent === undefined ? `devices/${this.bus}/${this.name}` : `${this.parent.path}/${this.name}`;
  }
}
