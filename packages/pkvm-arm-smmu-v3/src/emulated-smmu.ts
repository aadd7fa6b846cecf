import { queueBase } from "@smmuv3/arm-smmu-v3-common";
import { LOCK_RANK } from "@smmuv3/pkvm-hyp";
import type { HypCore } from "@smmuv3/pkvm-hyp";
import { join, SpinLock } from "@smmuv3/platform";
import { EVENT_BYTES, extract, maskOf, OFFSET, place, REG, REGISTER_AT } from "@smmuv3/smmu-v3-defs";
import type { Guard, RegisterName } from "@smmuv3/smmu-v3-defs";

import { definition, EMULATED } from "./emulated-registers.ts";
import type { EmulatedRegister } from "./emulated-registers.ts";
import type { IdentityMap } from "./idmap.ts";
import { ShadowCmdq } from "./shadow-cmdq.ts";
import { ShadowStrtab } from "./shadow-strtab.ts";
import type { HypSmmu } from "./smmu.ts";

const { CR0, GERROR } = REG;
const SMMUEN: number = maskOf(CR0.SMMUEN);
const CMDQEN: number = maskOf(CR0.CMDQEN);
const EVENTQEN: number = maskOf(CR0.EVENTQEN);
const CMDQ_ERR: number = maskOf(GERROR.CMDQ_ERR);
const GERROR_IRQEN: number = maskOf(REG.IRQ_CTRL.GERROR_IRQEN);
/** Global errors that are the hardware's to report; CMDQ_ERR is the emulated queue's, MSI and PRI do not exist. */
const DEVICE_ERRORS: number = maskOf(GERROR.EVENTQ_ABT_ERR) | maskOf(GERROR.SFM_ERR);

/** Bits of the host's CR0 that must be 0 for a write to be taken. */
const GUARDS: Partial<Readonly<Record<Guard, number>>> = { smmuen: SMMUEN, cmdqen: CMDQEN, eventqen: EVENTQEN };

/** The SMMU that the host sees in place of one that EL2 owns: stage 1 only, wired interrupts, everything architected answers. */
export class EmulatedSmmu {
  readonly smmu: HypSmmu;
  /** Held for an access, on whatever CPU; the hardware's own comes after those of memory. */
  readonly lock: SpinLock;
  readonly #core: HypCore;
  readonly #strtab: ShadowStrtab;
  readonly #cmdq: ShadowCmdq;
  readonly #errorIrq: number | undefined;
  /** Registers of kind `own`: low word, high word. */
  readonly #own = new Map<RegisterName, Int32Array>();
  #cr0 = 0;
  #cr0ack = 0;
  /** The CMDQ_ERR bits of GERROR and GERRORN. */
  #gerror = 0;
  #gerrorn = 0;
  #eventBase = 0;
  #eventBytes = 0;
  /** High word of the last read. */
  hi = 0;

  /** `errorIrq`: the interrupt by which the SMMU reports global errors, where it has a wired one. */
  constructor(core: HypCore, smmu: HypSmmu, map: IdentityMap, errorIrq: number | undefined) {
    this.#core = core;
    this.smmu = smmu;
    this.lock = new SpinLock(`emulated smmu${smmu.index}`, LOCK_RANK.emulation, core.locks);
    this.#errorIrq = errorIrq;
    this.#strtab = new ShadowStrtab(core, smmu, map.stage2(smmu));
    this.#cmdq = new ShadowCmdq(core, smmu, this.#strtab);
  }

  /** Reads `size` bytes at `offset`; returns the low word, {@link hi} has the other. What has no meaning reads as zero. */
  read(offset: number, size: number): number {
    this.hi = 0;
    const name = REGISTER_AT.get(offset);
    const row = name === undefined ? undefined : EMULATED[name];
    if (name === undefined || row === undefined || !fits(name, offset, size)) return 0;
    const half = (offset - definition(name).offset) / 4;
    if (size === 8) this.hi = this.#word(name, row, 1) & row.mask[1];
    return this.#word(name, row, half) & row.mask[half]!;
  }

  /** Writes `size` bytes at `offset`. What has no meaning, or is not allowed now, is ignored. */
  write(offset: number, size: number, lo: number, hi: number): void {
    const name = REGISTER_AT.get(offset);
    const row = name === undefined ? undefined : EMULATED[name];
    if (name === undefined || row === undefined || !fits(name, offset, size) || !this.#open(name)) return;
    const half = (offset - definition(name).offset) / 4;
    const value = lo & row.mask[half]!;
    if (row.behaviour === "own") {
      const words = this.#words(name);
      words[half] = value;
      if (size === 8) words[1] = hi & row.mask[1];
    } else if (row.behaviour === "device") {
      if (definition(name).access !== "ro") this.smmu.window.write32(offset, value);
    } else if (row.behaviour === "action") {
      this.#act(name, value);
    }
  }

  #word(name: RegisterName, row: EmulatedRegister, half: number): number {
    if (row.behaviour === "own") return this.#words(name)[half]!;
    if (row.behaviour === "action") return this.#state(name);
    const value = this.smmu.window.read32(definition(name).offset);
    return name === "IDR1" ? this.#limitSids(value) : value;
  }

  /** EL2's table may cover fewer StreamIDs than there are. */
  #limitSids(idr1: number): number {
    const { SIDSIZE } = REG.IDR1;
    const bits = Math.min(extract(idr1, SIDSIZE), this.smmu.geometry.log2size);
    return (idr1 & ~maskOf(SIDSIZE)) | place(SIDSIZE, bits);
  }

  #words(name: RegisterName): Int32Array {
    let words = this.#own.get(name);
    if (words === undefined) this.#own.set(name, (words = new Int32Array(2)));
    return words;
  }

  /** The guard of the architecture, against the host's own CR0. */
  #open(name: RegisterName): boolean {
    const { guard } = definition(name);
    const enables = guard === undefined ? 0 : (GUARDS[guard] ?? 0);
    return ((this.#cr0 | this.#cr0ack) & enables) === 0;
  }

  #state(name: RegisterName): number {
    const { window } = this.smmu;
    switch (name) {
      case "CR0":
        return this.#cr0;
      case "CR0ACK":
        return this.#cr0ack;
      case "GBPA":
        return maskOf(REG.GBPA.ABORT);
      case "GERROR":
        return (window.read32(OFFSET.GERROR) & DEVICE_ERRORS) | this.#gerror;
      case "GERRORN":
        return (window.read32(OFFSET.GERRORN) & DEVICE_ERRORS) | this.#gerrorn;
      case "CMDQ_PROD":
        return this.#cmdq.prod;
      case "CMDQ_CONS":
        // Who polls for completion lets a long queue go on.
        this.#consume();
        return this.#cmdq.cons | place(REG.CMDQ_CONS.ERR, this.#cmdq.error);
      default:
        return 0;
    }
  }

  #act(name: RegisterName, value: number): void {
    switch (name) {
      case "CR0":
        this.#setCr0(value);
        break;
      case "GERRORN":
        this.#acknowledge(value);
        break;
      case "CMDQ_PROD":
        this.#cmdq.prod = value;
        this.#consume();
        break;
      case "CMDQ_CONS":
        this.#cmdq.cons = extract(value, REG.CMDQ_CONS.RD);
        this.#cmdq.error = extract(value, REG.CMDQ_CONS.ERR);
        break;
      default:
        break;
    }
  }

  /** Each enable that changes takes effect, and is acknowledged unless EL2 could not do it. */
  #setCr0(value: number): void {
    const changed = value ^ this.#cr0;
    this.#cr0 = value;
    // Off first: what the host takes back must not be in use any more.
    if ((changed & ~value & SMMUEN) !== 0) this.#ack(SMMUEN, this.#strtab.disable() === 0, value);
    if ((changed & ~value & EVENTQEN) !== 0) this.#ack(EVENTQEN, this.#stopEvents() === 0, value);
    if ((changed & ~value & CMDQEN) !== 0) {
      this.#cmdq.disable();
      this.#ack(CMDQEN, true, value);
    }
    if ((changed & value & SMMUEN) !== 0) this.#ack(SMMUEN, this.#enableTable() === 0, value);
    if ((changed & value & EVENTQEN) !== 0) this.#ack(EVENTQEN, this.#startEvents() === 0, value);
    if ((changed & value & CMDQEN) !== 0) {
      const base = this.#words("CMDQ_BASE");
      this.#cmdq.enable(base[0]!, base[1]!);
      this.#ack(CMDQEN, true, value);
      this.#consume();
    }
  }

  #ack(bit: number, done: boolean, value: number): void {
    if (done) this.#cr0ack = (this.#cr0ack & ~bit) | (value & bit);
  }

  #enableTable(): number {
    const base = this.#words("STRTAB_BASE");
    return this.#strtab.enable(base[0]!, base[1]!, this.#words("STRTAB_BASE_CFG")[0]!);
  }

  /** The hardware writes events to the host's memory itself, so this must be the host's and stay it. */
  #startEvents(): number {
    const { smmu } = this;
    const [lo, hi] = this.#words("EVENTQ_BASE");
    const { LOG2SIZE, ADDR } = REG.EVENTQ_BASE;
    const log2 = Math.min(extract(lo!, LOG2SIZE), smmu.features.evtqLog2);
    const bytes = EVENT_BYTES * 2 ** log2;
    const address = join(lo! & ADDR.loMask, hi! & ADDR.hiMask);
    const pa = address - (address % bytes);
    const pinned = this.#core.pinLent(pa, bytes);
    if (pinned < 0) return pinned;
    this.#eventBase = pa;
    this.#eventBytes = bytes;
    const value = new Int32Array(2);
    queueBase(value, pa, log2);
    smmu.window.write64(OFFSET.EVENTQ_BASE, value[0]!, value[1]!);
    return this.#setEventsEnabled(EVENTQEN);
  }

  #stopEvents(): number {
    const status = this.#setEventsEnabled(0);
    if (status < 0) return status;
    if (this.#eventBytes !== 0) this.#core.unpin(this.#eventBase, this.#eventBytes);
    this.#eventBytes = 0;
    return 0;
  }

  #setEventsEnabled(bit: number): number {
    const { smmu } = this;
    smmu.lock.lock(this.#core.cpu);
    const status = smmu.setCr0((smmu.cr0 & ~EVENTQEN) | bit);
    smmu.lock.unlock(this.#core.cpu);
    return status;
  }

  /** Consumption goes on when the host acknowledges the error, also without a write to PROD (7.1). */
  #acknowledge(value: number): void {
    const { window, lock } = this.smmu;
    lock.lock(this.#core.cpu);
    const kept = window.read32(OFFSET.GERRORN) & ~DEVICE_ERRORS;
    window.write32(OFFSET.GERRORN, (value & DEVICE_ERRORS) | kept);
    lock.unlock(this.#core.cpu);
    const before = this.#gerrorn;
    this.#gerrorn = value & CMDQ_ERR;
    if (before !== this.#gerrorn) this.#consume();
  }

  #consume(): void {
    if (this.#gerror !== this.#gerrorn || this.#cmdq.consume()) return;
    this.#gerror ^= CMDQ_ERR;
    this.#interrupt();
  }

  /** The queue is not the hardware's, so neither is its error: EL2 raises the interrupt itself. */
  #interrupt(): void {
    const enabled = (this.smmu.window.read32(OFFSET.IRQ_CTRL) & GERROR_IRQEN) !== 0;
    if (enabled && this.#errorIrq !== undefined) this.#core.cpu.injectIrq(this.#errorIrq);
  }
}

/** True for an access that the architecture defines: 32 bits of any register, 64 bits of a 64-bit one. */
function fits(name: RegisterName, offset: number, size: number): boolean {
  const { bits, offset: start } = definition(name);
  return size === 4 || (size === 8 && bits === 64 && offset === start);
}

