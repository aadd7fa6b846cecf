import { ERRNO, hex, PAGE_SIZE } from "@smmuv3/platform";
import type { FirmwareNode, RegisterWindow } from "@smmuv3/platform";
import type { CommandSink } from "@smmuv3/arm-smmu-v3-common";
import type { Device, KernelContext, MsiMessage } from "@smmuv3/driver-core";
import type { IommuCore, IommuInstance } from "@smmuv3/iommu-core";
import type { CdTable } from "./cd-table.ts";
import type { SmmuDomain } from "./domain.ts";
import type { Backend, ImplOps } from "./impl.ts";
import type { SmmuParams } from "./params.ts";

/** Register space of an SMMU: two pages of 64K, or one where the second does not work. */
const MIN_MMIO = 0x2_0000;
const MIN_MMIO_PAGE0 = 0x1_0000;

/** What an implementation gets wrong that its ID registers do not say, or that integrators chose: from firmware. */
export interface SmmuQuirks {
  /** CMD_PREFETCH_CONFIG does harm. */
  readonly skipPrefetch: boolean;
  /** All registers are in page 0. */
  readonly page0RegsOnly: boolean;
  /** Instruction fetches of devices are to be data reads. */
  readonly instcfgData: boolean;
  /** CFGI and TLBI have to be sent twice. */
  readonly repeatInvalidations: boolean;
}

function quirksOf(node: FirmwareNode): SmmuQuirks {
  const has = (property: string): boolean => node.properties[property] === true;
  return {
    skipPrefetch: has("hisilicon,broken-prefetch-cmd"),
    page0RegsOnly: has("cavium,cn9900-broken-page1-regspace"),
    instcfgData: has("arm,instdata-override"),
    repeatInvalidations: node.compatible.includes("nvidia,tegra264-smmu"),
  };
}

/** Kind of domain behind a device's transactions without PASID. */
export type RidState = "identity" | "blocked" | "s1" | "s2" | "nested";

/** A device behind an SMMU (`arm_smmu_master`). */
export class Master {
  readonly smmu: SmmuDevice;
  readonly dev: Device;
  /** Distinct StreamIDs, ascending. */
  readonly sids: readonly number[];
  /** Its streams stall on faults. */
  stall: boolean = false;
  /** log2 of its PASIDs. */
  ssidBits: number = 0;
  /** Its writes are coherent whatever attributes it asks for. */
  canwbs: boolean = false;
  /** What its transactions without PASID do. */
  rid: RidState = "blocked";
  /** Domains that its STEs and CDs lead to, by PASID; 0: without. */
  readonly attached: Map<number, SmmuDomain> = new Map<number, SmmuDomain>();
  /** Its CDs; `undefined` before the first stage-1 attach. */
  cdTable: CdTable | undefined = undefined;
  /** The device uses ATS: its switch and STE.EATS. */
  atsEnabled: boolean = false;
  /** It works with ATS only: even untranslated traffic goes through a CD table. */
  atsAlwaysOn: boolean = false;
  /** Attachments whose faults are answered. */
  iopfRefs: number = 0;
  /** The virtual machine that it is a device of; of the code for virtual machines. */
  vmaster: unknown = undefined;

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
  readonly quirks: SmmuQuirks;
  readonly params: SmmuParams;
  /** Number among the SMMUs of the driver. */
  readonly number: number;
  /** By StreamID. */
  readonly masters: Map<number, Master> = new Map<number, Master>();
  /** Set when probe knows it. */
  backend: Backend | undefined = undefined;
  /** Hooks of its implementation; set before {@link backend}. */
  impl: ImplOps | undefined = undefined;
  /** Set while registered. */
  instance: IommuInstance | undefined = undefined;
  /** Interrupts requested. */
  readonly irqs: number[] = [];
  readonly #msis: MsiMessage[] = [];
  /**
   * Hands an event of a device that belongs to a virtual machine to that machine; false: it is not for it. Set by the code for virtual
   * machines.
   */
  forwardEvent: ((master: Master, record: Int32Array) => boolean) | undefined = undefined;
  /** Messages of events suppressed by the rate limit. */
  suppressed: number = 0;
  readonly #memory: (readonly [pa: number, bytes: number])[] = [];

  /** Use {@link SmmuDevice.fromFirmware}. */
  constructor(kernel: KernelContext, iommu: IommuCore, dev: Device, node: FirmwareNode, params: SmmuParams, number: number) {
    this.kernel = kernel;
    this.iommu = iommu;
    this.dev = dev;
    this.node = node;
    const reg = node.reg[0]!;
    this.quirks = quirksOf(node);
    this.params = params;
    this.number = number;
    this.mmioBase = reg.base;
    this.mmioBytes = reg.size;
    this.window = kernel.cpu.ioremap(reg.base, minMmio(this.quirks));
    this.coherent = node.properties["dma-coherent"] === true;
  }

  /** Firmware probe of a platform device, or of an auxiliary device with its parent's resources. A negative errno on failure. */
  static fromFirmware(
    kernel: KernelContext, iommu: IommuCore, dev: Device, params: SmmuParams, number: number,
  ): SmmuDevice | number {
    const node = dev.node ?? dev.parent?.node;
    if (node === undefined) return -ERRNO.ENODEV;
    const reg = node.reg[0];
    if (reg === undefined || reg.size < minMmio(quirksOf(node))) {
      kernel.log.err(`arm-smmu-v3 ${dev.name}: MMIO region too small`);
      return -ERRNO.EINVAL;
    }
    return new SmmuDevice(kernel, iommu, dev, node, params, number);
  }

  /** The command queue of the SMMU itself, where the kernel fills it. */
  get mainQueue(): CommandSink | undefined {
    return this.backend?.cmdq;
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

  /**
   * Message-signalled interrupts, all of `handlers` or none: the messages in that order; `undefined` where the platform has none or
   * not enough.
   */
  requestMsis(handlers: readonly (() => void)[]): MsiMessage[] | undefined {
    const { msi } = this.kernel;
    if (msi === undefined) return undefined;
    for (const handler of handlers) {
      const message = msi.alloc(this.dev, handler);
      if (typeof message === "number") {
        this.log("warn", "failed to allocate MSIs - falling back to wired irqs");
        this.#freeMsis();
        return undefined;
      }
      this.#msis.push(message);
    }
    return [...this.#msis];
  }

  #freeMsis(): void {
    for (const message of this.#msis) this.kernel.msi?.free(message);
    this.#msis.length = 0;
  }

  /** Undoes {@link requestInterrupts} and {@link requestMsis}. */
  freeInterrupts(): void {
    this.#freeMsis();
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

function minMmio(quirks: SmmuQuirks): number {
  return quirks.page0RegsOnly ? MIN_MMIO_PAGE0 : MIN_MMIO;
}
