import { ERRNO, hex, PAGE_SIZE } from "@smmuv3/platform";
import type { FirmwareNode, RegisterWindow } from "@smmuv3/platform";
import type { Device, KernelContext } from "@smmuv3/driver-core";
import type { IommuCore, IommuInstance } from "@smmuv3/iommu-core";
import type { SmmuDomain } from "./domain.ts";
import type { Backend } from "./impl.ts";

/** Register space of an SMMU: two pages of 64K. */
const MIN_MMIO = 0x2_0000;

/** A device behind an SMMU (`arm_smmu_master`). */
export class Master {
  readonly smmu: SmmuDevice;
  readonly dev: Device;
  /** Distinct StreamIDs, ascending. */
  readonly sids: readonly number[];
  /** Its streams stall on faults. */
  stall: boolean = false;
  /** Translating domain that its STEs point to. */
  domain: SmmuDomain | undefined = undefined;
  /** Address of its CD table; 0 before the first stage-1 attach. */
  cdtab: number = 0;

  constructor(smmu: SmmuDevice, dev: Device, sids: readonly number[]) {
    this.smmu = smmu;
    this.dev = dev;
    this.sids = sids;
  }
}

/** An SMMU as firmware describes it, with what does not depend on who programs it. */
export class SmmuDevice {
  readonly kernel: KernelContext;
  readonly iommu: IommuCore;
  /** The device that was probed. */
  readonly dev: Device;
  /** The SMMU's firmware node: of `dev`, or of its parent when `dev` is an auxiliary device. */
  readonly node: FirmwareNode;
  /** Registers; nothing was accessed yet when an implementation is asked. */
  readonly window: RegisterWindow;
  readonly mmioBase: number;
  readonly mmioBytes: number;
  /** The SMMU snoops caches, says firmware. */
  readonly coherent: boolean;
  /** By StreamID. */
  readonly masters: Map<number, Master> = new Map<number, Master>();
  /** Set when probe knows it. */
  backend: Backend | undefined = undefined;
  /** Set while registered. */
  instance: IommuInstance | undefined = undefined;
  /** Interrupts requested. */
  readonly irqs: number[] = [];
  /** Messages of events suppressed by the rate limit. */
  suppressed: number = 0;
  readonly #memory: (readonly [pa: number, bytes: number])[] = [];

  /** Use {@link SmmuDevice.fromFirmware}. */
  constructor(kernel: KernelContext, iommu: IommuCore, dev: Device, node: FirmwareNode) {
    this.kernel = kernel;
    this.iommu = iommu;
    this.dev = dev;
    this.node = node;
    const reg = node.reg[0]!;
    this.mmioBase = reg.base;
    this.mmioBytes = reg.size;
    this.window = kernel.cpu.ioremap(reg.base, MIN_MMIO);
    this.coherent = node.properties["dma-coherent"] === true;
  }

  /** Firmware probe of a platform device, or of an auxiliary device with its parent's resources. A negative errno on failure. */
  static fromFirmware(kernel: KernelContext, iommu: IommuCore, dev: Device): SmmuDevice | number {
    const node = dev.node ?? dev.parent?.node;
    if (node === undefined) return -ERRNO.ENODEV;
    const reg = node.reg[0];
    if (reg === undefined || reg.size < MIN_MMIO) {
      kernel.log.err(`arm-smmu-v3 ${dev.name}: MMIO region too small`);
      return -ERRNO.EINVAL;
    }
    return new SmmuDevice(kernel, iommu, dev, node);
  }

  get name(): string {
    return `smmu3.${hex(this.mmioBase)}`;
  }

  log(level: "err" | "warn" | "info", text: string): void {
    this.kernel.log.print(level, `arm-smmu-v3 ${this.node.name}: ${text}`);
  }

  /** Requests the interrupts that firmware names: `combined`, or one per queue; `handlers` by those names. */
  requestInterrupts(handlers: Readonly<Record<string, () => void>>): void {
    const { interrupts } = this.node;
    const names = interrupts["combined"] === undefined ? Object.keys(interrupts) : ["combined"];
    for (const name of names) {
      const handler = handlers[name];
      const intid = interrupts[name];
      if (handler === undefined || intid === undefined) continue;
      this.kernel.cpu.requestIrq(intid, handler);
      this.irqs.push(intid);
    }
  }

  /** Undoes {@link requestInterrupts}. */
  freeInterrupts(): void {
    for (const intid of this.irqs) this.kernel.cpu.freeIrq(intid);
    this.irqs.length = 0;
  }

  /** Zeroed pages that {@link freeMemory} gives back. Naturally aligned. The address, or a negative errno. */
  alloc(bytes: number): number {
    const pa = this.kernel.pages.allocZeroed(this.kernel.memory, bytes);
    if (pa >= 0) this.#memory.push([pa, bytes]);
    return pa;
  }

  /**
   * Ring for a queue of at most 2^`log2` entries: fewer when there is no memory for it, but a page at least.
   * @returns its address and log2 of its entries; or a negative errno as the address
   */
  allocQueue(log2: number, entryBytes: number): { pa: number; log2: number } {
    for (let size = log2; ; size--) {
      const pa = this.alloc(entryBytes * 2 ** size);
      if (pa >= 0 || entryBytes * 2 ** size <= PAGE_SIZE) return { pa, log2: size };
    }
  }

  /** Frees all that {@link alloc} gave. The SMMU must not use it any more. */
  freeMemory(): void {
    for (const [pa, bytes] of this.#memory) this.kernel.pages.free(pa, bytes);
    this.#memory.length = 0;
  }
}
