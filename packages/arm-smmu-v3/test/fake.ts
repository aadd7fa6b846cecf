import { Counters, Memory } from "@smmuv3/platform";
import type { Firmware, HostCpu, RegisterWindow } from "@smmuv3/platform";
import { createKernel } from "@smmuv3/driver-core";
import type { KernelContext } from "@smmuv3/driver-core";
import { IommuCore } from "@smmuv3/iommu-core";
import { CMD_BYTES, CMD_WORDS, getField, OFFSET, place, printCommand, REG } from "@smmuv3/smmu-v3-defs";

export const RAM = 0x4000_0000;
const { IDR0, IDR1, IDR5, CMDQ_BASE } = REG;

/** A register file that acknowledges and consumes commands at once; it does nothing else. */
export class FakeSmmu implements RegisterWindow {
  readonly registers: Map<number, number> = new Map<number, number>();
  readonly commands: string[] = [];
  readonly memory: Memory;
  hi: number = 0;

  constructor(memory: Memory) {
    this.memory = memory;
    const set = (offset: number, value: number): unknown => this.registers.set(offset, value);
    set(
      OFFSET.IDR0,
      place(IDR0.S1P, 1) | place(IDR0.TTF, 2) | place(IDR0.COHACC, 1) | place(IDR0.TTENDIAN, 2) | place(IDR0.PRI, 1) |
        place(IDR0.ATS, 1) | place(IDR0.ASID16, 1),
    );
    set(OFFSET.IDR1, place(IDR1.SIDSIZE, 6) | place(IDR1.CMDQS, 7) | place(IDR1.EVENTQS, 7) | place(IDR1.PRIQS, 7));
    set(OFFSET.IDR5, place(IDR5.OAS, 5) | place(IDR5.GRAN4K, 1));
  }

  read32(offset: number): number {
    if (offset === OFFSET.CR0ACK) return this.read32(OFFSET.CR0);
    if (offset === OFFSET.IRQ_CTRLACK) return this.read32(OFFSET.IRQ_CTRL);
    return this.registers.get(offset) ?? 0;
  }

  write32(offset: number, value: number): void {
    this.registers.set(offset, value);
    if (offset === OFFSET.CMDQ_PROD) this.#consume(value);
  }

  read64(offset: number): number {
    return this.read32(offset);
  }

  write64(offset: number, lo: number): void {
    this.write32(offset, lo);
  }

  #consume(prod: number): void {
    const base = Int32Array.of(this.read32(OFFSET.CMDQ_BASE), 0);
    const log2 = getField(base, 0, CMDQ_BASE.LOG2SIZE);
    const ring = (base[0]! & CMDQ_BASE.ADDR.loMask) >>> 0;
    const mask = (2 << log2) - 1;
    for (let cons = this.read32(OFFSET.CMDQ_CONS); cons !== prod; cons = (cons + 1) & mask) {
      const words = new Int32Array(CMD_WORDS);
      this.memory.read(ring + (cons & (mask >> 1)) * CMD_BYTES, words);
      this.commands.push(printCommand(words));
    }
    this.registers.set(OFFSET.CMDQ_CONS, prod);
  }
}

export interface FakeKernel {
  readonly kernel: KernelContext;
  readonly iommu: IommuCore;
  readonly smmu: FakeSmmu;
  /** Handlers by interrupt number. */
  readonly irqs: Map<number, () => void>;
}

/** A kernel with an SMMU node and one client of stream 5, nothing registered. */
export function fakeKernel(interrupts: Readonly<Record<string, number>>): FakeKernel {
  const memory = Memory.allocate({ base: RAM, size: 4 << 20 });
  const smmu = new FakeSmmu(memory);
  const irqs = new Map<number, () => void>();
  let time = 0;
  const cpu: HostCpu = {
    level: 1,
    memory,
    counters: new Counters(),
    ioremap: () => smmu,
    now: () => time,
    relax: () => {
      time += 1000;
    },
    barrier: () => {},
    irqSave: () => {},
    irqRestore: () => {},
    hvc: (frame) => {
      frame[0] = -1;
    },
    requestIrq: (intid, handler) => void irqs.set(intid, handler),
    freeIrq: (intid) => void irqs.delete(intid),
  };
  const none = { interrupts: {}, iommus: [], properties: {} };
  const firmware: Firmware = {
    memory: { base: RAM, size: 4 << 20 },
    doorbells: [],
    nodes: [
      {
        name: "smmu", compatible: ["arm,smmu-v3"], reg: [{ base: 0x905_0000, size: 0x2_0000 }], interrupts, iommus: [],
        properties: { "dma-coherent": true },
      },
      { ...none, name: "client", compatible: ["client"], reg: [], iommus: [{ iommu: "smmu", id: 5 }] },
    ],
  };
  const kernel = createKernel({ cpu, firmware });
  const iommu = new IommuCore(kernel, { defaultDomainType: "identity" });
  kernel.core.populate(firmware);
  return { kernel, iommu, smmu, irqs };
}
