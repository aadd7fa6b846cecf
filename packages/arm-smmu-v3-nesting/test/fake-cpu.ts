import { HYPERCALLS, frameArg, hypercallName, setFrame } from "@smmuv3/pkvm-abi";
import type { HypercallName } from "@smmuv3/pkvm-abi";
import { Counters, Memory } from "@smmuv3/platform";
import type { Firmware, FirmwareNode, HostCpu, RegisterWindow } from "@smmuv3/platform";

export type Call = [name: HypercallName, ...args: number[]];
export type Answer = number | ((...args: number[]) => number);

export const RAM: { base: number; size: number } = { base: 0x4000_0000, size: 32 << 20 };

/** ID registers by offset: both stages, coherent, 2-level tables, 16 StreamID bits, queues of 2^10 events and 2^14 commands. */
export const ID_REGISTERS: readonly (readonly [offset: number, value: number])[] = [
  [0x00, (1 << 27) | (2 << 21) | (1 << 4) | (2 << 2) | 3],
  [0x04, (14 << 21) | (10 << 16) | 16],
  [0x14, (1 << 4) | 5],
];

/** A host CPU above a table that answers hypercalls, in front of a table of registers. */
export class FakeCpu implements HostCpu {
  readonly level = 1;
  readonly memory: Memory;
  readonly counters: Counters = new Counters();
  /** Hypercalls in order. */
  readonly calls: Call[] = [];
  /** Results of hypercalls; 0 unless given. */
  readonly answers: Partial<Record<HypercallName, Answer>> = {};
  readonly irqs: Map<number, () => void> = new Map<number, () => void>();
  readonly registers: Map<number, number> = new Map<number, number>(ID_REGISTERS);
  /** Something answers HVC. */
  el2: boolean = true;
  time: number = 0;

  constructor(ram: { base: number; size: number } = RAM) {
    this.memory = Memory.allocate(ram);
  }

  hvc(frame: Int32Array): void {
    const name = this.el2 ? hypercallName(frame[0]!) : undefined;
    if (name === undefined) {
      setFrame(frame, 0, -1);
      return;
    }
    const args = HYPERCALLS[name].args.map((_, i) => frameArg(frame, i + 1));
    this.calls.push([name, ...args]);
    const answer = this.answers[name] ?? 0;
    setFrame(frame, 0, 0);
    setFrame(frame, 1, typeof answer === "number" ? answer : answer(...args));
  }

  ioremap(): RegisterWindow {
    return {
      hi: 0,
      read32: (offset) => this.registers.get(offset) ?? 0,
      read64: (offset) => this.registers.get(offset) ?? 0,
      write32: (offset, value) => {
        this.registers.set(offset, value);
      },
      write64: (offset, lo) => {
        this.registers.set(offset, lo);
      },
    };
  }

  /** Calls of one kind, without the name. */
  argsOf(name: HypercallName): number[][] {
    return this.calls.filter(([called]) => called === name).map(([, ...args]) => args);
  }

  now(): number {
    return this.time;
  }

  requestIrq(intid: number, handler: () => void): void {
    this.irqs.set(intid, handler);
  }

  freeIrq(intid: number): void {
    this.irqs.delete(intid);
  }

  relax(): void {}
  barrier(): void {}
  irqSave(): void {}
  irqRestore(): void {}
}

/** A firmware node with what a test cares about. */
export function node(name: string, fields: Partial<FirmwareNode> = {}): FirmwareNode {
  return { name, compatible: [], reg: [], interrupts: {}, iommus: [], properties: {}, ...fields };
}

/** The node of an SMMU. */
export function smmuNode(base: number, fields: Partial<FirmwareNode> = {}): FirmwareNode {
  const reg = [{ base, size: 0x2_0000 }];
  return node(`smmuv3@${base.toString(16)}`, { compatible: ["arm,smmu-v3"], reg, ...fields });
}

export function firmware(nodes: FirmwareNode[], memory: { base: number; size: number } = RAM): Firmware {
  return { memory, doorbells: [], nodes };
}
