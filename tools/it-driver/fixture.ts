// A machine with one SMMUv3 and a few DMA masters behind it, a kernel with the driver bound, and what tests observe.
import type { Firmware, FirmwareNode, RegisterWindow } from "@smmuv3/platform";
import { PagingDomain, registerArmSmmuV3 } from "@smmuv3/arm-smmu-v3";
import type { ArmSmmuV3, ArmSmmuV3Options, NativeBackend, SmmuDevice } from "@smmuv3/arm-smmu-v3";
import { createKernel } from "@smmuv3/driver-core";
import type { Device, Driver, KernelContext, KernelOptions, PciPort } from "@smmuv3/driver-core";
import { IommuCore, PROT } from "@smmuv3/iommu-core";
import type { IommuCoreOptions, IommuDomain, IommuGroup } from "@smmuv3/iommu-core";
import { Machine } from "@smmuv3/machine";
import {
  CD_BYTES,
  CMD,
  CMD_BYTES,
  COMMAND_NAMES,
  getField,
  maskOf,
  OFFSET,
  place,
  printCommand,
  REGISTER_AT,
  STE_BYTES,
} from "@smmuv3/smmu-v3-defs";
import type { Field } from "@smmuv3/smmu-v3-defs";
import { DeviceAtc, PRESETS, SmmuV3 } from "@smmuv3/smmu-v3-model";
import type { IdRegisters, SmmuV3Options } from "@smmuv3/smmu-v3-model";

export const RAM = 0x4000_0000;
export const RAM_BYTES: number = 96 << 20;
export const SMMU_BASE = 0x905_0000;
export const SMMU_BYTES = 0x2_0000;
const SECOND_BASE = 0x907_0000;
const EVTQ_IRQ = 74;
const GERROR_IRQ = 77;
const PRIQ_IRQ = 75;
/** Memory that DMA may use: not the allocator's. */
export const BUFFER: number = RAM + (64 << 20);
export const RW: number = PROT.READ | PROT.WRITE | PROT.CACHE;

export interface RigOptions {
  readonly id?: IdRegisters;
  readonly model?: Partial<SmmuV3Options>;
  readonly driver?: ArmSmmuV3Options;
  readonly iommu?: IommuCoreOptions;
  /** Clients, or only their StreamIDs; default two with one each. */
  readonly clients?: readonly (ClientSpec | readonly number[])[];
  /** A second SMMU; clients with `smmu: 1` are behind it. */
  readonly second?: boolean;
  /** More of the SMMU's firmware node. */
  readonly node?: Partial<FirmwareNode>;
  /** More nodes. */
  readonly nodes?: readonly FirmwareNode[];
  readonly kernel?: Partial<KernelOptions>;
  /** Runs before the driver is registered. */
  before?(rig: { machine: Machine; smmu: SmmuV3; kernel: KernelContext }): void;
}

/** A device behind an SMMU. */
export interface ClientSpec {
  readonly sids: readonly number[];
  /** A PCI function, of this name; else a platform device. */
  readonly pci?: string;
  readonly smmu?: 0 | 1;
  readonly properties?: FirmwareNode["properties"];
}

/** One access to the SMMU's registers, e.g. `w CR0=0x8`. */
export type RegisterLog = string[];

export interface Client {
  readonly dev: Device;
  readonly group: IommuGroup;
  readonly sid: number;
  /** The SMMU in front of it. */
  readonly smmu: SmmuV3;
}

/** A driver that has nothing to do: its device is bound so that the IOMMU core sets it up. */
const clientDriver: Driver = { name: "client", bus: "platform", ids: ["test,client"], probe: () => 0 };

export class Rig {
  readonly machine: Machine;
  readonly smmu: SmmuV3;
  readonly kernel: KernelContext;
  readonly iommu: IommuCore;
  readonly driver: ArmSmmuV3;
  readonly registers: RegisterLog = [];
  /** The same writes, exactly. */
  readonly writes: { readonly offset: number; readonly value: bigint }[] = [];
  readonly clients: Client[];
  /** The second SMMU. */
  readonly other: SmmuV3 | undefined;
  /** What happened at PCI functions: `ats on 8`. */
  readonly pci: string[] = [];
  /** Caches of devices whose ATS is on, by StreamID. */
  readonly atcs: Map<number, DeviceAtc> = new Map<number, DeviceAtc>();
  /** Called when a function's ATS is switched. */
  onAts: (sid: number, enabled: boolean) => void = () => {};

  constructor(options: RigOptions = {}) {
    const machine = new Machine({ memory: { base: RAM, size: RAM_BYTES } });
    this.machine = machine;
    const irq = { evtq: machine.line(EVTQ_IRQ), gerror: machine.line(GERROR_IRQ), priq: machine.line(PRIQ_IRQ) };
    this.smmu = new SmmuV3({
      memory: machine.memory, id: options.id ?? PRESETS.qemuStage1, counters: machine.counters, irq, ...options.model,
    });
    machine.addDevice("smmu", SMMU_BASE, SMMU_BYTES, logged(this.smmu.registers, this.registers, this.writes));
    machine.onRelax(() => {
      this.smmu.tick();
    });
    if (options.second === true) {
      this.other = new SmmuV3({ memory: machine.memory, id: options.id ?? PRESETS.qemuStage1, ...options.model });
      machine.addDevice("smmu1", SECOND_BASE, SMMU_BYTES, this.other.registers);
    }
    const specs = (options.clients ?? [[8], [9]]).map((spec): ClientSpec => ("sids" in spec ? spec : { sids: spec }));
    const firmware = firmwareOf(specs, options);
    const kernel = createKernel({
      cpu: machine.host, firmware, ram: { base: RAM, size: 64 << 20 }, pci: this.#pciPort(), ...options.kernel,
    });
    this.kernel = kernel;
    this.iommu = new IommuCore(kernel, { defaultDomainType: "identity", ...options.iommu });
    options.before?.({ machine, smmu: this.smmu, kernel });
    kernel.core.populate(firmware);
    this.driver = registerArmSmmuV3(kernel, this.iommu, options.driver);
    kernel.core.registerDriver(clientDriver);
    kernel.core.registerDriver({ ...clientDriver, bus: "pci" });
    this.clients = specs.flatMap((spec, i) => {
      const dev = kernel.core.findByNode(spec.pci ?? `client${i}`)!;
      const group = this.iommu.groupOf(dev);
      return group === undefined ? [] : [{ dev, group, sid: spec.sids[0]!, smmu: spec.smmu === 1 ? this.other! : this.smmu }];
    });
  }

  /** Where PCI functions are switched: with ATS on they ask for translations and keep them. */
  #pciPort(): PciPort {
    return {
      setAts: (dev, enabled) => {
        for (const { id: sid } of dev.node!.iommus) {
          this.pci.push(`ats ${enabled ? "on" : "off"} ${sid}`);
          if (enabled) this.atcs.set(sid, new DeviceAtc({ ats: this.smmu.ats, sid }));
          else this.atcs.delete(sid);
          this.onAts(sid, enabled);
        }
      },
      setPasid: (dev, enabled) => {
        this.pci.push(`pasid ${enabled ? "on" : "off"} ${dev.node!.iommus[0]!.id}`);
      },
    };
  }

  /** The bound SMMU. */
  get device(): SmmuDevice {
    return this.driver.smmus[0]!;
  }

  get native(): NativeBackend {
    return this.device.backend as NativeBackend;
  }

  domain(client: Client = this.clients[0]!, flags: number = 0): IommuDomain {
    const domain = this.iommu.allocPaging(client.dev, flags);
    if (typeof domain === "number") throw new Error(`allocPaging: ${domain}`);
    return domain;
  }

  /** A domain with tables of the driver's own. */
  paging(client: Client = this.clients[0]!, flags: number = 0): PagingDomain {
    const domain = this.domain(client, flags);
    if (!(domain instanceof PagingDomain)) throw new TypeError("not a paging domain");
    return domain;
  }

  attach(client: Client, domain: IommuDomain | "identity" | "blocked"): number {
    const { ops } = client.group.instance;
    const target = domain === "identity" ? ops.identityDomain : domain === "blocked" ? ops.blockedDomain : domain;
    return this.iommu.attachGroup(client.group, target);
  }

  /** One DMA word; the TRANSLATION it had. */
  write(sid: number, iova: number, value: number): number {
    return this.machine.dmaMaster("dma", sid, this.smmu).write(iova, Int32Array.of(value));
  }

  /** One DMA word of a client, with a PASID when given, through its cache when ATS is on. */
  dma(client: Client, iova: number, value: number, pasid: number = -1): number {
    const master = this.machine.dmaMaster("dma", client.sid, this.atcs.get(client.sid) ?? client.smmu);
    master.ssid = pasid;
    return master.write(iova, Int32Array.of(value));
  }

  /** One word that a client reads, or the TRANSLATION that it had instead, negative. */
  dmaRead(client: Client, iova: number, pasid: number = -1): number {
    const master = this.machine.dmaMaster("dma", client.sid, this.atcs.get(client.sid) ?? client.smmu);
    master.ssid = pasid;
    const out = new Int32Array(1);
    const status = master.read(iova, out);
    return status === 0 ? out[0]! : -status;
  }

  /** Words of the STE of `sid`. */
  ste(sid: number): Int32Array {
    const ste = new Int32Array(STE_BYTES / 4);
    this.machine.memory.read(this.native.strtab.ste(sid), ste);
    return ste;
  }

  /** Words of a client's CD. */
  cd(client: Client, ssid: number = 0): Int32Array {
    const cd = new Int32Array(CD_BYTES / 4);
    this.machine.memory.read(this.device.masters.get(client.sid)!.cdTable!.address(ssid), cd);
    return cd;
  }

  /** Bytes of the STE of `sid` and of its CD. */
  tables(client: Client): Int32Array[] {
    const memory = this.machine.memory;
    const ste = new Int32Array(STE_BYTES / 4);
    memory.read(this.native.strtab.ste(client.sid), ste);
    const cdtab = this.device.masters.get(client.sid)!.cdTable?.base ?? 0;
    const cd = new Int32Array(CD_BYTES / 4);
    if (cdtab !== 0) memory.read(cdtab, cd);
    return [ste, cd];
  }

  /** Commands that `action` inserts into the queue, as text. */
  trace(action: () => void): string[] {
    const from = this.#prod();
    action();
    return this.#commands(from).map((words) => printCommand(words));
  }

  /** {@link trace}, opcodes only, with `C(x)` for x followed by a SYNC. */
  golden(action: () => void): string[] {
    const from = this.#prod();
    action();
    const names: string[] = [];
    for (const words of this.#commands(from)) {
      // A SYNC that signalled by MSI was overwritten with zero.
      const name = words[0] === 0 ? "SYNC" : (COMMAND_NAMES.get(getField(words, 0, CMD.Opcode)) ?? "?");
      if (name === "SYNC") names.push(`C(${names.pop() ?? ""})`);
      else names.push(name);
    }
    return names;
  }

  #prod(): number {
    return this.smmu.registers.read32(OFFSET.CMDQ_PROD);
  }

  #commands(from: number): Int32Array[] {
    const { pa, log2 } = this.native.cmdq;
    const mask = (2 << log2) - 1;
    const commands: Int32Array[] = [];
    for (let at = from; at !== this.#prod(); at = (at + 1) & mask) {
      const words = new Int32Array(4);
      this.machine.memory.read(pa + (at & (mask >> 1)) * CMD_BYTES, words);
      commands.push(words);
    }
    return commands;
  }
}

/** `preset` with one field of an ID register changed. */
export function withField(preset: IdRegisters, field: Field<"IDR0" | "IDR1" | "IDR3" | "IDR5">, value: number): IdRegisters {
  return { ...preset, [field.of]: (preset[field.of] & ~maskOf(field)) | place(field, value) };
}

function firmwareOf(specs: readonly ClientSpec[], options: RigOptions): Firmware {
  const none = { interrupts: {}, iommus: [], properties: {} };
  const smmu: FirmwareNode = {
    ...none,
    name: "smmuv3@9050000",
    compatible: ["arm,smmu-v3"],
    reg: [{ base: SMMU_BASE, size: SMMU_BYTES }],
    interrupts: { eventq: EVTQ_IRQ, gerror: GERROR_IRQ },
    ...options.node,
    properties: { "dma-coherent": true, ...options.node?.properties },
  };
  const second: FirmwareNode = {
    ...smmu, name: "smmuv3@9070000", reg: [{ base: SECOND_BASE, size: SMMU_BYTES }], interrupts: {},
  };
  const clients = specs.map((spec, i) => ({
    ...none,
    name: spec.pci ?? `client${i}`,
    compatible: ["test,client"],
    reg: [],
    iommus: spec.sids.map((id) => ({ iommu: spec.smmu === 1 ? second.name : smmu.name, id })),
    properties: spec.properties ?? {},
  }));
  const smmus = options.second === true ? [smmu, second] : [smmu];
  return { memory: { base: RAM, size: RAM_BYTES }, doorbells: [], nodes: [...smmus, ...(options.nodes ?? []), ...clients] };
}

function logged(window: RegisterWindow, log: RegisterLog, writes: { offset: number; value: bigint }[]): RegisterWindow {
  const name = (offset: number): string => REGISTER_AT.get(offset) ?? `0x${offset.toString(16)}`;
  return {
    get hi() {
      return window.hi;
    },
    read32: (offset) => window.read32(offset),
    read64: (offset) => window.read64(offset),
    write32(offset, value) {
      log.push(`${name(offset)}=0x${(value >>> 0).toString(16)}`);
      writes.push({ offset, value: BigInt(value >>> 0) });
      window.write32(offset, value);
    },
    write64(offset, lo, hi) {
      log.push(`${name(offset)}=0x${((hi >>> 0) * 2 ** 32 + (lo >>> 0)).toString(16)}`);
      writes.push({ offset, value: BigInt.asUintN(64, (BigInt(hi) << 32n) | BigInt(lo >>> 0)) });
      window.write64(offset, lo, hi);
    },
  };
}
