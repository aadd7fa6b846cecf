import { abiHash, hypercall, poolPages, writeHandoff } from "@smmuv3/pkvm-abi";
import type { HypercallName, IommuHandoff } from "@smmuv3/pkvm-abi";
import { iommus, startHyp } from "@smmuv3/pkvm-hyp";
import type { HypCore, HypIommuDriver } from "@smmuv3/pkvm-hyp";
import { ABORT, Counters, Memory, PAGE_SIZE } from "@smmuv3/platform";
import type { AbortAction, Firmware, FirmwareNode, HostCpu, HypCpu, HypVectors, RegisterWindow } from "@smmuv3/platform";
import { getAddress, getField, STE, STE_CONFIG, STE_WORDS } from "@smmuv3/smmu-v3-defs";
import { expect } from "vitest";
import { FakeSmmu, IDS } from "./fake-smmu.ts";

export const RAM_BASE = 0x4000_0000;
export const RAM_SIZE: number = 16 * 2 ** 20;
export const SMMU_BASE = 0x0905_0000;
export const SMMU_SIZE = 0x2_0000;
export const SECOND_BASE = 0x0907_0000;
export const POOL_PAGES: number = poolPages(RAM_SIZE, true);
export const POOL_BASE: number = RAM_BASE + RAM_SIZE - POOL_PAGES * PAGE_SIZE;
/** Memory that goes with the SMMU. */
export const CMDQ = 0x4010_0000;
export const CMDQ_LOG2 = 8;
export const STRTAB = 0x4020_0000;
export const HANDOFF_PAGE = 0x4030_0000;

const page = (index: number): number => RAM_BASE + index * PAGE_SIZE;
/** A page of the host's that nothing else uses. */
export const HOST_PAGE: number = page(1000);

export const HANDOFF: IommuHandoff = {
  mmioBase: SMMU_BASE,
  mmioSize: SMMU_SIZE,
  cmdqBase: CMDQ,
  cmdqLog2: CMDQ_LOG2,
  strtabBase: STRTAB,
  strtabBytes: PAGE_SIZE,
  flags: 1,
};

export const node = (name: string, compatible: string, base: number, size: number): FirmwareNode => ({
  name,
  compatible: [compatible],
  reg: [{ base, size }],
  interrupts: {},
  iommus: [],
  properties: {},
});

export function firmware(bootDma: readonly number[] = [], extra: readonly FirmwareNode[] = []): Firmware {
  const nic = node("nic", "virtio", 0x0a00_0000, 0x1000);
  return {
    memory: { base: RAM_BASE, size: RAM_SIZE },
    doorbells: [{ base: 0x0808_0000, size: PAGE_SIZE }],
    nodes: [
      { ...node("smmuv3@9050000", "arm,smmu-v3", SMMU_BASE, SMMU_SIZE), interrupts: { eventq: 72, gerror: 74 } },
      nic,
      ...extra,
      ...bootDma.map((id) => ({
        ...nic,
        iommus: [{ iommu: "smmuv3@9050000", id }],
        properties: { "iommu-addresses": true },
      })),
    ],
  };
}

/** EL2's CPU with one fake SMMU. Time passes only in relax(). */
export class FakeCpu implements HypCpu {
  readonly level = 2;
  readonly memory: Memory = Memory.allocate({ base: RAM_BASE, size: RAM_SIZE });
  readonly counters: Counters = new Counters();
  readonly smmu: FakeSmmu;
  /** A second one, at {@link SECOND_BASE}. */
  readonly second: FakeSmmu;
  vectors: HypVectors | undefined = undefined;
  /** Interrupts that EL2 made pending. */
  readonly injected: number[] = [];
  #now = 0;

  constructor(ids: Readonly<Record<string, number>> = IDS) {
    this.smmu = new FakeSmmu(this.memory, ids);
    this.second = new FakeSmmu(this.memory, ids);
  }
  ioremap(pa: number): RegisterWindow {
    return pa === SECOND_BASE ? this.second : this.smmu;
  }
  now(): number {
    return this.#now;
  }
  relax(): void {
    this.#now += 1_000_000;
  }
  barrier(): void {}
  irqSave(): void {}
  irqRestore(): void {}
  install(vectors: HypVectors): void {
    this.vectors = vectors;
  }
  setHostStage2(): void {}
  tlbiIpa(): void {
    this.smmu.log.push("tlbiIpa");
  }
  tlbiAll(): void {}
  runGuest(): number {
    return 0;
  }
  injectIrq(intid: number): void {
    this.injected.push(intid);
  }
  panic(reason: string): never {
    throw new Error(`panic: ${reason}`);
  }

  call(name: HypercallName, ...args: number[]): number {
    const host = { hvc: (frame: Int32Array) => this.vectors?.hvc(frame) } as unknown as HostCpu;
    return hypercall(host, name, ...args);
  }

  /** A trapped access of the host. */
  access(offset: number, size: number, write: boolean, lo = 0, hi = 0): { action: AbortAction | undefined; lo: number; hi: number } {
    const frame = Int32Array.from([SMMU_BASE + offset, 0, (write ? 1 : 0) | 2, size, lo, hi]);
    const action = this.vectors?.dataAbort(frame);
    return { action, lo: frame[ABORT.valueLo]!, hi: frame[ABORT.valueHi]! };
  }
}

/** The STE of `sid` that the hardware sees; undefined without a second-level table. */
export function hardwareSte({ memory }: FakeCpu, sid: number): Int32Array | undefined {
  const lo = memory.load32(STRTAB + (sid >> 8) * 8);
  if (lo === 0) return undefined;
  const ste = new Int32Array(STE_WORDS);
  memory.read((lo & ~63) + (sid & 255) * 64, ste);
  return ste;
}

/** True when the stream's DMA is blocked, or translated through EL2's `roots` and nothing else of the host's than stage 1. */
export function isolated(ste: Int32Array, roots: readonly number[]): boolean {
  if (getField(ste, 0, STE.V) === 0) return true;
  const config = getField(ste, 0, STE.Config);
  if (config === STE_CONFIG.abort) return true;
  const zero = getField(ste, 0, STE.EATS) | getField(ste, 0, STE.STRW) | getField(ste, 0, STE.CONT);
  return (
    (config === STE_CONFIG.s2 || config === STE_CONFIG.nested) &&
    zero === 0 &&
    ste.subarray(8).every((word) => word === 0) &&
    roots.every((word, i) => ste[4 + i] === word)
  );
}

/** The second-stage words of an STE, which must be a table of EL2's with the host's VMID. */
export function rootsOf(ste: Int32Array): number[] {
  const root = getAddress(ste, 0, STE.S2TTB);
  expect(root >= POOL_BASE && root < RAM_BASE + RAM_SIZE).toBe(true);
  expect(getField(ste, 0, STE.S2VMID)).toBe(0);
  return [...ste.subarray(4, 8)];
}

export interface Running {
  readonly cpu: FakeCpu;
  readonly smmu: FakeSmmu;
  readonly core: HypCore;
  readonly driver: HypIommuDriver;
  /** Result of the handoff. */
  readonly status: number;
}

export interface RunOptions {
  readonly ids?: Readonly<Record<string, number>>;
  readonly handoff?: Partial<IommuHandoff>;
  readonly bootDma?: readonly number[];
  readonly devices?: readonly FirmwareNode[];
  /** The host keeps its privilege. */
  readonly stop?: boolean;
  /** Before the handoff. */
  readonly prepare?: (cpu: FakeCpu) => void;
}

/** EL2 with `make`'s driver, after the handoff; deprivileged when that worked. */
export function run(make: (cpu: HypCpu) => HypIommuDriver, options: RunOptions = {}): Running {
  const cpu = new FakeCpu({ ...IDS, ...options.ids });
  const driver = make(cpu);
  const hyp = startHyp(cpu, { firmware: firmware(options.bootDma, options.devices), iommus: iommus(driver) });
  const init = cpu.call("__pkvm_init", abiHash(), POOL_BASE, POOL_PAGES);
  if (init < 0 || hyp.core === undefined) throw new Error(`__pkvm_init: ${init}`);
  options.prepare?.(cpu);
  writeHandoff(cpu.memory, HANDOFF_PAGE, { ...HANDOFF, ...options.handoff });
  const status = cpu.call("__pkvm_iommu_handoff", HANDOFF_PAGE);
  if (status >= 0 && options.stop !== true) cpu.call("__pkvm_prot_finalize");
  return { cpu, smmu: cpu.smmu, core: hyp.core, driver, status };
}
