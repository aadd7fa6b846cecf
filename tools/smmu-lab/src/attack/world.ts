import type { HostPort } from "@smmuv3/arch-common";
import { isHostAbort, isHypPanic, isMachineError } from "@smmuv3/machine";
import type { DmaMaster, Machine } from "@smmuv3/machine";
import { frameArg, frameResult, functionId, hypercallName, setFrame, SMCCC_SUCCESS } from "@smmuv3/pkvm-abi";
import type { HypercallName, IommuHandoff } from "@smmuv3/pkvm-abi";
import { ACCESS, FRAME_WORDS, hi32, lo32, PAGE_SIZE, TRANSLATION } from "@smmuv3/platform";
import type { HostCpu, HypCpu, HypVectors, RegisterWindow } from "@smmuv3/platform";
import { CMD_BYTES, OFFSET, REG, REGISTER_SPACE, STE_BYTES, extract } from "@smmuv3/smmu-v3-defs";
import type { SmmuV3 } from "@smmuv3/smmu-v3-model";
import { createHardware } from "./hardware.ts";
import type { Hardware } from "./hardware.ts";
import { Ledger } from "./ledger.ts";
import type { Op, Primitive, Violation } from "./op.ts";
import { steAddress, streamTable } from "./tables.ts";
import type { Target } from "./target.ts";

/** Pages that the kernel has set aside for the attack. */
const ARENA_PAGES = 96;
const MOST_ARGUMENTS = 6;
/** Steps of a polling loop, of a microsecond each: more than all waits of one operation may take. */
const MOST_RELAXES = 1_000_000;
/** Result of an access that was refused, and of an operation for which there is nothing to act on. */
export const REFUSED = -1;

/** What a vCPU asks of EL2 when it runs next: words of its frame. */
export type GuestRequest = Int32Array;

/** Anything thrown that the machine knows: EL1 took an abort, EL2 is gone, or the machine has no meaning for it. */
function known(error: unknown): boolean {
  return isHostAbort(error) || isHypPanic(error) || isMachineError(error);
}

/**
 * A machine on which an architecture has booted with its own kernel, and on which EL1 has then fallen to an attacker: none of the
 * kernel's code runs any more. The ledger has seen every hypercall since reset.
 */
export class World {
  readonly target: Target;
  /** StreamID bits of the SMMU. */
  readonly sidBits: number;
  readonly hardware: Hardware;
  readonly machine: Machine;
  readonly smmu: SmmuV3;
  readonly ledger: Ledger;
  /** EL2's entry points, as it installed them. */
  vectors: HypVectors | undefined = undefined;
  /** The design protects DMA: EL2 has the SMMU and the host is deprivileged. */
  readonly protectsDma: boolean;
  /** The host is deprivileged. */
  readonly protectedMode: boolean;
  /** Pages of the host, addresses. */
  readonly arena: readonly number[] = [];
  /** What the ledger said of the last operation, or of the boot. */
  violation: Violation | undefined = undefined;
  /** Output address of the last device access that was translated, -1 for none. */
  reached = -1;
  /** CPU on which EL2 runs now. */
  cpu = 0;
  /** Steps of waiting since the operation, or step of one, began. */
  relaxes = 0;
  /** Several CPUs are at work: a guest's hypercall, which is one step here, would wait for ever for a lock that another CPU has. */
  racing = false;
  /** VMs whose teardown EL2 has completed: none of their vCPUs runs any more. */
  readonly ended: Set<number> = new Set<number>();
  /** x2 to x4 of the last hypercall: what EL2 asks for. */
  readonly request: [type: number, pool: number, pages: number] = [0, 0, 0];
  /** What each vCPU, `handle.vcpu`, asks of EL2 when it runs next. */
  readonly guestRequests: Map<string, GuestRequest> = new Map<string, GuestRequest>();
  readonly registers: RegisterWindow;
  readonly #frame = new Int32Array(FRAME_WORDS);
  readonly #masters = new Map<number, DmaMaster>();
  readonly #word = new Int32Array(1);

  /** Boots. Throws what stopped the boot. */
  constructor(target: Target, sidBits: number) {
    this.target = target;
    this.sidBits = sidBits;
    this.hardware = createHardware(sidBits);
    const { machine, smmu, firmware } = this.hardware;
    this.machine = machine;
    this.smmu = smmu;
    this.ledger = new Ledger(machine.memory);
    target.startHypervisor(this.#tapHyp(machine.hyp), firmware);
    const port = target.bootKernel(this.#tapHost(machine.host), firmware, { translation: "identity" });
    this.protectedMode = port.status.protectedMode;
    this.protectsDma = port.status.protectedMode && port.status.iommuAtEl2;
    this.registers = machine.host.ioremap(this.hardware.smmuBase, REGISTER_SPACE);
    this.arena = this.#claim(port);
    this.ledger.clearChanges();
  }

  /** EL2 does not run any more, or the machine has no meaning for what it did. */
  get dead(): boolean {
    return this.machine.panics.length > 0 || this.machine.errors.length > 0;
  }

  /** Performs one operation. Returns its result: negative where it was refused. */
  run(op: Op): number {
    this.violation = undefined;
    this.reached = -1;
    this.relaxes = 0;
    try {
      const primitive = PRIMITIVE_RUNS[op.call as Primitive] as PrimitiveRun | undefined;
      return primitive === undefined ? this.#hypercall(op.call as HypercallName, op.args) : primitive(this, op.args);
    } catch (error) {
      if (known(error)) return REFUSED;
      throw error;
    }
  }

  /** A hypercall with `words` as its registers. */
  raw(words: readonly number[]): number {
    const frame = this.#frame;
    frame.fill(0);
    words.slice(0, FRAME_WORDS).forEach((word, index) => (frame[index] = word));
    const name = hypercallName(frame[0]!);
    const args = Array.from({ length: MOST_ARGUMENTS }, (_, i) => frameArg(frame, i + 1));
    const handoff = name === "__pkvm_iommu_handoff" ? this.ledger.handoffAt(args[0]!) : undefined;
    this.machine.host.hvc(frame);
    if (frame[0] !== SMCCC_SUCCESS || name === undefined) return REFUSED;
    const result = frameResult(frame);
    this.violation = this.ledger.record(name, args, result, handoff);
    return result;
  }

  /** The device behind `sid`. */
  master(sid: number, ssid: number): DmaMaster {
    let master = this.#masters.get(sid);
    if (master === undefined) {
      master = this.machine.dmaMaster(`device ${sid}`, sid, this.smmu);
      this.#masters.set(sid, master);
    }
    master.ssid = ssid;
    return master;
  }

  /** One word of a device. Returns 0 when it arrived. */
  dma(sid: number, iova: number, write: boolean, ssid: number): number {
    const master = this.master(sid, ssid);
    this.#word[0] = 0x0bad_c0de;
    const status = write ? master.write(iova, this.#word) : master.read(iova, this.#word);
    if (status !== TRANSLATION.ok) return REFUSED;
    this.reached = (master.paHi >>> 0) * 0x1_0000_0000 + (master.paLo >>> 0);
    return 0;
  }

  /** Translates as the SMMU would for a device that prefetches: no memory is touched but tables. -1: refused. */
  probe(sid: number, iova: number, write: boolean, ssid: number): number {
    const master = this.master(sid, ssid);
    if (master.probe(iova, write) !== TRANSLATION.ok) return -1;
    return (master.paHi >>> 0) * 0x1_0000_0000 + (master.paLo >>> 0);
  }

  /** A device with a translated address. */
  translated(sid: number, address: number, write: boolean): number {
    const { ats } = this.smmu;
    const flags = write ? ACCESS.write : ACCESS.read;
    if (ats.translatedAccess(sid, 0, lo32(address), hi32(address), flags) !== TRANSLATION.ok) return REFUSED;
    this.reached = (ats.paHi >>> 0) * 0x1_0000_0000 + (ats.paLo >>> 0);
    if (write && this.machine.memory.pageIndex(this.reached) >= 0) this.machine.memory.store32(this.reached - (this.reached % 4), 0x0bad_c0de);
    return 0;
  }

  /** Appends a command to the queue that the host's CMDQ_BASE names, and rings. */
  command(words: readonly number[]): number {
    const { registers } = this;
    const lo = registers.read64(OFFSET.CMDQ_BASE);
    const { hi } = registers;
    const log2 = Math.min(extract(lo, REG.CMDQ_BASE.LOG2SIZE), 19);
    const base = (hi & 0xf_ffff) * 0x1_0000_0000 + ((lo & ~31) >>> 0);
    const prod = registers.read32(OFFSET.CMDQ_PROD);
    const slot = base + (prod & ((1 << log2) - 1)) * CMD_BYTES;
    const { memory } = this.machine.host;
    for (let i = 0; i < CMD_BYTES / 4; i++) memory.store32(slot + i * 4, words[i] ?? 0);
    registers.write32(OFFSET.CMDQ_PROD, (prod + 1) & ((2 << log2) - 1));
    return 0;
  }

  /** Writes into the STE of `sid` of the table that the host's STRTAB_BASE names. */
  ste(sid: number, words: readonly number[]): number {
    const { registers } = this;
    const lo = registers.read64(OFFSET.STRTAB_BASE);
    const table = streamTable(lo, registers.hi, registers.read32(OFFSET.STRTAB_BASE_CFG));
    const pa = steAddress(this.machine.memory, table, sid);
    if (pa < 0) return REFUSED;
    for (let i = 0; i < STE_BYTES / 4; i++) this.machine.host.memory.store32(pa + i * 4, words[i] ?? 0);
    return 0;
  }

  /** The kernel's pages for the attack, one by one so that the allocator may spread them. */
  #claim(port: HostPort): number[] {
    const pages = Array.from({ length: ARENA_PAGES }, () => port.allocPages(PAGE_SIZE));
    return pages.filter((pa) => pa >= 0);
  }

  #hypercall(name: HypercallName, args: readonly number[]): number {
    const frame = this.#frame;
    frame.fill(0);
    frame[0] = functionId(name);
    for (let i = 0; i < args.length; i++) setFrame(frame, i + 1, args[i]!);
    const handoff = name === "__pkvm_iommu_handoff" ? this.ledger.handoffAt(args[0]!) : undefined;
    this.machine.host.hvc(frame);
    if (frame[0] !== SMCCC_SUCCESS) return REFUSED;
    const result = frameResult(frame);
    for (let i = 0; i < 3; i++) this.request[i] = frame[4 + i * 2]! >>> 0;
    this.violation = this.ledger.record(name, args, result, handoff);
    return result;
  }

  /** EL1's CPU during boot: what the kernel asks of EL2 goes into the ledger. */
  #tapHost(cpu: HostCpu): HostCpu {
    const { ledger } = this;
    const hvc = (frame: Int32Array): void => {
      const name = hypercallName(frame[0]!);
      const args = Array.from({ length: MOST_ARGUMENTS }, (_, i) => frameArg(frame, i + 1));
      const handoff: IommuHandoff | undefined = name === "__pkvm_iommu_handoff" ? ledger.handoffAt(args[0]!) : undefined;
      cpu.hvc(frame);
      if (name === undefined || frame[0] !== SMCCC_SUCCESS) return;
      this.violation ??= ledger.record(name, args, frameResult(frame), handoff);
    };
    return tapped(cpu, { hvc });
  }

  /** EL2's CPU: its vectors are remembered, for those who run EL2 step by step. */
  #tapHyp(cpu: HypCpu): HypCpu {
    const install = (vectors: HypVectors): void => {
      this.vectors = vectors;
      cpu.install(vectors);
    };
    const relax = (): void => {
      if (++this.relaxes > MOST_RELAXES) cpu.panic("deadlock: EL2 waits for ever");
      cpu.relax();
    };
    const tap = tapped(cpu, { install, relax });
    // Locks know CPUs by their number; there is one HypCpu for all of them here.
    return Object.defineProperty(tap, "id", { get: () => this.cpu });
  }
}

type PrimitiveRun = (world: World, args: readonly number[]) => number;

/** `cpu` with some methods replaced. Methods of a class with private fields have to run on the object itself. */
function tapped<T extends HostCpu | HypCpu>(cpu: T, replaced: Partial<T>): T {
  const own: Record<string, unknown> = { level: cpu.level, memory: cpu.memory, counters: cpu.counters };
  for (let proto = Object.getPrototypeOf(cpu) as object; proto !== Object.prototype; proto = Object.getPrototypeOf(proto) as object) {
    for (const name of Object.getOwnPropertyNames(proto)) {
      const value = (cpu as unknown as Record<string, unknown>)[name];
      if (name !== "constructor" && typeof value === "function") own[name] ??= (value as () => unknown).bind(cpu);
    }
  }
  return { ...own, ...replaced } as unknown as T;
}

/** The aligned word at `address`: an attacker's CPU and devices have no others here. */
function word(address: number): number {
  return address - (address % 4);
}

const PRIMITIVE_RUNS: Readonly<Record<Primitive, PrimitiveRun>> = {
  hvc: (world, args) => world.raw(args),
  load32: ({ machine }, [pa]) => machine.host.memory.load32(word(pa!)) >>> 0,
  store32: ({ machine }, [pa, value]) => {
    machine.host.memory.store32(word(pa!), value!);
    return 0;
  },
  read32: ({ registers }, [offset]) => registers.read32(offset!) >>> 0,
  read64: ({ registers }, [offset]) => registers.read64(offset!) >>> 0,
  write32: ({ registers }, [offset, value]) => {
    registers.write32(offset!, value! | 0);
    return 0;
  },
  write64: ({ registers }, [offset, lo, hi]) => {
    registers.write64(offset!, lo! | 0, hi! | 0);
    return 0;
  },
  dma: (world, [sid, iova, write, ssid]) => world.dma(sid!, word(iova!), write === 1, ssid ?? -1),
  ats: (world, [sid, address, write]) => world.translated(sid!, address!, write === 1),
  pri: ({ smmu }, [sid, address]) => {
    smmu.pri.pageRequest({ sid: sid!, address: address!, prgIndex: 0, last: true, read: true, write: true });
    return 0;
  },
  boot: () => 0,
  command: (world, args) => world.command(args),
  ste: (world, [sid, ...words]) => world.ste(sid!, words),
  guest: (world, [handle, vcpu, id, ...args]) => {
    const frame = new Int32Array(FRAME_WORDS);
    frame[0] = id! | 0;
    args.forEach((value, index) => {
      setFrame(frame, index + 1, value);
    });
    world.guestRequests.set(`${handle}.${vcpu}`, frame);
    return 0;
  },
};
