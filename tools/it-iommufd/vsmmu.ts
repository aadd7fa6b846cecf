// The SMMUv3 that a virtual machine sees: registers and queues here, stage 1 and its invalidations by iommufd.
import { join } from "@smmuv3/platform";
import type { InterruptLine, Memory, RegisterWindow } from "@smmuv3/platform";
import {
  CERROR, CMD, CMD_BYTES, CMD_WORDS, COMMAND_NAMES, EVENT, EVENT_BYTES, EVENT_WORDS, EVENTS, extract, getAddress, getField, L1STD,
  maskOf, OFFSET, place, REG, setField, STE_BYTES, STRTAB_FMT, SYNC_CS,
} from "@smmuv3/smmu-v3-defs";
import type { CommandName } from "@smmuv3/smmu-v3-defs";

/** What the front end asks of the part that has the physical SMMU. */
export interface VsmmuBackend {
  /** Numbers of the devices. */
  readonly vsids: readonly number[];
  /** ID registers of the physical SMMU, IDR0 to IDR5. */
  readonly idr: Int32Array;
  /** Makes the device do what the first two quadwords of its STE say. 0 or a negative errno. */
  setSte(vsid: number, vste: Int32Array): number;
  /** Sends `count` commands. How many were done. */
  invalidate(commands: Int32Array, count: number): number;
  /** Events since the last call, 8 words each. */
  events(): Int32Array[];
}

const { IDR0, IDR1, IDR3, IDR5, CR0, GERROR, GBPA } = REG;

/** What of the physical ID registers means the same to a guest. */
const KEPT = [
  maskOf(IDR0.ST_LEVEL) | maskOf(IDR0.TERM_MODEL) | maskOf(IDR0.STALL_MODEL) | maskOf(IDR0.TTENDIAN) | maskOf(IDR0.CD2L) |
    maskOf(IDR0.ASID16) | maskOf(IDR0.TTF),
  maskOf(IDR1.SSIDSIZE),
  0,
  maskOf(IDR3.BBML) | maskOf(IDR3.RIL),
  0,
  maskOf(IDR5.GRAN4K) | maskOf(IDR5.GRAN16K) | maskOf(IDR5.GRAN64K),
] as const;
/** What the front end itself is: stage 1, coherent, queues, 40-bit output addresses. */
const OWN = [
  place(IDR0.S1P, 1) | place(IDR0.COHACC, 1),
  place(IDR1.SIDSIZE, 16) | place(IDR1.CMDQS, 8) | place(IDR1.EVENTQS, 7),
  0, 0, 0,
  place(IDR5.OAS, 2),
] as const;

/** Fields of an STE that a guest decides, by word. */
const VSTE_MASK = [-1, 0xf80f_ffff | 0, 0x3800_00ff, 0] as const;
const VALID = 1;
const CONFIG_BYPASS = 4;
/** Commands that the physical SMMU carries out. */
const FORWARDED: ReadonlySet<CommandName> = new Set([
  "TLBI_NSNH_ALL", "TLBI_NH_ALL", "TLBI_NH_ASID", "TLBI_NH_VA", "TLBI_NH_VAA", "CFGI_CD", "CFGI_CD_ALL", "ATC_INV",
]);
const CMDQ_ERR = maskOf(GERROR.CMDQ_ERR);

export class VirtualSmmu implements RegisterWindow {
  hi = 0;
  readonly #regs = new Map<number, number>();
  readonly #memory: Memory;
  readonly #backend: VsmmuBackend;
  readonly #irq: { readonly evtq: InterruptLine; readonly gerror: InterruptLine };
  readonly #batch: number[] = [];

  constructor(memory: Memory, backend: VsmmuBackend, irq: { readonly evtq: InterruptLine; readonly gerror: InterruptLine }) {
    this.#memory = memory;
    this.#backend = backend;
    this.#irq = irq;
    for (let i = 0; i < KEPT.length; i++) this.#regs.set(OFFSET.IDR0 + 4 * i, (backend.idr[i]! & KEPT[i]!) | OWN[i]!);
  }

  /** As an SMMU that is off: everything passes. */
  reset(): void {
    this.#applyAll();
  }

  // --- registers ---

  read32(offset: number): number {
    return this.#regs.get(offset) ?? 0;
  }

  read64(offset: number): number {
    this.hi = this.read32(offset + 4);
    return this.read32(offset);
  }

  write64(offset: number, lo: number, hi: number): void {
    this.#regs.set(offset + 4, hi);
    this.write32(offset, lo);
  }

  write32(offset: number, value: number): void {
    const before = this.read32(offset);
    this.#regs.set(offset, value);
    if (offset === OFFSET.CR0) {
      this.#regs.set(OFFSET.CR0ACK, value);
      if (((before ^ value) & maskOf(CR0.SMMUEN)) !== 0) this.#applyAll();
      this.#consume();
    } else if (offset === OFFSET.IRQ_CTRL) {
      this.#regs.set(OFFSET.IRQ_CTRLACK, value);
    } else if (offset === OFFSET.GBPA) {
      this.#regs.set(OFFSET.GBPA, value & ~maskOf(GBPA.UPDATE));
      this.#applyAll();
    } else if (offset === OFFSET.CMDQ_PROD || offset === OFFSET.GERRORN) {
      this.#consume();
    }
  }

  #enabled(bit: number): boolean {
    return (this.read32(OFFSET.CR0) & bit) !== 0;
  }

  // --- commands ---

  get #failed(): boolean {
    return ((this.read32(OFFSET.GERROR) ^ this.read32(OFFSET.GERRORN)) & CMDQ_ERR) !== 0;
  }

  #consume(): void {
    if (!this.#enabled(maskOf(CR0.CMDQEN)) || this.#failed) return;
    const mask = (2 << this.#log2(OFFSET.CMDQ_BASE)) - 1;
    const prod = this.read32(OFFSET.CMDQ_PROD) & mask;
    const words = new Int32Array(CMD_WORDS);
    let cons = this.read32(OFFSET.CMDQ_CONS) & mask;
    let first = cons;
    for (; cons !== prod; cons = (cons + 1) & mask) {
      this.#memory.read(this.#base(OFFSET.CMDQ_BASE) + (cons & (mask >> 1)) * CMD_BYTES, words);
      const name = COMMAND_NAMES.get(getField(words, 0, CMD.Opcode));
      if (name !== undefined && FORWARDED.has(name)) {
        if (this.#batch.length === 0) first = cons;
        this.#batch.push(...words);
        continue;
      }
      if (!this.#flush(first, mask)) return;
      if (!this.#execute(name, words)) {
        this.#fail(cons, CERROR.ILL);
        return;
      }
    }
    if (this.#flush(first, mask)) this.#regs.set(OFFSET.CMDQ_CONS, cons);
  }

  /** Does what is not the physical SMMU's to do. False: this SMMU has no such command. */
  #execute(name: CommandName | undefined, words: Int32Array): boolean {
    switch (name) {
      case "PREFETCH_CONFIG":
      case "PREFETCH_ADDR":
        return true;
      case "SYNC":
        if (getField(words, 0, CMD.CS) === SYNC_CS.irq) {
          this.#memory.store32(getAddress(words, 0, CMD.MSIAddr), getField(words, 0, CMD.MSIData));
        }
        return true;
      case "CFGI_STE":
        this.#apply(getField(words, 0, CMD.SID));
        return true;
      case "CFGI_STE_RANGE":
        this.#applyAll();
        return true;
      default:
        return false;
    }
  }

  /** Sends what was collected from queue entry `first` on. False: a command was refused, and the queue stops there. */
  #flush(first: number, mask: number): boolean {
    const count = this.#batch.length / CMD_WORDS;
    if (count === 0) return true;
    const done = this.#backend.invalidate(Int32Array.from(this.#batch), count);
    this.#batch.length = 0;
    if (done === count) return true;
    this.#fail((first + done) & mask, CERROR.ILL);
    return false;
  }

  #fail(cons: number, error: number): void {
    this.#regs.set(OFFSET.CMDQ_CONS, cons | place(REG.CMDQ_CONS.ERR, error));
    this.#regs.set(OFFSET.GERROR, this.read32(OFFSET.GERROR) ^ CMDQ_ERR);
    this.#irq.gerror.pulse();
  }

  // --- streams ---

  #applyAll(): void {
    for (const vsid of this.#backend.vsids) this.#apply(vsid);
  }

  /** Makes a device do what the guest wants of it now. */
  #apply(vsid: number): void {
    if (!this.#backend.vsids.includes(vsid)) return;
    const vste = new Int32Array(4);
    if (this.#enabled(maskOf(CR0.SMMUEN))) {
      const pa = this.#steAddress(vsid);
      if (pa >= 0) this.#memory.read(pa, vste);
      for (let i = 0; i < vste.length; i++) vste[i]! &= VSTE_MASK[i]!;
    } else {
      vste[0] = VALID | ((this.read32(OFFSET.GBPA) & maskOf(GBPA.ABORT)) === 0 ? CONFIG_BYPASS << 1 : 0);
    }
    if (this.#backend.setSte(vsid, vste) === 0) return;
    // What no physical SMMU takes, is an illegal STE to the guest.
    this.#backend.setSte(vsid, Int32Array.of(VALID, 0, 0, 0));
    const event = new Int32Array(EVENT_WORDS);
    setField(event, 0, EVENT.Type, EVENTS.C_BAD_STE.type);
    setField(event, 0, EVENT.SID, vsid);
    this.#event(event);
  }

  #steAddress(vsid: number): number {
    const table = this.#base(OFFSET.STRTAB_BASE);
    const cfg = this.read32(OFFSET.STRTAB_BASE_CFG);
    const field = REG.STRTAB_BASE_CFG;
    if (vsid >= 2 ** extract(cfg, field.LOG2SIZE)) return -1;
    if (extract(cfg, field.FMT) === STRTAB_FMT.linear) return table + vsid * STE_BYTES;
    const split = extract(cfg, field.SPLIT);
    const desc = new Int32Array(2);
    this.#memory.read(table + (vsid >>> split) * 8, desc);
    const span = getField(desc, 0, L1STD.Span);
    const index = vsid & ((1 << split) - 1);
    if (span === 0 || index >= 2 ** (span - 1)) return -1;
    return getAddress(desc, 0, L1STD.L2Ptr) + index * STE_BYTES;
  }

  // --- events ---

  /** Takes what happened at the physical SMMU. */
  pump(): void {
    for (const event of this.#backend.events()) this.#event(event);
  }

  #event(event: Int32Array): void {
    if (!this.#enabled(maskOf(CR0.EVENTQEN))) return;
    const log2 = this.#log2(OFFSET.EVENTQ_BASE);
    const mask = (2 << log2) - 1;
    const prod = this.read32(OFFSET.EVENTQ_PROD) & mask;
    const cons = this.read32(OFFSET.EVENTQ_CONS) & mask;
    if ((prod ^ cons) === 1 << log2) return;
    this.#memory.write(this.#base(OFFSET.EVENTQ_BASE) + (prod & (mask >> 1)) * EVENT_BYTES, event);
    this.#regs.set(OFFSET.EVENTQ_PROD, (prod + 1) & mask);
    this.#irq.evtq.pulse();
  }

  #log2(base: number): number {
    return this.read32(base) & 0x1f;
  }

  /** Address bits [51:5] of a base register. */
  #base(offset: number): number {
    return join(this.read32(offset) & ~0x1f, this.read32(offset + 4) & 0xf_ffff);
  }
}
