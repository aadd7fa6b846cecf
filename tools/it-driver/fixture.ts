// A machine with one SMMUv3 and a few DMA masters behind it, a kernel with the driver bound, and what tests observe.
import type { Firmware, FirmwareNode, RegisterWindow } from "@smmuv3/platform";
import { registerArmSmmuV3 } from "@smmuv3/arm-smmu-v3";
import type { ArmSmmuV3, ArmSmmuV3Options, NativeBackend, SmmuDevice } from "@smmuv3/arm-smmu-v3";
import { createKernel } from "@smmuv3/driver-core";
import type { Device, Driver, KernelContext } from "@smmuv3/driver-core";
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
import { PRESETS, SmmuV3 } from "@smmuv3/smmu-v3-model";
import type { IdRegisters, SmmuV3Options } from "@smmuv3/smmu-v3-model";

export const RAM = 0x4000_0000;
export const RAM_BYTES: number = 96 << 20;
export const SMMU_BASE = 0x905_0000;
export const SMMU_BYTES = 0x2_0000;
const EVTQ_IRQ = 74;
const GERROR_IRQ = 77;
/** Memory that DMA may use: not the allocator's. */
export const BUFFER: number = RAM + (64 << 20);
export const RW: number = PROT.READ | PROT.WRITE | PROT.CACHE;

export interface RigOptions {
  readonly id?: IdRegisters;
  readonly model?: Partial<SmmuV3Options>;
  readonly driver?: ArmSmmuV3Options;
  readonly iommu?: IommuCoreOptions;
  /** StreamIDs of the clients; default one each. */
  readonly clients?: readonly (readonly number[])[];
  /** Runs before the driver is registered. */
  before?(rig: { machine: Machine; smmu: SmmuV3; kernel: KernelContext }): void;
}

/** One access to the SMMU's registers, e.g. `w CR0=0x8`. */
export type RegisterLog = string[];

export interface Client {
  readonly dev: Device;
  readonly group: IommuGroup;
  readonly sid: number;
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
  readonly clients: Client[];

  constructor(options: RigOptions = {}) {
    const machine = new Machine({ memory: { base: RAM, size: RAM_BYTES } });
    this.machine = machine;
    const irq = { evtq: machine.line(EVTQ_IRQ), gerror: machine.line(GERROR_IRQ) };
    this.smmu = new SmmuV3({
      memory: machine.memory, id: options.id ?? PRESETS.qemuStage1, counters: machine.counters, irq, ...options.model,
    });
    machine.addDevice("smmu", SMMU_BASE, SMMU_BYTES, logged(this.smmu.registers, this.registers));
    machine.onRelax(() => {
      this.smmu.tick();
    });
    const streams = options.clients ?? [[8], [9]];
    const firmware = firmwareOf(streams);
    const kernel = createKernel({ cpu: machine.host, firmware, ram: { base: RAM, size: 64 << 20 } });
    this.kernel = kernel;
    this.iommu = new IommuCore(kernel, { defaultDomainType: "identity", ...options.iommu });
    options.before?.({ machine, smmu: this.smmu, kernel });
    kernel.core.populate(firmware);
    this.driver = registerArmSmmuV3(kernel, this.iommu, options.driver);
    kernel.core.registerDriver(clientDriver);
    this.clients = streams.flatMap((sids, i) => {
      const dev = kernel.core.findByNode(`client${i}`)!;
      const group = this.iommu.groupOf(dev);
      return group === undefined ? [] : [{ dev, group, sid: sids[0]! }];
    });
  }

  /** The bound SMMU. */
  get device(): SmmuDevice {
    return this.driver.smmus[0]!;
  }

  get native(): NativeBackend {
    return this.device.backend as NativeBackend;
  }

  domain(client: Client = this.clients[0]!): IommuDomain {
    const domain = this.iommu.allocPaging(client.dev);
    if (typeof domain === "number") throw new Error(`allocPaging: ${domain}`);
    return domain;
  }

  attach(client: Client, domain: IommuDomain | "identity" | "blocked"): number {
    const { ops } = this.device.instance!;
    const target = domain === "identity" ? ops.identityDomain : domain === "blocked" ? ops.blockedDomain : domain;
    return this.iommu.attachGroup(client.group, target);
  }

  /** One DMA word; the TRANSLATION it had. */
  write(sid: number, iova: number, value: number): number {
    return this.machine.dmaMaster("dma", sid, this.smmu).write(iova, Int32Array.of(value));
  }

  /** Bytes of the STE of `sid` and of its CD. */
  tables(client: Client): Int32Array[] {
    const memory = this.machine.memory;
    const ste = new Int32Array(STE_BYTES / 4);
    memory.read(this.native.strtab.ste(client.sid), ste);
    const cdtab = this.device.masters.get(client.sid)!.cdtab;
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
      const name = COMMAND_NAMES.get(getField(words, 0, CMD.Opcode)) ?? "?";
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

function firmwareOf(streams: readonly (readonly number[])[]): Firmware {
  const none = { interrupts: {}, iommus: [], properties: {} };
  const smmu: FirmwareNode = {
    ...none,
    name: "smmuv3@9050000",
    compatible: ["arm,smmu-v3"],
    reg: [{ base: SMMU_BASE, size: SMMU_BYTES }],
    interrupts: { eventq: EVTQ_IRQ, gerror: GERROR_IRQ },
    properties: { "dma-coherent": true },
  };
  const clients = streams.map((sids, i) => ({
    ...none,
    name: `client${i}`,
    compatible: ["test,client"],
    reg: [],
    iommus: sids.map((id) => ({ iommu: smmu.name, id })),
  }));
  return { memory: { base: RAM, size: RAM_BYTES }, doorbells: [], nodes: [smmu, ...clients] };
}

function logged(window: RegisterWindow, log: RegisterLog): RegisterWindow {
  const name = (offset: number): string => REGISTER_AT.get(offset) ?? `0x${offset.toString(16)}`;
  return {
    get hi() {
      return window.hi;
    },
    read32: (offset) => window.read32(offset),
    read64: (offset) => window.read64(offset),
    write32(offset, value) {
      log.push(`${name(offset)}=0x${(value >>> 0).toString(16)}`);
      window.write32(offset, value);
    },
    write64(offset, lo, hi) {
      log.push(`${name(offset)}=0x${((hi >>> 0) * 2 ** 32 + (lo >>> 0)).toString(16)}`);
      window.write64(offset, lo, hi);
    },
  };
}
