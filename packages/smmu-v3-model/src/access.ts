import { maskOf, OFFSET, REG, REGISTER_SPACE, REGISTERS, registerMask } from "@smmuv3/smmu-v3-defs";
import type { Feature, Guard, RegisterDef, RegisterName } from "@smmuv3/smmu-v3-defs";
import type { RegisterWindow } from "@smmuv3/platform";
import type { Features } from "./presets.ts";
import type { RegisterFile } from "./registers.ts";

const NAMES = Object.keys(REGISTERS) as RegisterName[];

/** A register and its acknowledgement, both of which must have `bits` clear for a guarded write to be taken. */
interface GuardDef {
  readonly control: number;
  readonly acknowledge: number;
  readonly bits: number;
}

function cr0(bits: number): GuardDef {
  return { control: OFFSET.CR0, acknowledge: OFFSET.CR0ACK, bits };
}

function irqCtrl(bits: number): GuardDef {
  return { control: OFFSET.IRQ_CTRL, acknowledge: OFFSET.IRQ_CTRLACK, bits };
}

const GUARDS: Readonly<Record<Guard, GuardDef>> = {
  smmuen: cr0(maskOf(REG.CR0.SMMUEN)),
  cmdqen: cr0(maskOf(REG.CR0.CMDQEN)),
  eventqen: cr0(maskOf(REG.CR0.EVENTQEN)),
  priqen: cr0(maskOf(REG.CR0.PRIQEN)),
  "irq-gerror": irqCtrl(maskOf(REG.IRQ_CTRL.GERROR_IRQEN)),
  "irq-eventq": irqCtrl(maskOf(REG.IRQ_CTRL.EVENTQ_IRQEN)),
  "irq-priq": irqCtrl(maskOf(REG.IRQ_CTRL.PRIQ_IRQEN)),
  "gatos-idle": {
    control: OFFSET.GATOS_CTRL,
    acknowledge: OFFSET.GATOS_CTRL,
    bits: maskOf(REG.GATOS_CTRL.RUN),
  },
};

const { CR1 } = REG;
/** CR1 is guarded by field (6.3.11): the queue attributes by every queue enable, the table attributes by SMMUEN. */
const CR1_QUEUE = maskOf(CR1.QUEUE_IC) | maskOf(CR1.QUEUE_OC) | maskOf(CR1.QUEUE_SH);
const CR1_TABLE = maskOf(CR1.TABLE_IC) | maskOf(CR1.TABLE_OC) | maskOf(CR1.TABLE_SH);
const QUEUE_ENABLES = maskOf(REG.CR0.CMDQEN) | maskOf(REG.CR0.EVENTQEN) | maskOf(REG.CR0.PRIQEN);
const UPDATE = maskOf(REG.GBPA.UPDATE);

function present(feature: Feature | undefined, features: Features): boolean {
  switch (feature) {
    case undefined:
      return true;
    case "msi":
    case "pri":
    case "atos":
    case "vatos":
    case "mpam":
    case "ecmdq":
    case "dpt":
      return features[feature];
    case "s1p-s2p":
      return features.s1p && features.s2p;
  }
}

/** Bits that this implementation does not have, as masks of the low word. They are RES0 and do not echo into an ACK. */
function unimplemented(features: Features): ReadonlyMap<RegisterName, number> {
  const without = (...rules: readonly (readonly [present: boolean, bits: number])[]): number =>
    rules.reduce((mask, [has, bits]) => (has ? mask : mask | bits), 0);
  const { CR0, CR2, IRQ_CTRL, STRTAB_BASE_CFG } = REG;
  const cr0Bits = without(
    [features.pri, maskOf(CR0.PRIQEN)],
    [features.ats, maskOf(CR0.ATSCHK)],
    [features.vmw, maskOf(CR0.VMW)],
    [features.dpt, maskOf(CR0.DPT_WALK_EN)],
  );
  return new Map<RegisterName, number>([
    ["CR0", cr0Bits],
    ["CR2", without([features.hyp, maskOf(CR2.E2H)], [features.atsRecErr, maskOf(CR2.REC_CFG_ATS)])],
    ["IRQ_CTRL", without([features.pri, maskOf(IRQ_CTRL.PRIQ_IRQEN)])],
    ["STRTAB_BASE_CFG", without([features.twoLevelStreams, maskOf(STRTAB_BASE_CFG.FMT) | maskOf(STRTAB_BASE_CFG.SPLIT)])],
    ["GERRORN", without([features.pri, maskOf(REG.GERRORN.PRIQ_ABT_ERR) | maskOf(REG.GERRORN.MSI_PRIQ_ABT_ERR)])],
  ]);
}

/** What happens after a register was written; `offset` is that of the register, not of its half. */
export type WriteHook = (offset: number) => void;

/**
 * Software's view of the registers: which bits of which words are taken, when. An access that is misaligned or does not fit
 * its register reads zero and is ignored (one of the permitted behaviours of 6.2).
 */
export class RegisterBlock implements RegisterWindow {
  /** High word of the last {@link read64}. */
  hi = 0;

  readonly #file: RegisterFile;
  readonly #written: WriteHook;
  /** Writable bits of each word, and the index of its guard in {@link GUARDS} plus one. */
  readonly #mask = new Int32Array(REGISTER_SPACE / 4);
  readonly #guard = new Uint8Array(REGISTER_SPACE / 4);
  /** Offset of the register of which a word is a part; 0 where there is none that can be written. */
  readonly #owner = new Int32Array(REGISTER_SPACE / 4);
  readonly #wide = new Uint8Array(REGISTER_SPACE / 4);
  readonly #guards: readonly GuardDef[] = Object.values(GUARDS);

  constructor(file: RegisterFile, features: Features, written: WriteHook) {
    this.#file = file;
    this.#written = written;
    const absent = unimplemented(features);
    for (const name of NAMES) {
      const def: RegisterDef = REGISTERS[name];
      const word = def.offset >> 2;
      if (def.bits === 64) this.#wide[word] = 1;
      if (def.access === "id" || def.access === "ro" || !present(def.feature, features)) continue;
      const [lo, hi] = registerMask(name);
      const guard = def.guard === undefined ? 0 : Object.keys(GUARDS).indexOf(def.guard) + 1;
      for (let half = 0; half < def.bits / 32; half++) {
        this.#mask[word + half] = half === 0 ? lo & ~(absent.get(name) ?? 0) : hi;
        this.#guard[word + half] = guard;
        this.#owner[word + half] = def.offset;
      }
    }
  }

  read32(offset: number): number {
    return this.#inside(offset, 4) ? this.#file.words[offset >> 2]! : 0;
  }

  read64(offset: number): number {
    if (!this.#inside(offset, 8) || this.#wide[offset >> 2] === 0) {
      this.hi = 0;
      return 0;
    }
    this.hi = this.#file.high(offset);
    return this.#file.get(offset);
  }

  write32(offset: number, value: number): void {
    if (!this.#inside(offset, 4)) return;
    if (this.#store(offset >> 2, value)) this.#written(this.#owner[offset >> 2]!);
  }

  write64(offset: number, lo: number, hi: number): void {
    if (!this.#inside(offset, 8) || this.#wide[offset >> 2] === 0) return;
    const word = offset >> 2;
    const low = this.#store(word, lo);
    const high = this.#store(word + 1, hi);
    if (low || high) this.#written(offset);
  }

  #inside(offset: number, bytes: number): boolean {
    return offset >= 0 && offset < REGISTER_SPACE && offset % bytes === 0;
  }

  /** Writes the bits that may be written. Returns false for a write that is ignored as a whole. */
  #store(word: number, value: number): boolean {
    const file = this.#file;
    const old = file.words[word]!;
    const mask = this.#mask[word]! & this.#open(word, old, value);
    if (mask === 0) return false;
    file.words[word] = (old & ~mask) | (value & mask);
    return true;
  }

  /** Bits of `word` that the present state allows to be written. */
  #open(word: number, old: number, value: number): number {
    const file = this.#file;
    const guard = this.#guard[word]!;
    if (guard !== 0) {
      const { control, acknowledge, bits } = this.#guards[guard - 1]!;
      return ((file.get(control) | file.get(acknowledge)) & bits) === 0 ? -1 : 0;
    }
    switch (word << 2) {
      case OFFSET.CR0:
        // A second change before the acknowledgement of the first is ignored (6.3.9, v3.2).
        return old === file.get(OFFSET.CR0ACK) ? -1 : 0;
      case OFFSET.IRQ_CTRL:
        return old === file.get(OFFSET.IRQ_CTRLACK) ? -1 : 0;
      case OFFSET.CR1: {
        const enabled = file.get(OFFSET.CR0) | file.get(OFFSET.CR0ACK);
        const queues = (enabled & QUEUE_ENABLES) === 0 ? CR1_QUEUE : 0;
        return (enabled & maskOf(REG.CR0.SMMUEN)) === 0 ? queues | CR1_TABLE : queues;
      }
      case OFFSET.GBPA:
      case OFFSET.GMPAM:
      case OFFSET.GBPMPAM:
        // Taken only with UPDATE set, and not while an earlier update is under way (6.3.15).
        return (value & UPDATE) !== 0 && (old & UPDATE) === 0 ? -1 : 0;
      default:
        return -1;
    }
  }
}
