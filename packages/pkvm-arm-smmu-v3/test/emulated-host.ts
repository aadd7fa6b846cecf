// A host that programs the emulated SMMU as a driver would, or worse.
import {
  CMD,
  CMD_WORDS,
  COMMANDS,
  L1STD,
  L1STD_WORDS,
  OFFSET,
  setAddress,
  setField,
  STE,
  STE_WORDS,
} from "@smmuv3/smmu-v3-defs";
import type { CommandField, CommandName, RegisterName } from "@smmuv3/smmu-v3-defs";
import { expect } from "vitest";
import { emulationDriver } from "../src/index.ts";
import { hardwareSte, run } from "./el2.ts";
import type { FakeCpu, Running } from "./el2.ts";

/** The host's own queue, level 1, second level and event queue. */
export const HOST_CMDQ = 0x4050_0000;
export const HOST_STRTAB = 0x4060_0000;
export const HOST_L2 = 0x4061_0000;
export const HOST_EVTQ = 0x4062_0000;
export const LOG2 = 8;
export const CR0 = { SMMUEN: 1, EVENTQEN: 4, CMDQEN: 8 } as const;

export class Host {
  readonly cpu: FakeCpu;
  readonly running: Running;
  #prod = 0;

  constructor(ids: Readonly<Record<string, number>> = {}) {
    this.running = run(emulationDriver, { ids });
    this.cpu = this.running.cpu;
    this.cpu.smmu.log.length = 0;
  }
  read(name: RegisterName): number {
    return this.cpu.access(OFFSET[name], 4, false).lo;
  }
  write(name: RegisterName, value: number): void {
    expect(this.cpu.access(OFFSET[name], 4, true, value).action).toBe(1);
  }
  write64(name: RegisterName, lo: number, hi = 0): void {
    expect(this.cpu.access(OFFSET[name], 8, true, lo, hi).action).toBe(1);
  }
  /** As a driver's reset does. */
  enable(cr0: number = CR0.CMDQEN | CR0.SMMUEN): void {
    this.write64("CMDQ_BASE", HOST_CMDQ | LOG2, 1 << 30);
    this.write64("STRTAB_BASE", HOST_STRTAB, 1 << 30);
    this.write("STRTAB_BASE_CFG", (1 << 16) | (8 << 6) | 16);
    this.write64("EVENTQ_BASE", HOST_EVTQ | 7, 1 << 30);
    this.write("CR0", cr0);
  }
  /** Level-1 descriptor of span `span` for the 256 streams from `sid` on. */
  l1(sid: number, l2: number, span = 9): void {
    const desc = new Int32Array(L1STD_WORDS);
    setField(desc, 0, L1STD.Span, span);
    setAddress(desc, 0, L1STD.L2Ptr, l2);
    this.cpu.memory.write(HOST_STRTAB + (sid >> 8) * 8, desc);
  }
  ste(sid: number, fields: Partial<Record<keyof typeof STE, number>>): void {
    const ste = new Int32Array(STE_WORDS);
    for (const [name, value] of Object.entries(fields)) {
      const field = STE[name as keyof typeof STE];
      if ("loMask" in field) setAddress(ste, 0, field, value);
      else setField(ste, 0, field, value);
    }
    this.cpu.memory.write(HOST_L2 + (sid & 255) * 64, ste);
  }
  /** Queues commands and rings the doorbell. */
  queue(...commands: readonly (readonly number[])[]): void {
    for (const command of commands) {
      const slot = this.#prod & ((1 << LOG2) - 1);
      this.cpu.memory.write(HOST_CMDQ + slot * 16, Int32Array.from(command));
      this.#prod = (this.#prod + 1) & ((2 << LOG2) - 1);
    }
    this.write("CMDQ_PROD", this.#prod);
  }
  /** The STE that the hardware sees; undefined without a table. */
  hardware(sid: number): Int32Array | undefined {
    return hardwareSte(this.cpu, sid);
  }
}

export function cmd(name: CommandName, fields: Partial<Record<CommandField, number>> = {}): number[] {
  const words = new Int32Array(CMD_WORDS);
  setField(words, 0, CMD.Opcode, COMMANDS[name].opcode);
  for (const [field, value] of Object.entries(fields)) {
    const def = CMD[field as CommandField];
    if ("loMask" in def) setAddress(words, 0, def, value);
    else setField(words, 0, def, value);
  }
  return [...words];
}
