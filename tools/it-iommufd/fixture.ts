// A machine with an SMMUv3 that nests, a kernel whose devices a virtual machine monitor drives, and an open iommufd.
import { Memory } from "@smmuv3/platform";
import type { Firmware, FirmwareNode } from "@smmuv3/platform";
import { registerArmSmmuV3, VIOMMU_ARM_SMMUV3 } from "@smmuv3/arm-smmu-v3";
import type { ArmSmmuV3, ArmSmmuV3Options, NativeBackend } from "@smmuv3/arm-smmu-v3";
import { makeCdtableSte, makeS1Cd } from "@smmuv3/arm-smmu-v3-common";
import { createKernel, PageAllocator } from "@smmuv3/driver-core";
import type { Device, Driver, KernelContext } from "@smmuv3/driver-core";
import { allocIoPgtable } from "@smmuv3/io-pgtable-arm-common";
import type { IoPgtable } from "@smmuv3/io-pgtable-arm-common";
import { IommuCore, PROT } from "@smmuv3/iommu-core";
import { Iommufd, UserMemory } from "@smmuv3/iommufd";
import type { IommufdOptions, RequestArgs, RequestName } from "@smmuv3/iommufd";
import { Machine } from "@smmuv3/machine";
import { CD_BYTES, CMD, CMD_BYTES, COMMAND_NAMES, getField, OFFSET, printCommand, STE_BYTES, STE_S1DSS, STE_S1FMT } from "@smmuv3/smmu-v3-defs";
import { DeviceAtc, PRESETS, SmmuV3 } from "@smmuv3/smmu-v3-model";
import type { IdRegisters, ProfileName } from "@smmuv3/smmu-v3-model";

export const PAGE = 0x1000;
const RAM = 0x4000_0000;
const RAM_BYTES: number = 96 << 20;
const SMMU = [0x905_0000, 0x907_0000] as const;
const SMMU_BYTES = 0x2_0000;
const EVTQ_IRQ = 74;
const GERROR_IRQ = 77;

/** Memory of the virtual machine: where it is, where its monitor has it, and where the machine itself has it. */
export const GUEST_PA: number = RAM + (48 << 20);
export const GUEST_BYTES: number = 32 << 20;
export const GUEST_VA = 0x7f00_0000_0000;
export const IPA = 0x8000_0000;
/** Pages for requests. */
const SCRATCH_VA = 0x10_0000;
const SCRATCH_PA: number = GUEST_PA + GUEST_BYTES;
const SCRATCH_BYTES: number = 64 << 10;
export const MAP = 7;
export const RW: number = PROT.READ | PROT.WRITE | PROT.CACHE;

export interface ClientSpec {
  readonly sids: readonly number[];
  readonly pci?: string;
  readonly smmu?: 0 | 1;
  readonly properties?: FirmwareNode["properties"];
}

export interface HostOptions {
  readonly id?: IdRegisters;
  readonly profile?: ProfileName;
  readonly driver?: ArmSmmuV3Options;
  readonly iommufd?: IommufdOptions;
  readonly clients?: readonly ClientSpec[];
  readonly second?: boolean;
  readonly node?: Partial<FirmwareNode>;
  /** Other nodes. */
  readonly nodes?: readonly FirmwareNode[];
  /** Runs before the kernel boots. */
  before?(machine: Machine, smmu: SmmuV3): void;
}

const vfio: Driver = { name: "vfio", bus: "platform", ids: ["test,client"], managesDma: true, probe: () => 0 };

export class Host {
  readonly machine: Machine;
  readonly smmu: SmmuV3;
  readonly kernel: KernelContext;
  readonly iommu: IommuCore;
  readonly driver: ArmSmmuV3;
  readonly devices: readonly Device[];
  readonly user: UserMemory;
  readonly fd: Iommufd;
  /** What happened at PCI functions: `ats on 8`. */
  readonly pci: string[] = [];
  readonly atcs: Map<number, DeviceAtc> = new Map<number, DeviceAtc>();

  constructor(options: HostOptions = {}) {
    const machine = new Machine({ memory: { base: RAM, size: RAM_BYTES } });
    this.machine = machine;
    const id = options.id ?? PRESETS.mmu700;
    const profile = options.profile ?? "lazy";
    const { memory, counters } = machine;
    const irq = { evtq: machine.line(EVTQ_IRQ), gerror: machine.line(GERROR_IRQ) };
    // It does not see what devices look up by ATS.
    const ats = options.clients?.some(({ properties }) => properties?.["ats-supported"] === true) === true;
    const model = { memory, id, profile, witness: profile !== "eager" && !ats };
    this.smmu = new SmmuV3({ ...model, counters, irq });
    machine.addDevice("smmu", SMMU[0], SMMU_BYTES, this.smmu.registers);
    machine.onRelax(() => {
      this.smmu.tick();
    });
    if (options.second === true) machine.addDevice("smmu1", SMMU[1], SMMU_BYTES, new SmmuV3(model).registers);
    options.before?.(machine, this.smmu);
    const specs = options.clients ?? [{ sids: [8] }, { sids: [9] }];
    const firmware = firmwareOf(specs, options);
    this.kernel = createKernel({
      cpu: machine.host,
      firmware,
      ram: { base: RAM, size: 48 << 20 },
      pci: {
        setAts: (dev, enabled) => {
          for (const { id: sid } of dev.node!.iommus) {
            this.pci.push(`ats ${enabled ? "on" : "off"} ${sid}`);
            if (enabled) this.atcs.set(sid, new DeviceAtc({ ats: this.smmu.ats, sid }));
            else this.atcs.delete(sid);
          }
        },
        setPasid: () => {},
      },
    });
    this.iommu = new IommuCore(this.kernel, { defaultDomainType: "identity" });
    this.kernel.core.populate(firmware);
    this.driver = registerArmSmmuV3(this.kernel, this.iommu, options.driver);
    this.kernel.core.registerDriver(vfio);
    this.kernel.core.registerDriver({ ...vfio, bus: "pci" });
    this.devices = specs.map((spec, i) => this.kernel.core.findByNode(spec.pci ?? `client${i}`)!);
    this.user = new UserMemory(this.kernel.memory);
    this.user.map(GUEST_VA, GUEST_PA, GUEST_BYTES);
    this.user.map(SCRATCH_VA, SCRATCH_PA, SCRATCH_BYTES);
    this.fd = new Iommufd(this.iommu, this.user, options.iommufd);
  }

  get native(): NativeBackend {
    return this.driver.smmus[0]!.backend as NativeBackend;
  }

  /** A member of what a request that must succeed leaves. */
  make<N extends RequestName>(name: N, args: Partial<RequestArgs<N>>, out: keyof RequestArgs<N>): number {
    const result = this.fd.call(name, args);
    if (result.status < 0) throw new Error(`${name}: ${result.status}`);
    return result[out];
  }

  bind(i: number): number {
    const id = this.fd.bind(this.devices[i]!);
    if (id < 0) throw new Error(`bind: ${id}`);
    return id;
  }

  /** Puts words where requests point to; their address. */
  words(words: Int32Array | readonly number[]): number {
    this.user.write(SCRATCH_VA, new Uint8Array(Int32Array.from(words).buffer));
    return SCRATCH_VA;
  }

  /** Words that a request left there. */
  result(count: number): Int32Array {
    const bytes = this.user.read(SCRATCH_VA, count * 4);
    if (typeof bytes === "number") throw new Error(`result: ${bytes}`);
    return new Int32Array(bytes.buffer);
  }

  /** Words of the STE of `sid`. */
  ste(sid: number): Int32Array {
    const ste = new Int32Array(STE_BYTES / 4);
    this.machine.memory.read(this.native.strtab.ste(sid), ste);
    return ste;
  }

  /** One DMA word, by the device's own cache where it has ATS; the TRANSLATION it had. */
  write(sid: number, iova: number, value: number, pasid: number = -1): number {
    const master = this.machine.dmaMaster("dma", sid, this.atcs.get(sid) ?? this.smmu);
    master.ssid = pasid;
    return master.write(iova, Int32Array.of(value));
  }

  /** Interrupts that wait are taken. */
  settle(): void {
    for (let i = 0; i < 4; i++) this.machine.host.relax();
  }

  /** Commands that `action` inserts into the main queue, as text; SYNCs as `SYNC`. */
  trace(action: () => void): string[] {
    const from = this.#prod();
    action();
    const { pa, log2 } = this.native.cmdq;
    const mask = (2 << log2) - 1;
    const out: string[] = [];
    for (let at = from; at !== this.#prod(); at = (at + 1) & mask) {
      const words = new Int32Array(4);
      this.machine.memory.read(pa + (at & (mask >> 1)) * CMD_BYTES, words);
      const name = COMMAND_NAMES.get(getField(words, 0, CMD.Opcode));
      out.push(name === "SYNC" || words[0] === 0 ? "SYNC" : printCommand(words));
    }
    return out;
  }

  #prod(): number {
    return this.smmu.registers.read32(OFFSET.CMDQ_PROD);
  }
}

function firmwareOf(specs: readonly ClientSpec[], options: HostOptions): Firmware {
  const none = { interrupts: {}, iommus: [], properties: {} };
  const smmus = SMMU.slice(0, options.second === true ? 2 : 1).map((base, i) => ({
    ...none,
    name: `smmuv3@${base.toString(16)}`,
    compatible: ["arm,smmu-v3"],
    reg: [{ base, size: SMMU_BYTES }],
    interrupts: i === 0 ? { eventq: EVTQ_IRQ, gerror: GERROR_IRQ } : {},
    ...options.node,
    properties: { "dma-coherent": true, ...options.node?.properties },
  }));
  const clients = specs.map((spec, i) => ({
    ...none,
    name: spec.pci ?? `client${i}`,
    compatible: ["test,client"],
    reg: [],
    iommus: spec.sids.map((id) => ({ iommu: smmus[spec.smmu ?? 0]!.name, id })),
    properties: spec.properties ?? {},
  }));
  return { memory: { base: RAM, size: RAM_BYTES }, doorbells: [], nodes: [...smmus, ...(options.nodes ?? []), ...clients] };
}

/** Ids of what a monitor makes first: a device, the address space with the guest's memory, a nest parent, a vIOMMU. */
export interface Stage2 {
  readonly dev: number;
  readonly ioas: number;
  readonly parent: number;
  readonly viommu: number;
}

export function stage2(host: Host, type: number = VIOMMU_ARM_SMMUV3): Stage2 {
  const dev = host.bind(0);
  const ioas = host.make("IOAS_ALLOC", {}, "out_ioas_id");
  host.make("IOAS_MAP", { ioas_id: ioas, flags: MAP, iova: IPA, user_va: GUEST_VA, length: GUEST_BYTES }, "iova");
  const parent = host.make("HWPT_ALLOC", { dev_id: dev, pt_id: ioas, flags: 1 }, "out_hwpt_id");
  const viommu = host.make("VIOMMU_ALLOC", { type, dev_id: dev, hwpt_id: parent }, "out_viommu_id");
  return { dev, ioas, parent, viommu };
}

/** Allocates a nested page table for a virtual STE. Its id, or a negative errno. */
export function nested(host: Host, dev: number, viommu: number, vste: Int32Array | readonly number[]): number {
  const data_uptr = host.words(vste);
  const result = host.fd.call("HWPT_ALLOC", { dev_id: dev, pt_id: viommu, data_type: 2, data_len: vste.length * 4, data_uptr });
  return result.status < 0 ? result.status : result.out_hwpt_id;
}

/** The tables of a guest without a kernel: one Context Descriptor and the page table that it leads to, in the guest's memory. */
export class GuestTables {
  readonly memory: Memory;
  readonly pgtable: IoPgtable;
  readonly asid: number;
  readonly #cd: number;
  readonly #stalls: boolean;

  /** @param stall transactions that fault wait */
  constructor(host: Host, asid: number = 5, stall: boolean = false) {
    this.#stalls = host.native.features.stalls && !stall;
    this.memory = host.machine.memory.window(GUEST_PA, GUEST_BYTES, IPA);
    this.asid = asid;
    const pages = new PageAllocator({ base: IPA, size: GUEST_BYTES / 2 });
    this.#cd = pages.allocZeroed(this.memory, CD_BYTES);
    this.pgtable = allocIoPgtable("64_S1", {
      memory: this.memory,
      pgsizeBitmap: 0x4020_1000,
      ias: 39,
      oas: 40,
      coherentWalk: true,
      tlb: { flushAll: () => {}, flushWalk: () => {}, addPage: () => {} },
      alloc: (bytes) => pages.alloc(bytes),
      free: (pa, bytes) => {
        pages.free(pa, bytes);
      },
    });
    const { tcr, mair, pgd: ttb } = this.pgtable;
    const cd = new Int32Array(CD_BYTES / 4);
    makeS1Cd(cd, { ttb, tcr, mairLo: mair.lo, mairHi: mair.hi, asid, stall, dirty: false });
    this.memory.write(this.#cd, cd);
  }

  /** A virtual STE that leads there. */
  vste(ats: boolean = false): Int32Array {
    const ste = new Int32Array(STE_BYTES / 4);
    const table = { pa: this.#cd, s1fmt: STE_S1FMT.linear, s1cdmax: 0, s1dss: STE_S1DSS.ssid0, stallDisable: this.#stalls };
    makeCdtableSte(ste, table, { attrTypesOvr: false, ats });
    return ste.slice(0, 4);
  }

  /** Physical address of guest address `ipa`. */
  pa(ipa: number): number {
    return ipa - IPA + GUEST_PA;
  }
}
