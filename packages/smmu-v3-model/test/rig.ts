// A machine around the model: RAM, a linear stream table, queues, tables built by hand.
import { ACCESS, hi32, join, lo32, Memory, TRANSLATION } from "@smmuv3/platform";
import { CD, CMD, COMMANDS, OFFSET, place, setAddress, setField, STE, STE_CONFIG } from "@smmuv3/smmu-v3-defs";
import type { CommandName, Field } from "@smmuv3/smmu-v3-defs";
import { PRESETS, SmmuV3 } from "../src/index.ts";
import type { SmmuV3Options } from "../src/index.ts";

export const BASE = 0x4000_0000;
export const STRTAB: number = BASE + 0x1_0000;
export const STRTAB_LOG2 = 6;
export const CMDQ: number = BASE + 0x2_0000;
export const CMDQ_LOG2 = 4;
export const EVTQ: number = BASE + 0x3_0000;
export const EVTQ_LOG2 = 2;
export const CDS: number = BASE + 0x4_0000;
export const ARENA: number = BASE + 0x10_0000;
/** Where tests map to; not RAM, and it need not be. */
export const PA = 0x8_0000_0000;

/** Attributes of leaves. */
export const S1 = { rw: 0xf40, ro: 0xfc0, priv: 0xf00, global: 0x740, noAf: 0xb40 } as const;
export const S2 = { rw: 0x7fc, ro: 0x77c, wo: 0x7bc, none: 0x73c, noAf: 0x3fc } as const;

export type SteValues = Readonly<Partial<Record<keyof typeof STE, number>>>;
export type CdValues = Readonly<Partial<Record<keyof typeof CD, number>>>;

export interface RigOptions extends Partial<SmmuV3Options> {
  /** CR0 to start with; default: SMMUEN, EVENTQEN, CMDQEN. */
  readonly cr0?: number;
  readonly cr2?: number;
}

export class Rig {
  readonly memory: Memory = Memory.allocate({ base: BASE, size: 0x100_0000 });
  readonly smmu: SmmuV3;
  readonly pulses = { evtq: 0, gerror: 0, cmdSync: 0 };
  #bump = ARENA;

  constructor(options: RigOptions = {}) {
    const line = (name: keyof Rig["pulses"]): { pulse: () => void } => ({
      pulse: () => {
        this.pulses[name]++;
      },
    });
    this.smmu = new SmmuV3({
      memory: this.memory,
      id: PRESETS.reference,
      irq: { evtq: line("evtq"), gerror: line("gerror"), cmdSync: line("cmdSync") },
      ...options,
    });
    this.write64("STRTAB_BASE", STRTAB);
    this.write("STRTAB_BASE_CFG", STRTAB_LOG2);
    this.write64("CMDQ_BASE", CMDQ + CMDQ_LOG2);
    this.write64("EVENTQ_BASE", EVTQ + EVTQ_LOG2);
    this.write("CR2", options.cr2 ?? 2);
    this.write("IRQ_CTRL", 5);
    this.write("CR0", options.cr0 ?? 0xd);
    if (options.progress !== undefined && options.progress !== "immediate") this.smmu.step(0);
  }

  read(register: keyof typeof OFFSET): number {
    return this.smmu.registers.read32(OFFSET[register]) >>> 0;
  }

  write(register: keyof typeof OFFSET, value: number): void {
    this.smmu.registers.write32(OFFSET[register], value);
  }

  write64(register: keyof typeof OFFSET, value: number): void {
    this.smmu.registers.write64(OFFSET[register], lo32(value), hi32(value));
  }

  alloc(bytes: number, align: number = bytes): number {
    const pa = Math.ceil(this.#bump / align) * align;
    this.#bump = pa + bytes;
    return pa;
  }

  /** Maps one 4K page, or a block of `size`, in a table of four levels whose root is `root`. */
  map(root: number, address: number, pa: number, attributes: number, size: number = 0x1000): void {
    let table = root;
    for (let shift = 39; ; shift -= 9) {
      const slot = table + (Math.floor(address / 2 ** shift) % 512) * 8;
      if (2 ** shift === size) {
        this.memory.store64(slot, lo32(pa) | attributes | (size === 0x1000 ? 3 : 1), hi32(pa));
        return;
      }
      if (this.memory.load64(slot) === 0) this.memory.store64(slot, lo32(this.alloc(0x1000)) | 3, 0);
      table = (this.memory.load32(slot) & ~0xfff) >>> 0;
    }
  }

  /** Address of the 4K leaf for `address`. */
  leaf(root: number, address: number): number {
    let table = root;
    for (let shift = 39; shift > 12; shift -= 9) {
      table = (this.memory.load32(table + (Math.floor(address / 2 ** shift) % 512) * 8) & ~0xfff) >>> 0;
    }
    return table + (Math.floor(address / 0x1000) % 512) * 8;
  }

  fields(table: object, pa: number, values: Readonly<Partial<Record<string, number>>>): void {
    const at = this.memory.index(pa, true);
    for (const [name, value] of Object.entries(values)) {
      const field = (table as Record<string, unknown>)[name] as Field;
      if ("loMask" in field) setAddress(this.memory.words, at, field as never, value ?? 0);
      else setField(this.memory.words, at, field, value ?? 0);
    }
  }

  ste(sid: number, values: SteValues, table: number = STRTAB): void {
    this.memory.fill(table + sid * 64, 64, 0);
    this.fields(STE, table + sid * 64, { V: 1, ...values });
  }

  cd(pa: number, values: CdValues): void {
    this.memory.fill(pa, 64, 0);
    this.fields(CD, pa, { V: 1, AA64: 1, T0SZ: 16, EPD1: 1, IPS: 5, A: 1, R: 1, ...values });
  }

  /** A stage-1 stream; returns the root of its tables. */
  stage1(sid: number, cd: CdValues = {}, ste: SteValues = {}): number {
    const root = this.alloc(0x1000);
    this.ste(sid, { Config: STE_CONFIG.s1, S1ContextPtr: CDS + sid * 64, ...ste });
    this.cd(CDS + sid * 64, { TTB0: root, ASID: sid, ...cd });
    return root;
  }

  /** Stage-2 fields for tables of four levels. */
  stage2Fields(root: number, vmid: number): SteValues {
    return { S2VMID: vmid, S2T0SZ: 16, S2SL0: 2, S2PS: 5, S2AA64: 1, S2R: 1, S2TTB: root };
  }

  /** A stage-2 stream; returns the root of its tables. */
  stage2(sid: number, vmid: number = sid, ste: SteValues = {}): number {
    const root = this.alloc(0x1000);
    this.ste(sid, { Config: STE_CONFIG.s2, ...this.stage2Fields(root, vmid), ...ste });
    return root;
  }

  /** A nested stream whose stage 2 maps all of RAM at its own address; returns both roots. */
  nested(sid: number, vmid: number = sid, cd: CdValues = {}, ste: SteValues = {}): { root1: number; root2: number } {
    const root2 = this.alloc(0x1000);
    for (let pa = BASE; pa < BASE + 0x100_0000; pa += 0x1000) this.map(root2, pa, pa, S2.rw);
    const root1 = this.stage1(sid, cd);
    this.fields(STE, STRTAB + sid * 64, { Config: STE_CONFIG.nested, ...this.stage2Fields(root2, vmid), ...ste });
    return { root1, root2 };
  }

  /** Translates; `pa` where it is permitted. */
  access(sid: number, address: number, flags: number = ACCESS.read, ssid: number = 0): { result: number; pa: number } {
    const result = this.smmu.translate(sid, ssid, lo32(address), hi32(address), flags);
    return { result, pa: result === TRANSLATION.ok ? join(this.smmu.paLo, this.smmu.paHi) : -1 };
  }

  /** The PA, or the name of the event. */
  outcome(sid: number, address: number, flags: number = ACCESS.read, ssid: number = 0): number | string {
    const { result, pa } = this.access(sid, address, flags, ssid);
    if (result === TRANSLATION.ok) return pa;
    return this.smmu.explainLast() ?? (result === TRANSLATION.abort ? "abort" : "raz");
  }

  /** The words of the records in the queue, which is emptied. */
  events(): number[][] {
    const out = this.smmu.decodeEvents().map(({ words }) => Array.from(words, (word) => word >>> 0));
    this.write("EVENTQ_CONS", this.read("EVENTQ_PROD"));
    return out;
  }

  /** Puts a command at the producer's place without ringing. */
  push(name: CommandName, values: Readonly<Partial<Record<keyof typeof CMD, number>>> = {}): number {
    const prod = this.#prod;
    const pa = CMDQ + (prod & ((1 << CMDQ_LOG2) - 1)) * 16;
    this.memory.fill(pa, 16, 0);
    this.memory.store32(pa, place(CMD.Opcode, COMMANDS[name].opcode));
    this.fields(CMD, pa, values);
    this.#prod = (prod + 1) & ((2 << CMDQ_LOG2) - 1);
    return pa;
  }

  /** Puts commands and rings. */
  command(name: CommandName, values: Readonly<Partial<Record<keyof typeof CMD, number>>> = {}): void {
    this.push(name, values);
    this.ring();
  }

  ring(): void {
    this.write("CMDQ_PROD", this.#prod);
  }

  /** Stops, moves both indices to 0, starts. */
  restart(): void {
    this.write("CR0", 0x5);
    this.write("CMDQ_PROD", 0);
    this.write("CMDQ_CONS", 0);
    this.#prod = 0;
    this.write("CR0", 0xd);
  }

  #prod = 0;
}
