import { Memory } from "@smmuv3/platform";
import type { RegisterWindow } from "@smmuv3/platform";
import { CMD_BYTES, CMD_WORDS, COMMAND_NAMES, COMMANDS, OFFSET, REGISTER_AT } from "@smmuv3/smmu-v3-defs";

/** ID registers: both stages, 16-bit StreamIDs in two levels, RIL, 44-bit addresses, and all that EL2 hides. */
export const IDS: Readonly<Record<string, number>> = {
  IDR0: 0x085d_fe3f,
  IDR1: 0x0273_0010,
  IDR3: 0x1414,
  IDR5: 0x0074,
  AIDR: 1,
};

const CMDQEN = 8;
const UPDATE = 1 << 31;

/** Registers and a command queue that records: no translation. Its log has writes, as `NAME=hex`, and commands, by name. */
export class FakeSmmu implements RegisterWindow {
  hi = 0;
  readonly log: string[] = [];
  /** Commands consumed, 4 words each. */
  readonly commands: number[][] = [];
  /** Called before a command is consumed. */
  onCommand: (name: string) => void = () => {};
  /** CR0 is acknowledged; commands are consumed. */
  acknowledges = true;
  consumes = true;
  readonly #memory: Memory;
  readonly #words = new Map<number, number>();

  constructor(memory: Memory, ids: Readonly<Record<string, number>> = IDS) {
    this.#memory = memory;
    for (const [name, value] of Object.entries(ids)) this.set(name, value);
  }

  get(name: string, high = 0): number {
    return this.#words.get(OFFSET[name as keyof typeof OFFSET] + high * 4) ?? 0;
  }
  set(name: string, value: number): void {
    this.#words.set(OFFSET[name as keyof typeof OFFSET], value);
  }

  read32(offset: number): number {
    return this.#words.get(offset) ?? 0;
  }
  read64(offset: number): number {
    this.hi = this.read32(offset + 4);
    return this.read32(offset);
  }
  write64(offset: number, lo: number, hi: number): void {
    this.log.push(`${REGISTER_AT.get(offset) ?? offset}=${(hi >>> 0).toString(16)}:${(lo >>> 0).toString(16)}`);
    this.#words.set(offset, lo);
    this.#words.set(offset + 4, hi);
  }
  write32(offset: number, value: number): void {
    const name = REGISTER_AT.get(offset) ?? String(offset);
    this.log.push(`${name}=${(value >>> 0).toString(16)}`);
    this.#words.set(offset, name === "GBPA" ? value & ~UPDATE : value);
    if (name === "CR0" && this.acknowledges) this.set("CR0ACK", value);
    if (name === "IRQ_CTRL") this.set("IRQ_CTRLACK", value);
    if (name === "CMDQ_PROD" || name === "GERRORN" || name === "CR0") this.#consume();
  }

  #consume(): void {
    const log2 = this.get("CMDQ_BASE") & 31;
    const base = (this.get("CMDQ_BASE") & ~31) >>> 0;
    const mask = (2 << log2) - 1;
    for (;;) {
      const cons = this.get("CMDQ_CONS") & mask;
      const stopped = ((this.get("GERROR") ^ this.get("GERRORN")) & 1) !== 0;
      if (!this.consumes || stopped || (this.get("CR0ACK") & CMDQEN) === 0 || cons === (this.get("CMDQ_PROD") & mask)) return;
      const command = new Int32Array(CMD_WORDS);
      this.#memory.read(base + (cons & (mask >> 1)) * CMD_BYTES, command);
      const name = COMMAND_NAMES.get(command[0]! & 0xff);
      if (name === undefined) {
        this.log.push("ILLEGAL");
        this.set("CMDQ_CONS", cons | (1 << 24));
        this.set("GERROR", this.get("GERROR") ^ 1);
        return;
      }
      this.onCommand(name);
      this.log.push(name);
      if (command[0] !== 0 && (command[0]! & 0xff) !== COMMANDS.SYNC.opcode) this.commands.push([...command]);
      this.set("CMDQ_CONS", (cons + 1) & mask);
    }
  }
}
