import { Counters, Memory } from "@smmuv3/platform";
import type { Cpu, RegisterWindow } from "@smmuv3/platform";
import { CMD, CMD_WORDS, COMMANDS, getAddress, getField, OFFSET, SYNC_CS } from "@smmuv3/smmu-v3-defs";

export const BASE = 0x8000_0000;
export const RING: number = BASE + 0x2000;

/** A device that consumes commands: all at the doorbell, or `perRelax` at every step of waiting. */
export class FakeDevice implements RegisterWindow {
  readonly memory: Memory = Memory.allocate({ base: BASE, size: 0x10000 });
  readonly registers: Map<number, number> = new Map<number, number>();
  /** Opcodes consumed, in order, with the low address word. */
  readonly consumed: Int32Array[] = [];
  readonly log2: number;
  readonly cpu: Cpu;
  perRelax: number = Infinity;
  stuck: boolean = false;
  relaxed: number = 0;
  reads: number = 0;
  hi: number = 0;
  #time = 0;

  constructor(log2: number) {
    this.log2 = log2;
    this.cpu = {
      level: 1,
      memory: this.memory,
      counters: new Counters(),
      ioremap: () => this,
      now: () => this.#time,
      relax: () => {
        this.#time += 1000;
        this.relaxed++;
        this.consume(this.perRelax);
      },
      barrier: () => {},
      irqSave: () => {},
      irqRestore: () => {},
    };
  }

  read32(offset: number): number {
    this.reads++;
    return this.registers.get(offset) ?? 0;
  }

  write32(offset: number, value: number): void {
    this.registers.set(offset, value);
    if (offset === OFFSET.CMDQ_PROD && this.perRelax === Infinity) this.consume(Infinity);
  }

  read64(offset: number): number {
    return this.read32(offset);
  }

  write64(offset: number, lo: number): void {
    this.write32(offset, lo);
  }

  consume(limit: number): void {
    if (this.stuck) return;
    const mask = (2 << this.log2) - 1;
    let cons = this.registers.get(OFFSET.CMDQ_CONS) ?? 0;
    for (let n = 0; n < limit && cons !== (this.registers.get(OFFSET.CMDQ_PROD) ?? 0); n++) {
      const words = new Int32Array(CMD_WORDS);
      this.memory.read(RING + (cons & (mask >> 1)) * 16, words);
      this.consumed.push(words);
      if (getField(words, 0, CMD.Opcode) === COMMANDS.SYNC.opcode && getField(words, 0, CMD.CS) === SYNC_CS.irq) {
        this.memory.store32(getAddress(words, 0, CMD.MSIAddr), getField(words, 0, CMD.MSIData));
      }
      cons = (cons + 1) & mask;
    }
    this.registers.set(OFFSET.CMDQ_CONS, cons);
  }
}
