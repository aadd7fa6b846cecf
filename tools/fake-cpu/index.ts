import { Counters, Memory } from "@smmuv3/platform";
import type { Firmware, FirmwareNode, HostCpu, MemoryOptions, RegisterWindow } from "@smmuv3/platform";

/** A hypercall by name, with its arguments. */
export type Call = [name: string, ...args: number[]];
/** What x1 is, or x1 and the registers that follow it. */
export type Reply = number | readonly number[];
export type Answer = Reply | ((...args: number[]) => Reply);

/** What a {@link FakeCpu} needs of a hypercall ABI: `import * as abi from "@smmuv3/pkvm-abi"`. */
export interface HypercallAbi<Name extends string> {
  readonly HYPERCALLS: Readonly<Record<Name, { readonly args: readonly string[] }>>;
  hypercallName(id: number): Name | undefined;
  frameArg(frame: Int32Array, index: number): number;
  setFrame(frame: Int32Array, index: number, value: number): void;
}

export const RAM: MemoryOptions = { base: 0x4000_0000, size: 32 << 20 };

/** ID registers by offset: both stages, coherent, 2-level tables, 16 StreamID bits, queues of 2^10 events and 2^14 commands. */
export const ID_REGISTERS: readonly (readonly [offset: number, value: number])[] = [
  [0x00, (1 << 27) | (2 << 21) | (1 << 4) | (2 << 2) | 3],
  [0x04, (14 << 21) | (10 << 16) | 16],
  [0x14, (1 << 4) | 5],
];

/** A host CPU with memory, a table of registers, and a table that answers hypercalls. */
export class FakeCpu<Name extends string = string> implements HostCpu {
  readonly level = 1;
  readonly memory: Memory;
  readonly counters: Counters = new Counters();
  /** Hypercalls in order. */
  readonly calls: Call[] = [];
  /** Results of hypercalls; 0 unless given. */
  readonly answers: Partial<Record<Name, Answer>> = {};
  readonly irqs: Map<number, () => void> = new Map<number, () => void>();
  readonly registers: Map<number, number> = new Map<number, number>(ID_REGISTERS);
  /** Something answers HVC. */
  el2: boolean = true;
  time: number = 0;
  readonly #abi: HypercallAbi<Name> | undefined;

  /** Without an ABI nothing answers HVC. */
  constructor(abi?: HypercallAbi<Name>, ram: MemoryOptions = RAM) {
    this.#abi = abi;
    this.memory = Memory.allocate(ram);
  }

  hvc(frame: Int32Array): void {
    const abi = this.#abi;
    const name = this.el2 ? abi?.hypercallName(frame[0]!) : undefined;
    if (abi === undefined || name === undefined) {
      frame[0] = -1;
      frame[1] = -1;
      return;
    }
    const args = abi.HYPERCALLS[name].args.map((_, i) => abi.frameArg(frame, i + 1));
    this.calls.push([name, ...args]);
    const answer: Answer = this.answers[name] ?? 0;
    abi.setFrame(frame, 0, 0);
    const reply = typeof answer === "function" ? answer(...args) : answer;
    const results: readonly number[] = typeof reply === "number" ? [reply] : reply;
    for (let at = 1; at <= 4; at++) abi.setFrame(frame, at, results[at - 1] ?? 0);
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

  /** Arguments of the calls of one kind. */
  argsOf(name: Name): number[][] {
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

export function firmware(nodes: FirmwareNode[], memory: MemoryOptions = RAM): Firmware {
  return { memory: { base: memory.base, size: memory.size }, doorbells: [], nodes };
}
