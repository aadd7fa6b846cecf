import { LEVEL } from "@smmuv3/platform";
import type { Counters, InterruptLine, Memory } from "@smmuv3/platform";
import { maskOf, OFFSET, place, REG } from "@smmuv3/smmu-v3-defs";
import type { Features } from "./presets.ts";
import type { RegisterFile } from "./registers.ts";

/** Wired outputs, IHI 0070 3.18. A line left out is not connected. */
export interface InterruptLines {
  readonly evtq?: InterruptLine;
  readonly gerror?: InterruptLine;
  readonly cmdSync?: InterruptLine;
  readonly priq?: InterruptLine;
}

/** Receives an MSI whose address is not RAM. Returns false when the write is aborted. */
export type MsiTarget = (paLo: number, paHi: number, data: number) => boolean;

const { GERROR, IRQ_CTRL } = REG;

/** Bits of GERROR, in place (6.3.19). */
export const GERROR_BIT: Readonly<Record<keyof typeof REG.GERROR, number>> = {
  CMDQ_ERR: place(GERROR.CMDQ_ERR, 1),
  EVENTQ_ABT_ERR: place(GERROR.EVENTQ_ABT_ERR, 1),
  PRIQ_ABT_ERR: place(GERROR.PRIQ_ABT_ERR, 1),
  MSI_CMDQ_ABT_ERR: place(GERROR.MSI_CMDQ_ABT_ERR, 1),
  MSI_EVENTQ_ABT_ERR: place(GERROR.MSI_EVENTQ_ABT_ERR, 1),
  MSI_PRIQ_ABT_ERR: place(GERROR.MSI_PRIQ_ABT_ERR, 1),
  MSI_GERROR_ABT_ERR: place(GERROR.MSI_GERROR_ABT_ERR, 1),
  SFM_ERR: place(GERROR.SFM_ERR, 1),
  CMDQP_ERR: place(GERROR.CMDQP_ERR, 1),
  DPT_ERR: place(GERROR.DPT_ERR, 1),
};

const GERROR_AT = OFFSET.GERROR;
const GERRORN_AT = OFFSET.GERRORN;
const ADDRESS_LO = REG.EVENTQ_IRQ_CFG0.ADDR.loMask;
const ADDRESS_HI = REG.EVENTQ_IRQ_CFG0.ADDR.hiMask;

/** Global errors and the delivery of interrupts: an MSI where one is configured, else the wire. */
export class Interrupts {
  /** The SMMU is in Service Failure Mode, which acknowledging SFM_ERR does not end (12.3). */
  serviceFailure = false;

  readonly #file: RegisterFile;
  readonly #memory: Memory;
  readonly #msiSupported: boolean;
  readonly #lines: InterruptLines;
  readonly #target: MsiTarget | undefined;
  readonly #counts: Float64Array;
  readonly #interruptId: number;

  constructor(
    file: RegisterFile,
    features: Features,
    memory: Memory,
    lines: InterruptLines,
    target: MsiTarget | undefined,
    counters: Counters,
  ) {
    this.#file = file;
    this.#memory = memory;
    this.#msiSupported = features.msi;
    this.#lines = lines;
    this.#target = target;
    this.#counts = counters.values;
    this.#interruptId = counters.id("smmu.interrupts") + LEVEL.device;
  }

  /** True while software has not acknowledged `bit`. */
  active(bit: number): boolean {
    return ((this.#file.get(GERROR_AT) ^ this.#file.get(GERRORN_AT)) & bit) !== 0;
  }

  /** Activates a global error; one that is active stays as it is (6.3.19). */
  raise(bit: number): void {
    if (this.active(bit)) return;
    this.#file.set(OFFSET.GERROR, this.#file.get(OFFSET.GERROR) ^ bit);
    // The failure of the GERROR MSI raises no interrupt (3.18).
    if (bit === GERROR_BIT.MSI_GERROR_ABT_ERR || !this.#enabled(maskOf(IRQ_CTRL.GERROR_IRQEN))) return;
    this.#deliver(OFFSET.GERROR_IRQ_CFG0, this.#lines.gerror, GERROR_BIT.MSI_GERROR_ABT_ERR);
  }

  /** The event queue went from empty to not empty. */
  eventQueue(): void {
    if (!this.#enabled(maskOf(IRQ_CTRL.EVENTQ_IRQEN))) return;
    this.#deliver(OFFSET.EVENTQ_IRQ_CFG0, this.#lines.evtq, GERROR_BIT.MSI_EVENTQ_ABT_ERR);
  }

  /** The PRI queue went from empty to not empty, or took a Last request where PRIQ_IRQ_CFG2.LO asks for those (6.3.36). */
  priQueue(): void {
    if (!this.#enabled(maskOf(IRQ_CTRL.PRIQ_IRQEN))) return;
    this.#deliver(OFFSET.PRIQ_IRQ_CFG0, this.#lines.priq, GERROR_BIT.MSI_PRIQ_ABT_ERR);
  }

  /** CMD_SYNC with CS = IRQ: an MSI if it has an address (4.7.3), else the wire. */
  commandSync(lo: number, hi: number, data: number): void {
    this.#counts[this.#interruptId]!++;
    if (this.#msiSupported && (lo | hi) !== 0) {
      if (!this.#send(lo, hi, data)) this.raise(GERROR_BIT.MSI_CMDQ_ABT_ERR);
      return;
    }
    this.#lines.cmdSync?.pulse();
  }

  #enabled(bit: number): boolean {
    return (this.#file.get(OFFSET.IRQ_CTRLACK) & bit) !== 0;
  }

  /** The IRQ_CFG0..2 triple at `cfg0` is 64 + 32 + 32 bits. */
  #deliver(cfg0: number, line: InterruptLine | undefined, error: number): void {
    this.#counts[this.#interruptId]!++;
    const lo = this.#file.get(cfg0) & ADDRESS_LO;
    const hi = this.#file.high(cfg0) & ADDRESS_HI;
    if (this.#msiSupported && (lo | hi) !== 0) {
      if (!this.#send(lo, hi, this.#file.get(cfg0 + 8))) this.raise(error);
      return;
    }
    line?.pulse();
  }

  /** One 32-bit write: to RAM where there is RAM (a driver may poll for it), else to the target. */
  #send(lo: number, hi: number, data: number): boolean {
    const memory = this.#memory;
    const page = memory.pageOf(lo, hi);
    if (page < 0) return this.#target?.(lo, hi, data) ?? false;
    if ((memory.perm[page]! & 2) === 0) return false;
    memory.words[(page << 10) | ((lo & 0xfff) >>> 2)] = data;
    return true;
  }
}
