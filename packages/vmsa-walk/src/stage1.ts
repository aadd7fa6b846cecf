import type { Memory } from "@smmuv3/platform";
import { attributesOf } from "./attributes.ts";
import { GRANULE, GRANULES, outputBits } from "./granule.ts";
import { inherit, STAGE1_RIGHTS } from "./rights.ts";
import type { Stage2Walker } from "./stage2.ts";
import { PERM, WALK, WRITES } from "./status.ts";
import { AF, DBM, LAYOUT, Tables } from "./tables.ts";
import type { WalkTrace, WalkUpdate } from "./tables.ts";

/** Flags of one half of the address space, {@link Stage1Walker.configureHalf}. */
export const HALF = {
  /** EPDn: a walk of this half faults. */
  DISABLED: 1,
  /** TBIn: VA[63:56] is ignored. */
  TBI: 2,
  /** HADn: hierarchical permissions of table descriptors are ignored. */
  HAD: 4,
  /** E0PDn: unprivileged accesses to this half fault. VMSAv8-64 with two privilege levels only. */
  E0PD: 8,
  /** Position of SHn[1:0], which is the shareability of leaves with STAGE1.DS. */
  SH_SHIFT: 4,
} as const;

/** Flags of the whole regime, {@link Stage1Walker.configure}. Bits 1, 2, 3 and 6 to 8 index tables of rights. */
export const STAGE1 = {
  /** Access flag faults are disabled. Ignored with HA. */
  AFFD: 1,
  /** Writable means never executable. */
  WXN: 2,
  /** Privileged data accesses to pages with unprivileged data access fault. */
  PAN: 4,
  /** A regime with one privilege level (EL2, EL3): AP[1], PXN and global pages do not exist. */
  SINGLE: 8,
  /** Every address is an input of stage 2. */
  NESTED: 16,
  /** Table walks to Device memory of stage 2 fault (STE.S2PTW). */
  PTW: 32,
  /** PAN covers pages that are only executable unprivileged. */
  EPAN: 64,
  /** Unprivileged writable means never executable privileged. LPAE only, always so otherwise. */
  UWXN: 128,
  /** VMSAv8-32 LPAE tables: 32-bit inputs, TnSZ[2:0], 4K, outputs of 40 bits; IPS, TBI and hardware updates are ignored. */
  LPAE: 256,
  /** Hardware sets access flags (CD.HA). */
  HA: 512,
  /** Hardware marks writable-clean pages dirty (CD.HD); needs HA. */
  HD: 1024,
  /** Hardware sets access flags of table descriptors (CD.HAFT); needs HA. */
  HAFT: 2048,
  /** Big-endian tables (CD.ENDI). */
  BIG_ENDIAN: 4096,
  /** 52-bit addresses with 4K and 16K (CD.DS). */
  DS: 8192,
  /** TnSZ above 39 (SMMU_IDR3.STT). */
  STT: 16384,
  /** Physical addresses have 52 bits (OAS); implied by IPS = 6. */
  LPA: 32768,
} as const;

/** What a stage-2 fault was met on, with the encoding of CLASS in event records. */
export const FAULT_CLASS = { CD: 0, TT: 1, IN: 2 } as const;

const UNPRIVILEGED = PERM.READ | PERM.WRITE | PERM.EXECUTE;
/** AP[2]: cleared by hardware to mark a page dirty. */
const AP_READ_ONLY = 0x80;
const NOT_GLOBAL = 0x800;

/**
 * Stage-1 walker with its two halves, alone or nested on a {@link Stage2Walker}. Results of the last {@link walk} stay in the
 * fields; a walk allocates nothing.
 */
export class Stage1Walker {
  /** Output address of the last successful walk: the PA, after stage 2 where nested. */
  paLo = 0;
  paHi = 0;
  /** Output of stage 1 once its leaf is found; where stage 2 faulted, the IPA that faulted. */
  ipaLo = 0;
  ipaHi = 0;
  /** Stage (1 or 2) that the last status came from. */
  stage = 1;
  /** Where `stage` is 2: {@link FAULT_CLASS} TT for a descriptor access, IN for the output of stage 1. */
  faultClass: number = FAULT_CLASS.IN;
  /** Where `faultClass` is TT: the access was the update of a descriptor (TTRnW = 0). */
  ttWrite = false;
  /** {@link PERM} bits of stage 1 as they are after the walk: a page that is still clean has no right to write. */
  perm = 0;
  /** {@link PERM} bits of the final stage 2, all where not nested. */
  perm2: number = PERM.ALL;
  /** The stage-1 leaf is writable-clean: a walk for a write would mark it dirty and succeed. */
  clean = false;
  /** Stage-1 descriptors updated since construction. */
  updates = 0;
  /** Called after each update of a stage-1 descriptor. */
  onUpdate: WalkUpdate | null = null;

  readonly stage2: Stage2Walker;
  readonly #memory: Memory;
  readonly #low = new Tables(1);
  readonly #high = new Tables(1);
  /** Tables of the last walk. */
  #last: Tables = this.#low;
  #size = 0;
  #flags = 0;
  #checkAf = true;
  #ha = false;
  #hd = false;
  #nested = false;
  /** LPAE, E0PD, HA or nested: {@link walk} takes the long way. */
  #special = false;
  /** What descriptor fetches need of stage 2. */
  #fetchNeed: number = PERM.READ;
  #rights: Uint8Array = STAGE1_RIGHTS[0]!;
  /** Rights of the last leaf once it is dirty. */
  #granted = 0;

  constructor(memory: Memory, stage2: Stage2Walker) {
    this.#memory = memory;
    this.stage2 = stage2;
  }

  /** Level of the last stage-1 descriptor looked at; 0 where the input was refused. */
  get level(): number {
    return this.#last.level;
  }

  /** log2 of the size that the stage-1 leaf maps. */
  get shift(): number {
    return this.#last.shift;
  }

  /** log2 of the size that maps to one place in both stages. */
  get pageShift(): number {
    return this.#nested ? Math.min(this.#last.shift, this.stage2.shift) : this.#last.shift;
  }

  /** The last stage-1 descriptor. */
  get descLo(): number {
    return this.#last.descLo;
  }

  get descHi(): number {
    return this.#last.descHi;
  }

  /** Physical address of the last stage-1 descriptor. */
  get descPaLo(): number {
    return this.#last.descPaLo;
  }

  get descPaHi(): number {
    return this.#last.descPaHi;
  }

  /** Stage-1 descriptor reads since construction; those of stage 2 are counted there. */
  get reads(): number {
    return this.#low.reads + this.#high.reads;
  }

  /** AttrIndx[2:0] of the last leaf. */
  get attrIndex(): number {
    return (this.#last.descLo >>> 2) & 7;
  }

  /** SH[1:0] of the last leaf; with DS that of the configuration. */
  get shareability(): number {
    return this.#last.sh >= 0 ? this.#last.sh : (this.#last.descLo >>> 8) & 3;
  }

  /** The last leaf is global: nG is 0. */
  get global(): boolean {
    return (this.#last.descLo & NOT_GLOBAL) === 0;
  }

  /** Walk both stages as if hardware updates were done, but store nothing (ATOS with HTTUI, explanations). */
  get inhibitUpdates(): boolean {
    return this.stage2.inhibitUpdates;
  }

  set inhibitUpdates(inhibit: boolean) {
    this.stage2.inhibitUpdates = inhibit;
  }

  /** Called for every descriptor read of both stages, or null; off by default, and costs nothing then. */
  get trace(): WalkTrace | null {
    return this.#low.trace;
  }

  set trace(trace: WalkTrace | null) {
    this.#low.trace = trace;
    this.#high.trace = trace;
    this.stage2.trace = trace;
  }

  /**
   * Sets what both halves share; call it before {@link configureHalf}.
   * @param ips output size, encoded as in TCR.IPS
   * @param flags of {@link STAGE1}
   */
  configure(ips: number, flags: number): void {
    const lpae = (flags & STAGE1.LPAE) !== 0;
    this.#flags = flags;
    this.#size = lpae ? 40 : outputBits(ips);
    this.#ha = !lpae && (flags & STAGE1.HA) !== 0;
    this.#hd = this.#ha && (flags & STAGE1.HD) !== 0;
    this.#checkAf = (flags & STAGE1.AFFD) === 0;
    this.#nested = (flags & STAGE1.NESTED) !== 0;
    this.#special = lpae || this.#nested || this.#ha;
    this.#fetchNeed = (flags & STAGE1.PTW) !== 0 ? PERM.READ | PERM.NOT_DEVICE : PERM.READ;
    this.#rights = STAGE1_RIGHTS[((flags >>> 1) & 7) | ((flags >>> 3) & 0x38)]!;
    this.perm2 = PERM.ALL;
    this.clean = false;
  }

  /**
   * Sets one half.
   * @param high true for TTB1
   * @param ttbLo,ttbHi address of the first table; bits below its size are ignored
   * @param tsz TnSZ: the input range is 64 - tsz bits, with LPAE 32 - tsz
   * @param granule of GRANULE; a reserved one, or a tsz out of range, makes every walk fault
   * @param flags of {@link HALF}
   */
  configureHalf(high: boolean, ttbLo: number, ttbHi: number, tsz: number, granule: number, flags: number): void {
    const half = high ? this.#high : this.#low;
    const regime = this.#flags;
    const lpae = (regime & STAGE1.LPAE) !== 0;
    const tg = lpae ? GRANULE.K4 : granule;
    const shape = GRANULES[tg];
    half.enabled = (flags & HALF.DISABLED) === 0 && shape !== undefined && (lpae || inRange(tsz, tg, regime));
    half.tsz32 = half.enabled && lpae ? tsz & 7 : 0;
    if (!half.enabled || shape === undefined) return;
    const bits = lpae ? 32 - half.tsz32 : 64 - tsz;
    const startLevel = 4 - Math.ceil((bits - shape.pageShift) / shape.stride);
    const ds = !lpae && (regime & STAGE1.DS) !== 0 && tg !== GRANULE.K64;
    half.sh = ds ? (flags >>> HALF.SH_SHIFT) & 3 : -1;
    half.hierarchical = (flags & HALF.HAD) === 0;
    half.e0pd = !lpae && (regime & STAGE1.SINGLE) === 0 && (flags & HALF.E0PD) !== 0;
    if (half.e0pd) this.#special = true;
    const layout =
      (ds ? LAYOUT.DS : 0) |
      ((regime & STAGE1.LPA) !== 0 ? LAYOUT.LPA : 0) |
      ((regime & STAGE1.BIG_ENDIAN) !== 0 ? LAYOUT.BIG_ENDIAN : 0) |
      (this.#ha ? LAYOUT.HA : 0) |
      (this.#ha && (regime & STAGE1.HAFT) !== 0 ? LAYOUT.HAFT : 0);
    half.configure(ttbLo, ttbHi, bits, startLevel, tg, this.#size, layout);
    if ((flags & HALF.TBI) !== 0 && !lpae) half.topHi &= 0x00ff_ffff;
  }

  /**
   * Walks for one input address.
   * @param need {@link PERM} bits the access needs of each stage
   * @returns one of {@link WALK}; `stage` says which stage it came from
   */
  walk(vaLo: number, vaHi: number, need: number): number {
    this.stage = 1;
    if (this.#special) return this.#walkSpecial(vaLo, vaHi, need);
    const high = (vaHi & 0x0080_0000) !== 0;
    const half = high ? this.#high : this.#low;
    const ones = high ? -1 : 0;
    if (this.#last !== half) this.#last = half;
    if (!half.enabled || (((vaHi ^ ones) & half.topHi) | ((vaLo ^ ones) & half.topLo)) !== 0) return half.refuse();
    const memory = this.#memory;
    const status = half.fast ? half.descend(memory, vaLo, vaHi) : half.descendAny(memory, vaLo, vaHi, null, 0);
    return status === WALK.OK ? this.#leaf(half, need) : status;
  }

  #walkSpecial(vaLo: number, vaHi: number, need: number): number {
    const tables = (this.#flags & STAGE1.LPAE) !== 0 ? this.#select32(vaLo, vaHi) : this.#select64(vaLo, vaHi, need);
    if (tables === undefined) return this.#last.refuse();
    const via = this.#nested ? this.stage2 : null;
    const status = tables.descendAny(this.#memory, vaLo, vaHi, via, this.#fetchNeed);
    if (status < 0) return this.#stage2Fault(~status, FAULT_CLASS.TT, false, tables.slotLo, tables.slotHi);
    if (status !== WALK.OK) return status;
    const leaf = this.#ha ? this.#updatingLeaf(tables, need) : this.#leaf(tables, need);
    return leaf === WALK.OK && via !== null ? this.#finish(tables, need) : leaf;
  }

  /** The half that translates a VMSAv8-64 address, and undefined where none does. */
  #select64(vaLo: number, vaHi: number, need: number): Tables | undefined {
    const high = (vaHi & 0x0080_0000) !== 0;
    const half = high ? this.#high : this.#low;
    const ones = high ? -1 : 0;
    this.#last = half;
    if (!half.enabled || (half.e0pd && (need & UNPRIVILEGED) !== 0)) return undefined;
    return (((vaHi ^ ones) & half.topHi) | ((vaLo ^ ones) & half.topLo)) === 0 ? half : undefined;
  }

  /** The half that translates a VMSAv8-32 address (Arm ARM G5.5.4): TTB0 has the first say unless T0SZ is 0. */
  #select32(vaLo: number, vaHi: number): Tables | undefined {
    const low = this.#low.tsz32;
    const high = this.#high.tsz32;
    const inLow = low === 0 || vaLo >>> (32 - low) === 0;
    const inHigh = high === 0 ? low !== 0 : vaLo >>> (32 - high) === (1 << high) - 1;
    const upper = low === 0 ? inHigh : !inLow;
    const half = upper ? this.#high : this.#low;
    this.#last = half;
    return vaHi === 0 && half.enabled && (!upper || inHigh) ? half : undefined;
  }

  /** Rights, access flag and permission of the leaf that the walk came to; without hardware updates. */
  #leaf(tables: Tables, need: number): number {
    const { outLo, outHi, descLo, inheritedHi } = tables;
    this.ipaLo = outLo;
    this.ipaHi = outHi;
    this.paLo = outLo;
    this.paHi = outHi;
    let index = ((descLo >>> 6) & 3) | ((tables.descHi >>> 19) & 12);
    if (tables.hierarchical && inheritedHi >>> 27 !== 0) index = inherit(index, inheritedHi);
    const perm = this.#rights[index]!;
    this.perm = perm;
    if ((descLo & AF) === 0 && this.#checkAf) return WALK.ACCESS_FLAG;
    return (need & ~perm) === 0 ? WALK.OK : WALK.PERMISSION;
  }

  /** `#leaf` with hardware updates (IHI 0070 3.13): finds, and does where not nested, what a good access owes. */
  #updatingLeaf(tables: Tables, need: number): number {
    const { outLo, outHi, descLo, descHi, inheritedHi } = tables;
    this.ipaLo = outLo;
    this.ipaHi = outHi;
    this.paLo = outLo;
    this.paHi = outHi;
    let index = ((descLo >>> 6) & 3) | ((descHi >>> 19) & 12);
    // DBM makes AP[2] count as 0 (Arm ARM D8.4.1); rights to execute follow from that.
    const marked = this.#hd && (descHi & DBM) !== 0 && (descLo & AP_READ_ONLY) !== 0;
    if (marked) index &= ~2;
    if (tables.hierarchical && inheritedHi >>> 27 !== 0) index = inherit(index, inheritedHi);
    const perm = this.#rights[index]!;
    const clean = marked && (perm & WRITES) !== 0;
    this.clean = clean;
    this.#granted = perm;
    this.perm = clean ? perm & ~WRITES : perm;
    if ((need & ~perm) !== 0) return WALK.PERMISSION;
    const flip = ((descLo & AF) ^ AF) | (clean && (need & WRITES) !== 0 ? AP_READ_ONLY : 0);
    if (flip !== 0) tables.note(tables.indexIn(this.#memory), tables.level, tables.slotLo, tables.slotHi, flip);
    return tables.pending === 0 ? WALK.OK : this.#owe(tables);
  }

  /** Checks that all updates can be done, each a write that stage 2 must permit; does them where not nested. */
  #owe(tables: Tables): number {
    for (let i = 0; i < tables.pending; i++) {
      if (this.#nested) {
        const slotLo = tables.pendingLo[i]!;
        const slotHi = tables.pendingHi[i]!;
        const status = this.stage2.walkQuietly(slotLo, slotHi, this.#fetchNeed | PERM.WRITE, true);
        if (status !== WALK.OK) return this.#stage2Fault(status, FAULT_CLASS.TT, true, slotLo, slotHi);
      }
      if (tables.checkPending(this.#memory, i) !== WALK.OK) return WALK.EXTERNAL_ABORT;
    }
    if (!this.#nested && !this.inhibitUpdates) this.#update(tables);
    return WALK.OK;
  }

  #update(tables: Tables): void {
    const { pending } = tables;
    for (let i = 0; i < pending; i++) {
      // The update is a write to stage 2, which may have to mark the page of the table dirty first (IHI 0070 3.13.5).
      if (this.#nested) this.stage2.walkQuietly(tables.pendingLo[i]!, tables.pendingHi[i]!, this.#fetchNeed | PERM.WRITE, false);
      tables.update(this.#memory, i, this.onUpdate);
    }
    this.updates += pending;
    if ((tables.pendingFlip[pending - 1]! & AP_READ_ONLY) !== 0) {
      this.clean = false;
      this.perm = this.#granted;
    }
  }

  /** Stage 2 of the output of stage 1. Updates of stage 1 happen where nothing faults, before those of the output. */
  #finish(tables: Tables, need: number): number {
    const stage2 = this.stage2;
    const lo = this.ipaLo;
    const hi = this.ipaHi;
    if (tables.pending > 0 && !this.inhibitUpdates && stage2.walkQuietly(lo, hi, need, true) === WALK.OK) this.#update(tables);
    const status = stage2.walk(lo, hi, need);
    this.perm2 = stage2.perm;
    if (status !== WALK.OK) return this.#stage2Fault(status, FAULT_CLASS.IN, false, lo, hi);
    this.paLo = stage2.paLo;
    this.paHi = stage2.paHi;
    return WALK.OK;
  }

  #stage2Fault(status: number, faultClass: number, ttWrite: boolean, ipaLo: number, ipaHi: number): number {
    this.stage = 2;
    this.faultClass = faultClass;
    this.ttWrite = ttWrite;
    this.ipaLo = ipaLo;
    this.ipaHi = ipaHi;
    return status;
  }

  /**
   * Memory type and shareability of the last successful walk, stage 2 included where nested; {@link attributesOf} has the encoding.
   * @param mairLo,mairHi MAIR of the regime
   */
  attributes(mairLo: number, mairHi: number): number {
    const index = this.attrIndex;
    const attr = ((index < 4 ? mairLo : mairHi) >>> ((index & 3) * 8)) & 0xff;
    if (!this.#nested) return attributesOf(attr, this.shareability);
    return this.stage2.attributes(attr, this.shareability);
  }
}

/** True where TnSZ is in the range of VMSAv8-64 for the granule (IHI 0070 5.4, T0SZ). */
function inRange(tsz: number, granule: number, regime: number): boolean {
  const k64 = granule === GRANULE.K64;
  const most = (regime & STAGE1.STT) === 0 ? 39 : k64 ? 47 : 48;
  const least = k64 || (regime & STAGE1.DS) !== 0 ? 12 : 16;
  return tsz >= least && tsz <= most;
}
