import type { Memory } from "@smmuv3/platform";
import { combineAttributes } from "./attributes.ts";
import { GRANULE, GRANULES, outputBits } from "./granule.ts";
import { STAGE2_RIGHTS } from "./rights.ts";
import { PERM, WALK, WRITES } from "./status.ts";
import { AF, DBM, LAYOUT, Tables } from "./tables.ts";
import type { WalkTrace, WalkUpdate } from "./tables.ts";

/** Flags of {@link Stage2Walker.configure} that VTCR_EL2[18:0] does not hold. */
export const STAGE2 = {
  /** Access flag faults are disabled (STE.S2AFFD). Ignored with HA. */
  AFFD: 1,
  /** XN[0] qualifies XN[1] by privilege (FEAT_XNX); otherwise only XN[1] counts. */
  XNX: 2,
  /** Hardware sets access flags (STE.S2HA). */
  HA: 4,
  /** Hardware marks writable-clean pages dirty (STE.S2HD); needs HA. */
  HD: 8,
  /** Hardware sets access flags of table descriptors (STE.S2HAFT); needs HA. */
  HAFT: 16,
  /** VMSAv8-32 LPAE tables: T0SZ[3:0] is signed, 4K, outputs of 40 bits; TG0, PS and hardware updates are ignored. */
  LPAE: 32,
  /** Big-endian tables (STE.S2ENDI). */
  BIG_ENDIAN: 64,
  /** 52-bit addresses with 4K and 16K (STE.S2DS). */
  DS: 128,
  /** T0SZ above 39, and start level 3 with 4K (SMMU_IDR3.STT, FEAT_TTST). */
  STT: 256,
  /** Physical addresses have 52 bits (OAS); implied by PS = 6. */
  LPA: 512,
  /** MemAttr is in the forced write-back encoding (STE.S2FWB). */
  FWB: 1024,
  /** SL2: with DS and 4K, start level -1 (STE.S2SL0_2). */
  SL2: 2048,
} as const;

/** S2AP[1]: set by hardware to mark a page dirty. */
const S2AP_WRITE = 0x80;
/** MemAttr[3:2], and MemAttr[2] alone: zero for Device memory. */
const MEM_ATTR_NORMAL = 0x30;
const MEM_ATTR_NORMAL_FWB = 0x10;

// Of this module, for the compiler to see them as constants.
const OK = WALK.OK;
const NOT_DEVICE = PERM.NOT_DEVICE;
const ACCESSED = AF;
/** Bits [47:43] of an address in the high word, which no address of RAM has. */
const BEYOND_RAM = 0xf800;

const BAD = -2;
/** Start levels by SL0, with and without DS; {@link BAD} where reserved. Indexed by GRANULE. */
const START_LEVELS: readonly (readonly number[])[] = [
  [2, 1, 0, 3],
  [3, 2, 1, BAD],
  [3, 2, 1, 0],
];

/** Start level of VMSAv8-64 (VTCR_EL2.SL0 and SL2), {@link BAD} where reserved. */
function startLevelOf(granule: number, sl0: number, flags: number): number {
  const ds = (flags & STAGE2.DS) !== 0;
  if (granule === GRANULE.K4 && ds && (flags & STAGE2.SL2) !== 0) return sl0 === 0 ? -1 : BAD;
  const level = START_LEVELS[granule]![sl0]!;
  if (granule === GRANULE.K4 && level === 3 && (flags & STAGE2.STT) === 0) return BAD;
  return granule === GRANULE.K16 && level === 0 && !ds ? BAD : level;
}

/** True where T0SZ is in the range of VMSAv8-64 for the granule (IHI 0070 5.2, S2T0SZ). */
function inRange(t0sz: number, granule: number, flags: number): boolean {
  const k64 = granule === GRANULE.K64;
  const most = (flags & STAGE2.STT) === 0 ? 39 : k64 ? 47 : 48;
  const least = k64 || (flags & STAGE2.DS) !== 0 ? 12 : 16;
  return t0sz >= least && t0sz <= most;
}

/**
 * Stage-2 walker. Results of the last {@link walk} stay in the fields; a walk allocates nothing. Descriptors are read through
 * `memory`; a page without read permission, or an address outside of RAM, is an external abort.
 */
export class Stage2Walker {
  /** {@link PERM} bits of the leaf as it is after the walk: a page that is still clean has no right to write. */
  perm = 0;
  /** The leaf is writable-clean: a walk for a write would mark it dirty and succeed. */
  clean = false;
  /** Descriptors updated since construction. */
  updates = 0;
  /** Walk as if hardware updates were done, but store nothing (ATOS with HTTUI, explanations). */
  inhibitUpdates = false;
  /** Called after each descriptor update. */
  onUpdate: WalkUpdate | null = null;

  readonly #memory: Memory;
  readonly #tables: Tables;
  /** The configuration makes every walk fault. */
  #refused = false;
  #checkAf = true;
  #ha = false;
  #hd = false;
  #fwb = false;
  /** Bits of MemAttr that are zero for Device memory. */
  #normal = MEM_ATTR_NORMAL;
  #rights: Uint8Array = STAGE2_RIGHTS[0]!;

  constructor(memory: Memory) {
    this.#memory = memory;
    this.#tables = new Tables(2, memory);
  }

  /** Output address of the last successful walk, or of one that failed with PERMISSION or ACCESS_FLAG. */
  get paLo(): number {
    return this.#tables.outLo;
  }

  get paHi(): number {
    return this.#tables.outHi;
  }

  /** Level of the last descriptor looked at; 0 where the input was refused. */
  get level(): number {
    return this.#tables.level;
  }

  /** log2 of the size that the last leaf maps. */
  get shift(): number {
    return this.#tables.shift;
  }

  /** The last descriptor. */
  get descLo(): number {
    return this.#tables.descLo;
  }

  get descHi(): number {
    return this.#tables.descHi;
  }

  /** Physical address of the last descriptor. */
  get descPaLo(): number {
    return this.#tables.addressLo;
  }

  get descPaHi(): number {
    return this.#tables.addressHi;
  }

  /** Descriptor reads since construction. */
  get reads(): number {
    return this.#tables.reads;
  }

  set reads(reads: number) {
    this.#tables.reads = reads;
  }

  /** MemAttr[3:0] of the last leaf. */
  get memAttr(): number {
    return (this.#tables.descLo >>> 2) & 15;
  }

  /** MemAttr is in the encoding of FWB. */
  get fwb(): boolean {
    return this.#fwb;
  }

  /** The last leaf is any Device type. */
  get device(): boolean {
    return (this.#tables.descLo & this.#normal) === 0;
  }

  /** SH[1:0] of the last leaf; with DS that of the configuration. */
  get shareability(): number {
    const { sh, descLo } = this.#tables;
    return sh >= 0 ? sh : (descLo >>> 8) & 3;
  }

  /** Called for every descriptor read, or null; off by default, and costs nothing then. */
  get trace(): WalkTrace | null {
    return this.#tables.trace;
  }

  set trace(trace: WalkTrace | null) {
    this.#tables.trace = trace;
  }

  /**
   * Sets the tables.
   * @param ttbLo,ttbHi address of the first table; bits below its size are ignored
   * @param vtcr VTCR_EL2[18:0]: T0SZ[5:0] SL0[7:6] IRGN0[9:8] ORGN0[11:10] SH0[13:12] TG0[15:14] PS[18:16]
   * @param flags of {@link STAGE2}
   * @returns WALK.OK, or WALK.TRANSLATION where T0SZ, SL0 and TG0 do not fit together: every walk would fault at level 0
   */
  configure(ttbLo: number, ttbHi: number, vtcr: number, flags: number = 0): number {
    const lpae = (flags & STAGE2.LPAE) !== 0;
    const granule = lpae ? GRANULE.K4 : (vtcr >>> 14) & 3;
    const sl0 = (vtcr >>> 6) & 3;
    const shape = GRANULES[granule];
    if (shape === undefined || (!lpae && !inRange(vtcr & 63, granule, flags))) return this.#refuse();
    const inputBits = lpae ? 32 - ((vtcr << 28) >> 28) : 64 - (vtcr & 63);
    const startLevel = lpae ? (sl0 < 2 ? 2 - sl0 : BAD) : startLevelOf(granule, sl0, flags);
    const startBits = inputBits - (shape.pageShift + (3 - startLevel) * shape.stride);
    // Fewer than two entries, or more than 16 concatenated tables.
    if (startLevel === BAD || startBits < 1 || startBits > shape.stride + 4) return this.#refuse();

    const ha = !lpae && (flags & STAGE2.HA) !== 0;
    const ds = !lpae && (flags & STAGE2.DS) !== 0 && granule !== GRANULE.K64;
    const layout =
      (ds ? LAYOUT.DS : 0) |
      ((flags & STAGE2.LPA) !== 0 ? LAYOUT.LPA : 0) |
      ((flags & STAGE2.BIG_ENDIAN) !== 0 ? LAYOUT.BIG_ENDIAN : 0) |
      (ha ? LAYOUT.HA : 0) |
      (ha && (flags & STAGE2.HAFT) !== 0 ? LAYOUT.HAFT : 0);
    const size = lpae ? 40 : outputBits(vtcr >>> 16);
    this.#tables.configure(ttbLo, ttbHi, inputBits, startLevel, granule, size, layout);
    this.#ha = ha;
    this.#hd = ha && (flags & STAGE2.HD) !== 0;
    this.#refused = false;
    this.#checkAf = (flags & STAGE2.AFFD) === 0;
    this.clean = false;
    this.#fwb = (flags & STAGE2.FWB) !== 0;
    this.#normal = this.#fwb ? MEM_ATTR_NORMAL_FWB : MEM_ATTR_NORMAL;
    this.#tables.sh = ds ? (vtcr >>> 12) & 3 : -1;
    this.#rights = STAGE2_RIGHTS[((flags & STAGE2.XNX) !== 0 ? 1 : 0) | (lpae ? 2 : 0)]!;
    return WALK.OK;
  }

  /** Replaces the address of the first table and leaves all else as it is configured. */
  setRoot(ttbLo: number, ttbHi: number): void {
    this.#tables.setRoot(ttbLo, ttbHi);
  }

  #refuse(): number {
    this.#refused = true;
    this.#tables.disable();
    return WALK.TRANSLATION;
  }

  /**
   * Walks for one input address.
   * @param need {@link PERM} bits the access needs; 0 asks for the translation and leaves the check to the caller
   * @returns one of {@link WALK}
   */
  walk(ipaLo: number, ipaHi: number, need: number = 0): number {
    const tables = this.#tables;
    if (((ipaHi & tables.topHi) | (ipaLo & tables.topLo)) === 0 && tables.route !== 0) {
      const memory = this.#memory;
      const at = tables.ordinary(memory, ipaLo, ipaHi);
      if (at >= 0) {
        const words = memory.words;
        const lo = words[at & ~1]!;
        const hi = words[at | 1]!;
        const perm = this.#rights[((lo >>> 6) & 3) | ((hi >>> 19) & 12)]!;
        if ((lo & ACCESSED) !== 0 && (need & ~perm) === 0) {
          const offset = (at & 1) === 0 ? 0xfff : 0x1f_ffff;
          tables.arrive(at, lo, hi);
          tables.outLo = (lo & ~0xfff & ~offset) | (ipaLo & offset);
          tables.outHi = hi & 0xffff;
          this.perm = perm;
          return OK;
        }
      }
    }
    return this.#walkFully(ipaLo, ipaHi, need);
  }

  /**
   * An ordinary walk for a descriptor in RAM that stage 1 reads: see `Tables.ordinary`. Changes nothing but {@link reads}.
   * @returns the index of the descriptor in `Memory.words`, or -1 for anything else, for {@link walk}
   */
  ordinary(ipaLo: number, ipaHi: number, need: number): number {
    const tables = this.#tables;
    if (((ipaHi & tables.topHi) | (ipaLo & tables.topLo)) !== 0 || tables.route === 0) return -1;
    const memory = this.#memory;
    const at = tables.ordinary(memory, ipaLo, ipaHi);
    if (at < 0) return -1;
    const words = memory.words;
    const lo = words[at & ~1]!;
    const hi = words[at | 1]!;
    const granted = this.#rights[((lo >>> 6) & 3) | ((hi >>> 19) & 12)]! | ((lo & this.#normal) === 0 ? 0 : NOT_DEVICE);
    if ((lo & ACCESSED) === 0 || (need & ~granted) !== 0 || (hi & BEYOND_RAM) !== 0) return -1;
    const offset = (at & 1) === 0 ? 0xfff : 0x1f_ffff;
    const paLo = (lo & ~0xfff & ~offset) | (ipaLo & offset);
    const perm = memory.perm;
    const page = (((hi << 20) | (paLo >>> 12)) - memory.basePage) | 0;
    if (page >>> 0 >= perm.length || (perm[page]! & 1) === 0) return -1;
    tables.reads += 4 - (at & 1) - tables.startLevel;
    return (page << 10) | ((paLo & 0xfff) >>> 2);
  }

  /** The whole of the architecture; what {@link walk} does itself is a part of it. */
  #walkFully(ipaLo: number, ipaHi: number, need: number): number {
    const tables = this.#tables;
    if (this.#refused || ((ipaHi & tables.topHi) | (ipaLo & tables.topLo)) !== 0) return tables.refuse();
    const status = tables.descendAny(this.#memory, ipaLo, ipaHi, null, 0);
    return status === OK ? this.#settle(need) : status;
  }

  /**
   * {@link walk} without trace and without counting reads, for what hardware does between the reads of a walk.
   * @param inhibit nothing is stored
   */
  walkQuietly(ipaLo: number, ipaHi: number, need: number, inhibit: boolean): number {
    const { inhibitUpdates, reads, trace } = this;
    this.inhibitUpdates = inhibitUpdates || inhibit;
    this.trace = null;
    const status = this.walk(ipaLo, ipaHi, need);
    this.inhibitUpdates = inhibitUpdates;
    this.trace = trace;
    this.#tables.reads = reads;
    return status;
  }

  /**
   * Memory type and shareability after the last leaf; `combineAttributes` has the encoding.
   * @param attr,sh what stage 1 gives, or the access where that does not translate
   */
  attributes(attr: number, sh: number): number {
    return combineAttributes(attr, sh, this.memAttr, this.shareability, this.#fwb);
  }

  /** Rights, access flag, permission, and the updates that a good access owes (IHI 0070 3.13). */
  #settle(need: number): number {
    const tables = this.#tables;
    const lo = tables.descLo;
    const perm = this.#rights[((lo >>> 6) & 3) | ((tables.descHi >>> 19) & 12)]!;
    this.perm = perm;
    let flip = 0;
    if ((lo & AF) === 0) {
      if (this.#ha) flip = AF;
      else if (this.#checkAf) return WALK.ACCESS_FLAG;
    }
    const clean = this.#hd && (tables.descHi & DBM) !== 0 && (lo & S2AP_WRITE) === 0;
    this.clean = clean;
    const granted = perm | (clean ? WRITES : 0) | (this.device ? 0 : PERM.NOT_DEVICE);
    if ((need & ~granted) !== 0) return WALK.PERMISSION;
    const dirty = clean && (need & WRITES) !== 0;
    if (dirty) flip |= S2AP_WRITE;
    if (flip !== 0) tables.note(tables.indexIn(this.#memory), tables.level, 0, 0, flip);
    if (tables.pending === 0) return WALK.OK;
    for (let i = 0; i < tables.pending; i++) {
      if (tables.checkPending(this.#memory, i) !== WALK.OK) return WALK.EXTERNAL_ABORT;
    }
    if (this.inhibitUpdates) return WALK.OK;
    for (let i = 0; i < tables.pending; i++) tables.update(this.#memory, i, this.onUpdate);
    this.updates += tables.pending;
    if (dirty) {
      this.perm = perm | WRITES;
      this.clean = false;
    }
    return WALK.OK;
  }
}
