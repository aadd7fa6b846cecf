import { maskOf, OFFSET, REG, S_OFFSET } from "@smmuv3/smmu-v3-defs";
import type { RegisterWindow } from "@smmuv3/platform";
import type { SmmuPolicy } from "./policy.ts";
import type { RegisterFile } from "./registers.ts";
import type { RegisterTable } from "./register-table.ts";

const { CR0, CR1 } = REG;
/** CR1 is guarded by field (6.3.11): the queue attributes by every queue enable, the table attributes by SMMUEN. */
const CR1_QUEUE = maskOf(CR1.QUEUE_IC) | maskOf(CR1.QUEUE_OC) | maskOf(CR1.QUEUE_SH);
const CR1_TABLE = maskOf(CR1.TABLE_IC) | maskOf(CR1.TABLE_OC) | maskOf(CR1.TABLE_SH);
const QUEUE_ENABLES = maskOf(CR0.CMDQEN) | maskOf(CR0.EVENTQEN) | maskOf(CR0.PRIQEN);
const SMMUEN = maskOf(CR0.SMMUEN);
const UPDATE = maskOf(REG.GBPA.UPDATE);
const RUN = maskOf(REG.GATOS_CTRL.RUN);
const FAULT = maskOf(REG.DPT_CFG_FAR.FAULT);
/** ECMDQ_PROD.EN and ECMDQ_CONS.ENACK are in the same place. */
const ECMDQ_EN = -0x8000_0000;

/** The bus error of an illegal register access, where the policy asks for one. */
export class RegisterAbort extends Error {
  readonly offset: number;
  readonly write: boolean;

  constructor(offset: number, bytes: number, write: boolean) {
    super(`register abort: ${write ? "write" : "read"} of ${bytes} bytes at 0x${offset.toString(16)}`);
    this.name = "RegisterAbort";
    this.offset = offset;
    this.write = write;
  }
}

/** What happens after a register was written; `offset` is that of the register, not of its half. */
export type WriteHook = (offset: number) => void;

/** Software's view of the registers from one Security state: which bits of which words are taken, when. */
export class RegisterBlock implements RegisterWindow {
  /** High word of the last {@link read64}. */
  hi = 0;

  readonly #file: RegisterFile;
  readonly #table: RegisterTable;
  readonly #policy: SmmuPolicy;
  readonly #secure: boolean;
  readonly #written: WriteHook;
  /** VATOS_CTRL, or -1. */
  readonly #vatosCtrl: number;

  constructor(
    file: RegisterFile,
    table: RegisterTable,
    policy: SmmuPolicy,
    secure: boolean,
    vatosCtrl: number,
    written: WriteHook,
  ) {
    this.#file = file;
    this.#table = table;
    this.#policy = policy;
    this.#secure = secure;
    this.#vatosCtrl = vatosCtrl;
    this.#written = written;
  }

  read32(offset: number): number {
    if (offset % 4 !== 0) return this.#illegal(offset, 4, false) ? this.#load(offset >> 2) : 0;
    return this.#load(offset >> 2);
  }

  read64(offset: number): number {
    const word = offset >> 2;
    if ((offset % 8 !== 0 || this.#table.wide[this.#at(word)] !== 1) && !this.#illegal(offset, 8, false)) {
      this.hi = 0;
      return 0;
    }
    this.hi = this.#load(word + 1);
    return this.#load(word);
  }

  write32(offset: number, value: number): void {
    const word = offset >> 2;
    if (offset % 4 !== 0) {
      if (!this.#illegal(offset, 4, true)) return;
      // Both words that the access spans take some value (6.2): the whole of what was written.
      this.#storeNotify(word + 1, value);
    }
    this.#storeNotify(word, value);
  }

  write64(offset: number, lo: number, hi: number): void {
    const word = offset >> 2;
    const table = this.#table;
    const at = this.#at(word);
    if (offset % 8 !== 0 || table.wide[at] !== 1) {
      if (!this.#illegal(offset, 8, true)) return;
      this.#storeNotify(word, lo);
      this.#storeNotify(word + 1, hi);
      return;
    }
    const low = this.#store(at, lo);
    const high = this.#store(this.#at(word + 1), hi);
    if (low || high) this.#written(table.owner[at]!);
  }

  /** Word that an access of `word` reaches, -1 for none. */
  #at(word: number): number {
    const table = this.#table;
    if (word < 0 || word >= table.alias.length) return -1;
    const at = table.alias[word]!;
    return !this.#secure && table.secure[at] === 1 ? -1 : at;
  }

  #load(word: number): number {
    const at = this.#at(word);
    return at < 0 ? 0 : this.#file.words[at]!;
  }

  /** An access of a size or alignment that is not supported: true where it goes to the words that it spans (6.2). */
  #illegal(offset: number, bytes: number, write: boolean): boolean {
    if (this.#policy.registerAccess === "abort") throw new RegisterAbort(offset, bytes, write);
    return this.#policy.registerAccess === "spread";
  }

  #storeNotify(word: number, value: number): void {
    const at = this.#at(word);
    if (this.#store(at, value)) this.#written(this.#table.owner[at]!);
  }

  /** Writes the bits that may be written. Returns false for a write that is ignored as a whole. */
  #store(at: number, value: number): boolean {
    if (at < 0) return false;
    const file = this.#file;
    const old = file.words[at]!;
    if (this.#table.owner[at] === OFFSET.DPT_CFG_FAR) return this.#clearFault(at, old, value);
    const writable = this.#table.writable[at]!;
    if (writable === 0) return false;
    const mask = writable & this.#open(at, old, value);
    if (mask === 0) return false;
    file.words[at] = (old & ~mask) | (value & mask);
    return true;
  }

  /** DPT_CFG_FAR: a write that clears FAULT clears all of it; any other is ignored (6.3.48). */
  #clearFault(at: number, old: number, value: number): boolean {
    if (at << 2 !== OFFSET.DPT_CFG_FAR || (old & ~value & FAULT) === 0) return false;
    this.#file.set(OFFSET.DPT_CFG_FAR, 0);
    this.#file.set(OFFSET.DPT_CFG_FAR + 4, 0);
    return true;
  }

  /** Bits of the word that the present state allows to be written. */
  #open(at: number, old: number, value: number): number {
    const guard = this.#table.guard[at]!;
    const offset = at << 2;
    if (guard !== 0) {
      const { control, acknowledge, bits } = this.#table.guards[guard]!;
      const file = this.#file;
      const closed = ((file.get(control) | file.get(acknowledge)) & bits) !== 0;
      if (closed && this.#policy.guardedWrite === "ignore") return 0;
      return this.#runs(offset, value) ? -1 : 0;
    }
    switch (offset) {
      case OFFSET.CR0:
        return this.#change(old, OFFSET.CR0ACK);
      case OFFSET.IRQ_CTRL:
        return this.#change(old, OFFSET.IRQ_CTRLACK);
      case S_OFFSET.S_CR0:
        return this.#change(old, S_OFFSET.S_CR0ACK);
      case S_OFFSET.S_IRQ_CTRL:
        return this.#change(old, S_OFFSET.S_IRQ_CTRLACK);
      case OFFSET.CR1:
        return this.#attributes(OFFSET.CR0, OFFSET.CR0ACK);
      case S_OFFSET.S_CR1:
        return this.#attributes(S_OFFSET.S_CR0, S_OFFSET.S_CR0ACK);
      case OFFSET.GBPA:
      case OFFSET.GMPAM:
      case OFFSET.GBPMPAM:
      case S_OFFSET.S_GBPA:
      case S_OFFSET.S_GMPAM:
      case S_OFFSET.S_GBPMPAM:
        // Not while an earlier update is under way, and not without UPDATE unless the policy has it (6.3.14.1).
        if ((old & UPDATE) !== 0) return 0;
        return (value & UPDATE) !== 0 || this.#policy.updateBit !== "ignore" ? -1 : 0;
      default:
        return this.#changing(offset) ? 0 : -1;
    }
  }

  /** ECMDQ_PROD while EN waits for its acknowledgement: read-only (6.3.108). */
  #changing(offset: number): boolean {
    const { ecmdqs } = this.#table;
    if (ecmdqs.length === 0 || offset < ecmdqs[0]! || offset > ecmdqs.at(-1)!) return false;
    return ((this.#file.get(offset) ^ this.#file.get(offset + 4)) & ECMDQ_EN) !== 0;
  }

  /** A second change of a register before its first is acknowledged is ignored (6.3.9, v3.2), or replaces it. */
  #change(old: number, acknowledge: number): number {
    return old === this.#file.get(acknowledge) || this.#policy.secondWrite === "replace" ? -1 : 0;
  }

  #attributes(control: number, acknowledge: number): number {
    const file = this.#file;
    if (this.#policy.guardedWrite === "apply") return -1;
    const enabled = file.get(control) | file.get(acknowledge);
    let queues = (enabled & QUEUE_ENABLES) === 0 ? CR1_QUEUE : 0;
    if (queues !== 0 && control === OFFSET.CR0) {
      for (const prod of this.#table.ecmdqs) if (((file.get(prod) | file.get(prod + 4)) & ECMDQ_EN) !== 0) queues = 0;
    }
    return (enabled & SMMUEN) === 0 ? queues | CR1_TABLE : queues;
  }

  /** RUN of an ATOS interface is set only while its SMMUEN is 1 and not about to change (6.3.37); all else passes. */
  #runs(offset: number, value: number): boolean {
    const file = this.#file;
    if ((value & RUN) === 0) return true;
    if (offset === S_OFFSET.S_GATOS_CTRL) return (file.get(S_OFFSET.S_CR0) & file.get(S_OFFSET.S_CR0ACK) & SMMUEN) !== 0;
    if (offset !== OFFSET.GATOS_CTRL && offset !== this.#vatosCtrl) return true;
    return (file.get(OFFSET.CR0) & file.get(OFFSET.CR0ACK) & SMMUEN) !== 0;
  }
}
