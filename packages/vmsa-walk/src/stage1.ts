import type { Memory } from "@smmuv3/platform";
import { attributesOf } from "./attributes.ts";
import { GRANULE, GRANULES, outputBits } from "./granule.ts";
import { inherit, STAGE1_RIGHTS } from "./rights.ts";
import { FAULT_CLASS, HALF, STAGE1 } from "./stage1-flags.ts";
import type { Stage2Walker } from "./stage2.ts";
import { PERM, WALK, WRITES } from "./status.ts";
import { AF, DBM, LAYOUT, ROUTE, Tables } from "./tables.ts";
import type { WalkTrace, WalkUpdate } from "./tables.ts";

const UNPRIVILEGED = PERM.READ | PERM.WRITE | PERM.EXECUTE;
/** AP[2]: cleared by hardware to mark a page dirty. */
const AP_READ_ONLY = 0x80;
const NOT_GLOBAL = 0x800;
// Of this module, for the compiler to see them as constants.
const OK = WALK.OK;
const ACCESSED = AF;
const NESTED = ROUTE.NESTED;
const DIRECT = ROUTE.DIRECT;

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
  readonly #low: Tables;
  readonly #high: Tables;
  /** Tables of the last walk. */
  #last: Tables;
  #size = 0;
  #flags = 0;
  #checkAf = true;
  #ha = false;
  #hd = false;
  #nested = false;
  /** What descriptor fetches need of stage 2. */
  #fetchNeed: number = PERM.READ;
  #rights: Uint8Array = STAGE1_RIGHTS[0]!;
  /** Rights of the last leaf once it is dirty. */
  #granted = 0;

  constructor(memory: Memory, stage2: Stage2Walker) {
    this.#memory = memory;
    this.stage2 = stage2;
    this.#low = new Tables(1, memory);
    this.#high = new Tables(1, memory);
    this.#last = this.#low;
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
    return this.#last.addressLo;
  }

  get descPaHi(): number {
    return this.#last.addressHi;
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
    if (!half.enabled || shape === undefined) {
      half.disable();
      return;
    }
    const bits = lpae ? 32 - half.tsz32 : 64 - tsz;
    const startLevel = 4 - Math.ceil((bits - shape.pageShift) / shape.stride);
    const ds = !lpae && (regime & STAGE1.DS) !== 0 && tg !== GRANULE.K64;
    half.sh = ds ? (flags >>> HALF.SH_SHIFT) & 3 : -1;
    half.hierarchical = (flags & HALF.HAD) === 0;
    half.e0pd = !lpae && (regime & STAGE1.SINGLE) === 0 && (flags & HALF.E0PD) !== 0;
    const layout =
      (ds ? LAYOUT.DS : 0) |
      ((regime & STAGE1.LPA) !== 0 ? LAYOUT.LPA : 0) |
      ((regime & STAGE1.BIG_ENDIAN) !== 0 ? LAYOUT.BIG_ENDIAN : 0) |
      (this.#ha ? LAYOUT.HA : 0) |
      (this.#ha && (regime & STAGE1.HAFT) !== 0 ? LAYOUT.HAFT : 0) |
      (this.#nested ? LAYOUT.NESTED : 0) |
      (lpae || half.e0pd ? LAYOUT.ODD : 0);
    half.configure(ttbLo, ttbHi, bits, startLevel, tg, this.#size, layout);
    if ((flags & HALF.TBI) !== 0 && !lpae) half.topHi &= 0x00ff_ffff;
  }

  /** Replaces the addresses of the first tables, of the halves that are in use, and leaves all else as it is configured. */
  setRoots(lo0: number, hi0: number, lo1: number, hi1: number): void {
    if (this.#low.enabled) this.#low.setRoot(lo0, hi0);
    if (this.#high.enabled) this.#high.setRoot(lo1, hi1);
  }

  /**
   * Walks for one input address.
   * @param need {@link PERM} bits the access needs of each stage
   * @returns one of {@link WALK}; `stage` says which stage it came from
   */
  walk(vaLo: number, vaHi: number, need: number): number {
    // VA[55], in all bits.
    const ones = (vaHi << 8) >> 31;
    const half = ones === 0 ? this.#low : this.#high;
    const route = half.route;
    if (route !== 0 && (((vaHi ^ ones) & half.topHi) | ((vaLo ^ ones) & half.topLo)) === 0) {
      if (route === NESTED) {
        if (this.#ordinaryNested(half, vaLo, vaHi, need) === OK) return OK;
      } else {
        const memory = this.#memory;
        const at = half.ordinary(memory, vaLo, vaHi);
        if (at >= 0) {
          const words = memory.words;
          const lo = words[at & ~1]!;
          const hi = words[at | 1]!;
          const perm = this.#rights[((lo >>> 6) & 3) | ((hi >>> 19) & 12)]!;
          if ((lo & ACCESSED) !== 0 && (need & ~perm) === 0) {
            half.arrive(at, lo, hi);
            const offset = (at & 1) === 0 ? 0xfff : 0x1f_ffff;
            this.#last = half;
            this.stage = 1;
            this.perm = perm;
            this.ipaLo = this.paLo = (lo & ~0xfff & ~offset) | (vaLo & offset);
            this.ipaHi = this.paHi = hi & 0xffff;
            return OK;
          }
        }
      }
    }
    return this.walkFully(vaLo, vaHi, need);
  }

  /**
   * The leaf of an ordinary walk of stage 1 alone that ends at a page of 4K: see `Tables.ordinary`. Changes nothing; {@link rights} has
   * what the leaf permits, and {@link countPage} is to be called for a walk that counts.
   * @returns the index of the descriptor in `Memory.words`; -1 for anything else, for {@link walkFully}; or -2 where an ordinary walk
   * ends at a block, or passes stage 2, for {@link walk}
   */
  page(vaLo: number, vaHi: number): number {
    const ones = (vaHi << 8) >> 31;
    const half = ones === 0 ? this.#low : this.#high;
    if (half.route === NESTED) return -2;
    if (half.route !== DIRECT || (((vaHi ^ ones) & half.topHi) | ((vaLo ^ ones) & half.topLo)) !== 0) return -1;
    const at = half.ordinary(this.#memory, vaLo, vaHi);
    return at < 0 || (at & 1) === 0 ? at : -2;
  }

  /** {@link PERM} bits of a leaf below tables that do not restrict it. */
  rights(lo: number, hi: number): number {
    return this.#rights[((lo >>> 6) & 3) | ((hi >>> 19) & 12)]!;
  }

  /** Counts the reads of {@link page}, and returns how many. */
  countPage(vaHi: number): number {
    const half = (vaHi << 8) >> 31 === 0 ? this.#low : this.#high;
    const reads = 4 - half.startLevel;
    half.reads += reads;
    return reads;
  }

  /** An ordinary walk of both stages: see `Tables.ordinary`. OK, or -1 for anything else. */
  #ordinaryNested(half: Tables, vaLo: number, vaHi: number, need: number): number {
    const { stage2 } = this;
    const words = this.#memory.words;
    const { reads } = stage2;
    const top = half.tableTop;
    const fetchNeed = this.#fetchNeed;
    let shift = half.startShift;
    const first = shift === 39 ? vaHi >>> 6 : (vaHi << (33 - shift)) | (vaLo >>> (shift - 1));
    let slotLo = half.rootLo | ((first & half.rootMask) << 2);
    let slotHi = half.rootHi;
    for (;;) {
      const at = stage2.ordinary(slotLo, slotHi, fetchNeed);
      if (at < 0) break;
      const lo = words[at]!;
      const hi = words[at | 1]!;
      if (shift > 12 && (lo & 3) === 3) {
        if ((hi & top) !== 0) break;
        shift -= 9;
        slotLo = (lo & ~0xfff) | (((vaHi << (35 - shift)) | (vaLo >>> (shift - 3))) & 0xff8);
        slotHi = hi & 0xffff;
        continue;
      }
      const block = shift === 21 ? 1 : 0;
      if (shift > 21 || (lo & 3) !== 3 - 2 * block || (hi & half.leafTop) !== 0) break;
      const perm = this.#rights[((lo >>> 6) & 3) | ((hi >>> 19) & 12)]!;
      if ((lo & ACCESSED) === 0 || (need & ~perm) !== 0) break;
      const offset = block === 0 ? 0xfff : 0x1f_ffff;
      const ipaLo = (lo & ~0xfff & ~offset) | (vaLo & offset);
      const ipaHi = hi & 0xffff;
      if (stage2.walk(ipaLo, ipaHi, need) !== OK) break;
      half.arrive(at | block, lo, hi);
      this.#last = half;
      this.stage = 1;
      this.perm = perm;
      this.perm2 = stage2.perm;
      this.ipaLo = ipaLo;
      this.ipaHi = ipaHi;
      this.paLo = stage2.paLo;
      this.paHi = stage2.paHi;
      return OK;
    }
    stage2.reads = reads;
    return -1;
  }

  /** {@link walk} without its short cut for ordinary walks, which knows a part of the architecture only. */
  walkFully(vaLo: number, vaHi: number, need: number): number {
    this.stage = 1;
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
