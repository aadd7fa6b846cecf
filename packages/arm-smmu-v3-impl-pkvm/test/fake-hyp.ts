import { Counters, Memory } from "@smmuv3/platform";
import type { Firmware, HostCpu, RegisterWindow } from "@smmuv3/platform";
import { createKernel } from "@smmuv3/driver-core";
import type { KernelContext } from "@smmuv3/driver-core";
import { IommuCore } from "@smmuv3/iommu-core";
import { EVENT_QUEUE_OP, frameArg, hypercallName, HYPERCALLS, readHandoff, setFrame } from "@smmuv3/pkvm-abi";
import type { HypercallName, IommuHandoff } from "@smmuv3/pkvm-abi";
import { OFFSET, place, REG } from "@smmuv3/smmu-v3-defs";

export const RAM = 0x4000_0000;
export const RAM_BYTES: number = 4 << 20;
export const EVENTQ_IRQ = 10;
export const GERROR_IRQ = 11;
const { IDR0, IDR1, IDR5 } = REG;

const IDS: ReadonlyMap<number, number> = new Map([
  [OFFSET.IDR0, place(IDR0.S1P, 1) | place(IDR0.S2P, 1) | place(IDR0.TTF, 2) | place(IDR0.TTENDIAN, 2) | place(IDR0.ST_LEVEL, 1)],
  [OFFSET.IDR1, place(IDR1.SIDSIZE, 16) | place(IDR1.CMDQS, 8) | place(IDR1.EVENTQS, 9)],
  [OFFSET.IDR5, place(IDR5.OAS, 5) | place(IDR5.GRAN4K, 1)],
]);

export interface HypOptions {
  /** Status by hypercall; default: success. */
  answer?(name: HypercallName, args: readonly number[]): number | undefined;
  /** No EL2 at all. */
  readonly absent?: boolean;
  /** Properties of the client. */
  readonly nic?: Readonly<Record<string, boolean | number>>;
}

/** A kernel with an SMMU node, two clients and an EL2 that says yes and remembers. */
export class World {
  readonly memory: Memory = Memory.allocate({ base: RAM, size: RAM_BYTES });
  readonly calls: string[] = [];
  /** Register writes of the kernel. */
  readonly writes: number[] = [];
  readonly irqs: Map<number, () => void> = new Map<number, () => void>();
  readonly kernel: KernelContext;
  readonly iommu: IommuCore;
  handoff: IommuHandoff | undefined = undefined;
  eventq: number = 0;
  prod: number = 0;
  cons: number = 0;
  gerror: number = 0;
  readonly #options: HypOptions;

  constructor(options: HypOptions = {}) {
    this.#options = options;
    const cpu = this.#cpu();
    const none = { reg: [], interrupts: {}, iommus: [], properties: {} };
    const firmware: Firmware = {
      memory: { base: RAM, size: RAM_BYTES },
      doorbells: [],
      nodes: [
        {
          ...none, name: "smmu", compatible: ["arm,smmu-v3"], reg: [{ base: 0x905_0000, size: 0x2_0000 }],
          interrupts: { eventq: EVENTQ_IRQ, gerror: GERROR_IRQ }, properties: { "dma-coherent": true },
        },
        {
          ...none, name: "nic", compatible: ["client"], iommus: [{ iommu: "smmu", id: 5 }, { iommu: "smmu", id: 3 }],
          properties: options.nic ?? {},
        },
      ],
    };
    this.kernel = createKernel({ cpu, firmware });
    this.iommu = new IommuCore(this.kernel);
    this.kernel.core.populate(firmware);
  }

  /** Writes an event record as EL2's hardware would, and raises the interrupt. */
  deliver(record: Int32Array): void {
    const log2 = this.eventq % 64;
    this.memory.write(this.eventq - log2 + (this.prod & ((1 << log2) - 1)) * 32, record);
    this.prod = (this.prod + 1) & ((2 << log2) - 1);
  }

  #cpu(): HostCpu {
    let time = 0;
    const window: RegisterWindow = {
      hi: 0,
      read32: (offset) => IDS.get(offset) ?? 0,
      read64: () => 0,
      write32: (offset) => void this.writes.push(offset),
      write64: (offset) => void this.writes.push(offset),
    };
    return {
      level: 1,
      memory: this.memory,
      counters: new Counters(),
      ioremap: () => window,
      now: () => time,
      relax: () => {
        time += 1_000_000;
      },
      barrier: () => {},
      irqSave: () => {},
      irqRestore: () => {},
      hvc: (frame) => {
        this.#hvc(frame);
      },
      requestIrq: (intid, handler) => void this.irqs.set(intid, handler),
      freeIrq: (intid) => void this.irqs.delete(intid),
    };
  }

  #hvc(frame: Int32Array): void {
    const name = hypercallName(frame[0]!);
    if (name === undefined || this.#options.absent === true) {
      frame[0] = -1;
      return;
    }
    const args = HYPERCALLS[name].args.map((_, i) => frameArg(frame, i + 1));
    this.calls.push(`${name.replace("__pkvm_", "")} ${args.map((arg) => arg.toString(16)).join(" ")}`);
    setFrame(frame, 1, this.#options.answer?.(name, args) ?? this.#run(name, args));
    frame[0] = 0;
  }

  #run(name: HypercallName, args: readonly number[]): number {
    if (name === "__pkvm_iommu_handoff") {
      this.handoff = readHandoff(this.memory, args[0]!);
      return 2;
    }
    if (name !== "__pkvm_iommu_event_queue") return 0;
    const [, op, value] = args;
    if (op === EVENT_QUEUE_OP.attach) this.eventq = value!;
    if (op === EVENT_QUEUE_OP.consume) {
      this.cons = value!;
      return this.prod >>> 0;
    }
    if (op === EVENT_QUEUE_OP.gerror) {
      const active = this.gerror;
      this.gerror = 0;
      return active;
    }
    return 0;
  }
}
