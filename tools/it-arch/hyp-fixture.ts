// EL2 of an architecture on the real model, with a host that makes hypercalls by hand.
import { startHypervisor as singleDriver } from "@smmuv3/arch-single-driver/el2";
import { startHypervisor as singleDriverPaging } from "@smmuv3/arch-single-driver/el2-paging";
import { startHypervisor as trapEmulate } from "@smmuv3/arch-trap-emulate/el2";
import { Machine } from "@smmuv3/machine";
import type { DmaMaster } from "@smmuv3/machine";
import { abiHash, hypercall, poolPages, writeHandoff } from "@smmuv3/pkvm-abi";
import type { HypercallName } from "@smmuv3/pkvm-abi";
import { Counters, PAGE_SIZE, TRANSLATION } from "@smmuv3/platform";
import type { Firmware, HypCpu, RegisterWindow } from "@smmuv3/platform";
import { CMD_BYTES, COMMANDS, OFFSET, REGISTER_SPACE } from "@smmuv3/smmu-v3-defs";
import { PRESETS, SmmuV3 } from "@smmuv3/smmu-v3-model";
import type { IdRegisters, ProfileName } from "@smmuv3/smmu-v3-model";

export const RAM_BASE = 0x4000_0000;
export const RAM_SIZE: number = 64 * 2 ** 20;
export const SMMU_BASE = 0x0905_0000;
export const SID = 0x123;
export const IRQS = { eventq: 106, gerror: 109 } as const;
export const DESIGNS: Readonly<Record<Design, StartHypervisor>> = {
  identity: singleDriver,
  paging: singleDriverPaging,
  emulation: trapEmulate,
};
export type Design = "identity" | "paging" | "emulation";
export type StartHypervisor = (cpu: HypCpu, firmware: Firmware) => void;

const POOL_PAGES = poolPages(RAM_SIZE, true);
export const POOL_BASE: number = RAM_BASE + RAM_SIZE - POOL_PAGES * PAGE_SIZE;
const HANDOFF = RAM_BASE;
const CMDQ = RAM_BASE + 0x10_0000;
const CMDQ_LOG2 = 8;
const STRTAB = RAM_BASE + 0x11_0000;
/** Pages of the host that nobody else uses. */
export const PAGE: number = RAM_BASE + 0x100_0000;
export const VM_TABLES: number = RAM_BASE + 0x180_0000;
const VM_TABLE_PAGES = 16;
export const VM_IPA = 0x8000_0000;

export interface WorldOptions {
  readonly profile?: ProfileName;
  readonly id?: IdRegisters;
  readonly start?: StartHypervisor;
  /** What EL2 runs on, when it is not the machine's CPU as it is. */
  readonly hypCpu?: (cpu: HypCpu) => HypCpu;
  /** A stream that is active at boot. */
  readonly bootDma?: number;
}

export class World {
  readonly machine: Machine;
  readonly smmu: SmmuV3;
  readonly dma: DmaMaster;
  /** Result of the handoff and of the deprivileging. */
  readonly handoff: number;
  readonly finalize: number;

  constructor(design: Design, options: WorldOptions = {}) {
    const counters = new Counters();
    this.machine = new Machine({ memory: { base: RAM_BASE, size: RAM_SIZE }, counters });
    const { machine } = this;
    this.smmu = new SmmuV3({
      memory: machine.memory,
      id: options.id ?? PRESETS.reference,
      profile: options.profile ?? "lazy",
      counters,
      irq: { evtq: machine.line(IRQS.eventq), gerror: machine.line(IRQS.gerror) },
    });
    machine.addDevice("smmuv3", SMMU_BASE, REGISTER_SPACE, this.smmu.registers);
    this.dma = machine.dmaMaster("device", SID, this.smmu);
    const start = options.start ?? DESIGNS[design];
    start(options.hypCpu?.(machine.hyp) ?? machine.hyp, firmware(options.bootDma));
    if (this.call("__pkvm_init", abiHash(), POOL_BASE, POOL_PAGES) !== 0) throw new Error("__pkvm_init failed");
    writeHandoff(machine.host.memory, HANDOFF, {
      mmioBase: SMMU_BASE,
      mmioSize: REGISTER_SPACE,
      cmdqBase: CMDQ,
      cmdqLog2: CMDQ_LOG2,
      strtabBase: STRTAB,
      strtabBytes: PAGE_SIZE,
      flags: 1,
    });
    this.handoff = this.call("__pkvm_iommu_handoff", HANDOFF);
    this.finalize = this.call("__pkvm_prot_finalize");
  }

  call(name: HypercallName, ...args: number[]): number {
    return hypercall(this.machine.host, name, ...args);
  }

  /** The host's view of the registers. */
  registers(): RegisterWindow {
    return this.machine.host.ioremap(SMMU_BASE, REGISTER_SPACE);
  }

  /** A DMA write of `value` and a read back reach the page at physical address `pa`. */
  reaches(iova: number, pa: number, value: number): boolean {
    const before = this.machine.memory.load32(pa);
    const word = Int32Array.of(value);
    const wrote = this.dma.write(iova, word) === TRANSLATION.ok;
    word[0] = 0;
    const read = this.dma.read(iova, word) === TRANSLATION.ok;
    const now = this.machine.memory.load32(pa);
    if (wrote !== read || (now === value) !== wrote || (!wrote && now !== before)) throw new Error("half of a DMA worked");
    return wrote;
  }

  /** A protected VM with the page at `pa`, in which its vCPU wrote `sentinel`. Returns its handle. */
  vmWithPage(pa: number, sentinel: number): number {
    const handle = this.call("__pkvm_init_vm", VM_TABLES, VM_TABLE_PAGES, 1);
    const given = this.call("__pkvm_host_donate_guest", handle, pa / PAGE_SIZE, VM_IPA);
    if (given !== 0) throw new Error(`donation: ${given}`);
    this.machine.setGuestProgram(handle, 0, (guest) => {
      guest.store32(VM_IPA, sentinel);
    });
    if (this.call("__pkvm_vcpu_run", handle, 0) !== 0) throw new Error("the vCPU did not run");
    return handle;
  }

  /** Ends VM `handle` and takes the page at `pa` and its tables back. */
  endVm(handle: number, pa: number): void {
    const pages = [pa, ...Array.from({ length: VM_TABLE_PAGES }, (_, i) => VM_TABLES + i * PAGE_SIZE)];
    const statuses = [this.call("__pkvm_teardown_vm", handle)];
    for (const page of pages) statuses.push(this.call("__pkvm_host_reclaim_page", page / PAGE_SIZE));
    if (statuses.some((status) => status !== 0)) throw new Error(`end of VM: ${statuses.join(" ")}`);
  }

  /** Nothing went wrong that the architecture does not know. */
  get sound(): boolean {
    return this.machine.panics.length === 0 && this.machine.errors.length === 0;
  }
}

function firmware(bootDma: number | undefined): Firmware {
  const node = { interrupts: {}, reg: [], iommus: [], properties: {} };
  const smmu = {
    ...node,
    name: "smmuv3@9050000",
    compatible: ["arm,smmu-v3"],
    reg: [{ base: SMMU_BASE, size: REGISTER_SPACE }],
    interrupts: IRQS,
  };
  const display = {
    ...node,
    name: "display",
    compatible: ["framebuffer"],
    iommus: [{ iommu: smmu.name, id: bootDma ?? 0 }],
    properties: { "iommu-addresses": true },
  };
  return {
    memory: { base: RAM_BASE, size: RAM_SIZE },
    doorbells: [{ base: 0x0808_0000, size: PAGE_SIZE }],
    nodes: bootDma === undefined ? [smmu] : [smmu, display],
  };
}

/** EL2's CPU, on which commands of one opcode are lost on their way to the SMMU: a missing invalidation. */
export function losing(opcode: number): (cpu: HypCpu) => HypCpu {
  return (cpu) =>
    Object.create(cpu, {
      ioremap: {
        value: (pa: number, size: number): RegisterWindow => {
          const window = cpu.ioremap(pa, size);
          return Object.create(window, {
            read32: { value: (offset: number) => window.read32(offset) },
            read64: { value: (offset: number) => window.read64(offset) },
            write64: { value: (offset: number, lo: number, hi: number) => { window.write64(offset, lo, hi); } },
            write32: {
              value: (offset: number, value: number) => {
                if (offset === OFFSET.CMDQ_PROD) blank(cpu, opcode);
                window.write32(offset, value);
              },
            },
          }) as RegisterWindow;
        },
      },
      ...forwarded(cpu),
    }) as HypCpu;
}

/** Methods of a class with private fields have to run on the object itself. */
function forwarded(cpu: HypCpu): PropertyDescriptorMap {
  const names = [
    "now", "relax", "barrier", "irqSave", "irqRestore", "install", "setHostStage2", "tlbiIpa", "tlbiAll", "runGuest", "injectIrq", "panic",
  ] as const;
  return Object.fromEntries(names.map((name) => [name, { value: (cpu[name] as () => unknown).bind(cpu) }]));
}

function blank(cpu: HypCpu, opcode: number): void {
  for (let slot = 0; slot < 1 << CMDQ_LOG2; slot++) {
    const pa = CMDQ + slot * CMD_BYTES;
    if ((cpu.memory.load32(pa) & 0xff) !== opcode) continue;
    cpu.memory.fill(pa, CMD_BYTES, 0);
    cpu.memory.store32(pa, COMMANDS.SYNC.opcode);
  }
}
