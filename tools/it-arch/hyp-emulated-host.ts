// A host that programs the SMMU by its registers, as a driver would: one stream table, one stage-1 address space.
import { PAGE_SIZE } from "@smmuv3/platform";
import type { Memory, RegisterWindow } from "@smmuv3/platform";
import {
  CD,
  CD_WORDS,
  CMD,
  CMD_WORDS,
  COMMANDS,
  L1STD,
  OFFSET,
  setAddress,
  setField,
  STE,
  STE_CONFIG,
  STE_WORDS,
} from "@smmuv3/smmu-v3-defs";
import type { CommandField, CommandName } from "@smmuv3/smmu-v3-defs";

import { RAM_BASE, SID } from "./hyp-fixture.ts";
import type { World } from "./hyp-fixture.ts";

const BASE = RAM_BASE + 0x200_0000;
export const HOST_CMDQ: number = BASE;
export const HOST_L1: number = BASE + 0x1000;
export const HOST_L2: number = BASE + 0x4000;
export const HOST_EVTQ: number = BASE + 0x8000;
const HOST_CD = BASE + 0x9000;
const TABLES: readonly number[] = [BASE + 0xa000, BASE + 0xb000, BASE + 0xc000];
const CMDQ_LOG2 = 8;
const EVTQ_LOG2 = 7;

export const CR0 = { SMMUEN: 1, EVENTQEN: 4, CMDQEN: 8 } as const;
const ALL = CR0.SMMUEN | CR0.EVENTQEN | CR0.CMDQEN;
const TABLE = 3;
/** AF, inner shareable, unprivileged, non-global, page. */
const LEAF = 0xf43;
const ASID = 1;

export class EmulatedHost {
  readonly world: World;
  readonly regs: RegisterWindow;
  readonly memory: Memory;
  #prod = 0;

  constructor(world: World) {
    this.world = world;
    this.regs = world.registers();
    this.memory = world.machine.host.memory;
  }

  /** Reset as a driver does it, with an empty stage 1 below stream SID's context descriptor. */
  enable(cr0: number = ALL): void {
    const { regs, memory } = this;
    const l1 = new Int32Array(2);
    setField(l1, 0, L1STD.Span, 9);
    setAddress(l1, 0, L1STD.L2Ptr, HOST_L2);
    memory.write(HOST_L1 + (SID >> 8) * 8, l1);
    this.#writeContext();
    regs.write64(OFFSET.STRTAB_BASE, HOST_L1, 1 << 30);
    regs.write32(OFFSET.STRTAB_BASE_CFG, (1 << 16) | (8 << 6) | 16);
    regs.write64(OFFSET.CMDQ_BASE, HOST_CMDQ | CMDQ_LOG2, 1 << 30);
    regs.write64(OFFSET.EVENTQ_BASE, HOST_EVTQ | EVTQ_LOG2, 1 << 30);
    regs.write32(OFFSET.CR0, cr0);
  }

  /** The stream's STE, and CFGI_STE. */
  setSte(config: number): void {
    const ste = new Int32Array(STE_WORDS);
    setField(ste, 0, STE.V, 1);
    setField(ste, 0, STE.Config, config);
    if (config === STE_CONFIG.s1) {
      setAddress(ste, 0, STE.S1ContextPtr, HOST_CD);
      setField(ste, 0, STE.EATS, 1);
    }
    this.memory.write(HOST_L2 + (SID & 255) * 64, ste);
    this.queue(["CFGI_STE", { SID, Leaf: 1 }], ["SYNC"]);
  }

  /** Maps `iova`, below 2 MiB, to `pa` in stage 1, or unmaps it. */
  map(iova: number, pa: number): void {
    const [, , last] = TABLES;
    this.memory.store32(last! + (iova / PAGE_SIZE) * 8, pa < 0 ? 0 : pa | LEAF);
  }

  /** Invalidates `iova` and waits. */
  invalidate(iova: number): void {
    this.queue(["TLBI_NH_VA", { ASID, Address: iova, Leaf: 1 }], ["SYNC"]);
  }

  queue(...commands: readonly (readonly [CommandName, Partial<Record<CommandField, number>>?])[]): void {
    for (const [name, fields] of commands) {
      const words = new Int32Array(CMD_WORDS);
      setField(words, 0, CMD.Opcode, COMMANDS[name].opcode);
      for (const [key, value] of Object.entries(fields ?? {})) {
        const field = CMD[key as CommandField];
        if ("loMask" in field) setAddress(words, 0, field, value);
        else setField(words, 0, field, value);
      }
      this.memory.write(HOST_CMDQ + (this.#prod & ((1 << CMDQ_LOG2) - 1)) * 16, words);
      this.#prod = (this.#prod + 1) & ((2 << CMDQ_LOG2) - 1);
    }
    this.regs.write32(OFFSET.CMDQ_PROD, this.#prod);
  }

  /** Everything that was queued is consumed, without an error. */
  get idle(): boolean {
    return this.regs.read32(OFFSET.CMDQ_CONS) === this.#prod;
  }

  #writeContext(): void {
    const [first, second, last] = TABLES;
    this.memory.store32(first!, second! | TABLE);
    this.memory.store32(second!, last! | TABLE);
    const cd = new Int32Array(CD_WORDS);
    const fields = { T0SZ: 25, IR0: 1, OR0: 1, SH0: 3, EPD1: 1, V: 1, IPS: 5, AA64: 1, R: 1, A: 1, ASET: 1, ASID, MAIR0: 0xff };
    for (const [name, value] of Object.entries(fields)) setField(cd, 0, CD[name as keyof typeof fields], value);
    setAddress(cd, 0, CD.TTB0, first!);
    this.memory.write(HOST_CD, cd);
  }
}
