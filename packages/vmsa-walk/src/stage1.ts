import type { Memory } from "@smmuv3/platform";
import { aboveHi, ADDRESS_BITS, alignWord, GRANULE, GRANULES, locate, SIZE_52 } from "./granule.ts";
import type { Stage2Walker } from "./stage2.ts";
import { PERM, WALK } from "./status.ts";

/** Flags of one half of the address space, {@link Stage1Walker.configureHalf}. */
export const HALF = {
  /** EPDn: a walk of this half faults. */
  DISABLED: 1,
  /** TBIn: VA[63:56] is ignored. */
  TBI: 2,
  /** HADn: hierarchical permissions of table descriptors are ignored. */
  HAD: 4,
} as const;

/** Flags of the whole regime, {@link Stage1Walker.configure}. */
export const STAGE1 = {
  /** Access flag faults are disabled. */
  AFFD: 1,
  /** Writable means never executable. */
  WXN: 2,
  /** Privileged data accesses to unprivileged pages fault. */
  PAN: 4,
  /** A regime with one privilege level (EL2, EL3): AP[1], PXN and global pages do not exist. */
  SINGLE: 8,
  /** Every address is an input of stage 2. */
  NESTED: 16,
  /** Table walks to Device memory of stage 2 fault (STE.S2PTW). */
  PTW: 32,
} as const;

/** What a stage-2 fault was met on, with the encoding of CLASS in event records. */
export const FAULT_CLASS = { CD: 0, TT: 1, IN: 2 } as const;

/** Rights of AP[2:1] before PAN, WXN and the XN bits; execution is permitted. */
const RIGHTS: readonly number[] = [
  PERM.PRIV_READ | PERM.PRIV_WRITE,
  PERM.READ | PERM.WRITE | PERM.PRIV_READ | PERM.PRIV_WRITE,
  PERM.PRIV_READ,
  PERM.READ | PERM.PRIV_READ,
];

/**
 * Rights by the index `AP[2:1] | PXN << 2 | UXN << 3` for one combination of STAGE1.WXN, PAN and SINGLE.
 * Arm ARM D8.4: what is writable unprivileged is never executable privileged.
 */
function rightsTable(flags: number): Uint8Array {
  const table = new Uint8Array(16);
  const single = (flags & STAGE1.SINGLE) !== 0;
  for (let index = 0; index < 16; index++) {
    const uxn = (index & 8) !== 0;
    const pxn = single ? uxn : (index & 4) !== 0;
    let rights = RIGHTS[single ? (index & 2) | 1 : index & 3]!;
    if (!uxn) rights |= PERM.EXECUTE;
    if (!pxn && (single || (rights & PERM.WRITE) === 0)) rights |= PERM.PRIV_EXECUTE;
    if ((flags & STAGE1.WXN) !== 0) {
      if ((rights & PERM.WRITE) !== 0) rights &= ~PERM.EXECUTE;
      if ((rights & PERM.PRIV_WRITE) !== 0) rights &= ~PERM.PRIV_EXECUTE;
    }
    if ((flags & STAGE1.PAN) !== 0 && !single && (rights & PERM.READ) !== 0) {
      rights &= ~(PERM.PRIV_READ | PERM.PRIV_WRITE);
    }
    table[index] = rights;
  }
  return table;
}

const RIGHTS_FLAGS = STAGE1.WXN | STAGE1.PAN | STAGE1.SINGLE;
/** {@link rightsTable} of every combination of {@link RIGHTS_FLAGS}; the others stay empty. */
const RIGHTS_TABLES: readonly Uint8Array[] = Array.from({ length: RIGHTS_FLAGS + 1 }, (_, flags) =>
  (flags & ~RIGHTS_FLAGS) === 0 ? rightsTable(flags) : new Uint8Array(0),
);

/** One half of the address space, decoded once. */
class Half {
  enabled = false;
  hierarchical = false;
  tableLo = 0;
  tableHi = 0;
  startLevel = 0;
  startShift = 0;
  startMask = 0;
  stride = 9;
  addressMask = 0;
  blockLevel = 1;
  wide = false;
  /** VA bits above the input range, without those that TBI ignores: they are all zero (TTB0) or all one (TTB1). */
  topLo = 0;
  topHi = 0;
}

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
  /** Where `stage` is 2: {@link FAULT_CLASS} TT for a descriptor fetch, IN for the output of stage 1. */
  faultClass: number = FAULT_CLASS.IN;
  /** Level and log2 of the size of the stage-1 leaf, or of the last descriptor. */
  level = 0;
  shift = 0;
  /** log2 of the size that maps to one place in both stages. */
  pageShift = 0;
  /** The last stage-1 descriptor, and its physical address. */
  descLo = 0;
  descHi = 0;
  descPaLo = 0;
  descPaHi = 0;
  /** {@link PERM} bits of stage 1, and of the final stage 2 (all where not nested). */
  perm = 0;
  perm2: number = PERM.ALL;
  /** Stage-1 descriptor reads since construction; those of stage 2 are counted there. */
  reads = 0;

  readonly stage2: Stage2Walker;
  readonly #memory: Memory;
  readonly #low = new Half();
  readonly #high = new Half();
  #outputHi = 0;
  #ips = 0;
  #checkAf = true;
  #nested = false;
  #ptw = false;
  #rights: Uint8Array = RIGHTS_TABLES[0]!;

  constructor(memory: Memory, stage2: Stage2Walker) {
    this.#memory = memory;
    this.stage2 = stage2;
  }

  /** AttrIndx[2:0] of the last leaf. */
  get attrIndex(): number {
    return (this.descLo >>> 2) & 7;
  }

  /** SH[1:0] of the last leaf. */
  get shareability(): number {
    return (this.descLo >>> 8) & 3;
  }

  /** The last leaf is global: nG is 0. */
  get global(): boolean {
    return (this.descLo & 0x800) === 0;
  }

  /**
   * Sets what both halves share; call it before {@link configureHalf}.
   * @param ips output size, encoded as in TCR.IPS
   * @param flags of {@link STAGE1}
   */
  configure(ips: number, flags: number): void {
    this.#ips = ips;
    this.#outputHi = aboveHi(Math.min(ADDRESS_BITS[ips & 7]!, 52));
    this.#checkAf = (flags & STAGE1.AFFD) === 0;
    this.#nested = (flags & STAGE1.NESTED) !== 0;
    this.perm2 = PERM.ALL;
    this.#ptw = (flags & STAGE1.PTW) !== 0;
    this.#rights = RIGHTS_TABLES[flags & RIGHTS_FLAGS]!;
  }

  /**
   * Sets one half.
   * @param high true for TTB1
   * @param ttbLo,ttbHi address of the first table; bits below its size are ignored
   * @param tsz TnSZ: the input range is 64 - tsz bits
   * @param granule of GRANULE
   * @param flags of {@link HALF}
   */
  configureHalf(high: boolean, ttbLo: number, ttbHi: number, tsz: number, granule: number, flags: number): void {
    const half = high ? this.#high : this.#low;
    const shape = GRANULES[granule];
    const bits = 64 - tsz;
    half.enabled = (flags & HALF.DISABLED) === 0 && shape !== undefined && bits > shape.pageShift && bits <= 52;
    if (!half.enabled || shape === undefined) return;
    const { pageShift, stride } = shape;
    const levels = Math.ceil((bits - pageShift) / stride);
    const startShift = pageShift + (levels - 1) * stride;
    const startBits = bits - startShift;
    half.hierarchical = (flags & HALF.HAD) === 0;
    half.startLevel = 4 - levels;
    half.startShift = startShift;
    half.startMask = (1 << startBits) - 1;
    half.tableLo = alignWord(ttbLo, startBits + 3);
    half.tableHi = ttbHi;
    half.stride = stride;
    half.addressMask = shape.addressMask;
    half.wide = granule === GRANULE.K64 && this.#ips >= SIZE_52;
    half.blockLevel = half.wide ? 1 : shape.blockLevel;
    half.topHi = (bits >= 32 ? aboveHi(bits) : -1) & ((flags & HALF.TBI) !== 0 ? 0x00ff_ffff : -1);
    half.topLo = bits >= 32 ? 0 : ~((1 << bits) - 1);
  }

  /**
   * Walks for one input address.
   * @param need {@link PERM} bits the access needs of each stage
   * @returns one of {@link WALK}; `stage` says which stage it came from
   */
  walk(vaLo: number, vaHi: number, need: number): number {
    const high = (vaHi & 0x0080_0000) !== 0;
    const half = high ? this.#high : this.#low;
    const ones = high ? -1 : 0;
    this.stage = 1;
    if (!half.enabled || (((vaHi ^ ones) & half.topHi) | ((vaLo ^ ones) & half.topLo)) !== 0) {
      this.level = 0;
      return WALK.TRANSLATION;
    }
    if (this.#nested) return this.#walkNested(half, vaLo, vaHi, need);
    return half.stride === 9 ? this.#walk4K(half, vaLo, vaHi, need) : this.#walkAny(half, vaLo, vaHi, need);
  }

  /** The 4K granule with its indices written out. */
  #walk4K(half: Half, vaLo: number, vaHi: number, need: number): number {
    const memory = this.#memory;
    const words = memory.words;
    const perm = memory.perm;
    const pages = memory.pages;
    const basePage = memory.basePage;
    const outputHi = this.#outputHi;
    const start = half.startLevel;
    const mask = half.startMask;
    let lo = half.tableLo;
    let hi = half.tableHi;
    let inherited = 0;
    let index = 0;
    if (start === 0) {
      index = (vaHi >>> 7) & mask;
      const slot = lo | (index << 3);
      const at = locate(slot, hi, perm, pages, basePage);
      if (at < 0) return this.#abort(half, slot, hi, 0);
      const descLo = words[at]!;
      inherited = words[at + 1]!;
      if ((descLo & 3) !== 3 || (inherited & 0xffff & outputHi) !== 0) {
        return this.#leaf(half, descLo, inherited, slot, hi, 0, 39, 0, vaLo, vaHi, need);
      }
      lo = descLo & ~0xfff;
      hi = inherited & 0xffff;
    }
    if (start <= 1) {
      index = ((vaHi << 2) | (vaLo >>> 30)) & (start === 1 ? mask : 511);
      const slot = lo | (index << 3);
      const at = locate(slot, hi, perm, pages, basePage);
      if (at < 0) return this.#abort(half, slot, hi, 1);
      const descLo = words[at]!;
      const descHi = words[at + 1]!;
      if ((descLo & 3) !== 3 || (descHi & 0xffff & outputHi) !== 0) {
        return this.#leaf(half, descLo, descHi, slot, hi, 1, 30, inherited, vaLo, vaHi, need);
      }
      inherited |= descHi;
      lo = descLo & ~0xfff;
      hi = descHi & 0xffff;
    }
    if (start <= 2) {
      index = ((vaHi << 11) | (vaLo >>> 21)) & (start === 2 ? mask : 511);
      const slot = lo | (index << 3);
      const at = locate(slot, hi, perm, pages, basePage);
      if (at < 0) return this.#abort(half, slot, hi, 2);
      const descLo = words[at]!;
      const descHi = words[at + 1]!;
      if ((descLo & 3) !== 3 || (descHi & 0xffff & outputHi) !== 0) {
        return this.#leaf(half, descLo, descHi, slot, hi, 2, 21, inherited, vaLo, vaHi, need);
      }
      inherited |= descHi;
      lo = descLo & ~0xfff;
      hi = descHi & 0xffff;
    }
    index = ((vaHi << 20) | (vaLo >>> 12)) & (start === 3 ? mask : 511);
    const slot = lo | (index << 3);
    const at = locate(slot, hi, perm, pages, basePage);
    if (at < 0) return this.#abort(half, slot, hi, 3);
    return this.#leaf(half, words[at]!, words[at + 1]!, slot, hi, 3, 12, inherited, vaLo, vaHi, need);
  }

  #walkAny(half: Half, vaLo: number, vaHi: number, need: number): number {
    const memory = this.#memory;
    const words = memory.words;
    const { stride, wide, addressMask } = half;
    let shift = half.startShift;
    let mask = half.startMask;
    let level = half.startLevel;
    let tableLo = half.tableLo;
    let tableHi = half.tableHi;
    let inherited = 0;
    for (;;) {
      const index = shift >= 32 ? vaHi >>> (shift - 32) : (vaLo >>> shift) | (vaHi << (32 - shift));
      const slot = tableLo | ((index & mask) << 3);
      const at = locate(slot, tableHi, memory.perm, memory.pages, memory.basePage);
      if (at < 0) return this.#abort(half, slot, tableHi, level);
      const lo = words[at]!;
      const hi = words[at + 1]!;
      const outHi = (hi & 0xffff) | (wide ? (lo & 0xf000) << 4 : 0);
      if ((lo & 3) !== 3 || level === 3 || (outHi & this.#outputHi) !== 0) {
        return this.#leaf(half, lo, hi, slot, tableHi, level, shift, inherited, vaLo, vaHi, need);
      }
      inherited |= hi;
      tableLo = lo & addressMask;
      tableHi = outHi;
      shift -= stride;
      level++;
      mask = (1 << stride) - 1;
    }
  }

  /** Every descriptor address, and the output, is an input of stage 2 (IHI 0070 3.3.2). */
  #walkNested(half: Half, vaLo: number, vaHi: number, need: number): number {
    const memory = this.#memory;
    const words = memory.words;
    const stage2 = this.stage2;
    const { stride, wide, addressMask } = half;
    let shift = half.startShift;
    let mask = half.startMask;
    let level = half.startLevel;
    let tableLo = half.tableLo;
    let tableHi = half.tableHi;
    let inherited = 0;
    for (;;) {
      const index = shift >= 32 ? vaHi >>> (shift - 32) : (vaLo >>> shift) | (vaHi << (32 - shift));
      const status = this.#translateTable(tableLo | ((index & mask) << 3), tableHi);
      if (status !== WALK.OK) {
        this.level = level;
        this.reads += level - half.startLevel;
        return status;
      }
      const slot = stage2.paLo;
      const slotHi = stage2.paHi;
      const at = locate(slot, slotHi, memory.perm, memory.pages, memory.basePage);
      if (at < 0) return this.#abort(half, slot, slotHi, level);
      const lo = words[at]!;
      const hi = words[at + 1]!;
      const outHi = (hi & 0xffff) | (wide ? (lo & 0xf000) << 4 : 0);
      if ((lo & 3) === 3 && level < 3 && (outHi & this.#outputHi) === 0) {
        inherited |= hi;
        tableLo = lo & addressMask;
        tableHi = outHi;
        shift -= stride;
        level++;
        mask = (1 << stride) - 1;
        continue;
      }
      const leaf = this.#leaf(half, lo, hi, slot, slotHi, level, shift, inherited, vaLo, vaHi, need);
      return leaf === WALK.OK ? this.#finish(this.ipaLo, this.ipaHi, need) : leaf;
    }
  }

  #abort(half: Half, slot: number, hi: number, level: number): number {
    this.reads += level - half.startLevel;
    this.level = level;
    this.descPaLo = slot;
    this.descPaHi = hi;
    return WALK.EXTERNAL_ABORT;
  }

  /** Ends stage 1 at a descriptor that is not a good pointer to a table. */
  #leaf(
    half: Half,
    lo: number,
    hi: number,
    slot: number,
    slotHi: number,
    level: number,
    shift: number,
    inherited: number,
    vaLo: number,
    vaHi: number,
    need: number,
  ): number {
    this.reads += level - half.startLevel + 1;
    this.level = level;
    this.shift = shift;
    this.pageShift = shift;
    this.descLo = lo;
    this.descHi = hi;
    this.descPaLo = slot;
    this.descPaHi = slotHi;
    let outHi = hi & 0xffff;
    if (half.wide) outHi |= (lo & 0xf000) << 4;
    if ((lo & 1) === 0 || ((lo & 2) === 0 && (level === 3 || level < half.blockLevel))) return WALK.TRANSLATION;
    if ((outHi & this.#outputHi) !== 0) return WALK.ADDRESS_SIZE;
    let outLo = lo & half.addressMask;
    if (shift < 32) {
      const low = (1 << shift) - 1;
      outLo = (outLo & ~low) | (vaLo & low);
    } else {
      const low = (1 << (shift - 32)) - 1;
      outLo = vaLo;
      outHi = (outHi & ~low) | (vaHi & low);
    }
    this.ipaLo = outLo;
    this.ipaHi = outHi;
    this.paLo = outLo;
    this.paHi = outHi;
    let rights = ((lo >>> 6) & 3) | ((hi >>> 19) & 12);
    if (half.hierarchical && inherited >>> 27 !== 0) rights = inherit(rights, inherited);
    const perm = this.#rights[rights]!;
    this.perm = perm;
    if ((lo & 0x400) === 0 && this.#checkAf) return WALK.ACCESS_FLAG;
    return (need & ~perm) === 0 ? WALK.OK : WALK.PERMISSION;
  }

  /** Translates the address of a stage-1 descriptor; a fault of it is stage 2, class TT. */
  #translateTable(lo: number, hi: number): number {
    const stage2 = this.stage2;
    let status = stage2.walk(lo, hi, PERM.READ);
    // MemAttr[3:2] = 0 is Device memory.
    if (status === WALK.OK && this.#ptw && (stage2.descLo & 0x30) === 0) status = WALK.PERMISSION;
    if (status !== WALK.OK) {
      this.stage = 2;
      this.faultClass = FAULT_CLASS.TT;
      this.ipaLo = lo;
      this.ipaHi = hi;
    }
    return status;
  }

  #finish(lo: number, hi: number, need: number): number {
    const stage2 = this.stage2;
    const status = stage2.walk(lo, hi, need);
    this.perm2 = stage2.perm;
    if (status !== WALK.OK) {
      this.stage = 2;
      this.faultClass = FAULT_CLASS.IN;
      return status;
    }
    this.pageShift = Math.min(this.shift, stage2.shift);
    this.paLo = stage2.paLo;
    this.paHi = stage2.paHi;
    return WALK.OK;
  }
}

/** Adds APTable, PXNTable and UXNTable = bits [62:59] of the table descriptors passed to a leaf's rights index. */
function inherit(rights: number, tableHi: number): number {
  let index = rights | ((tableHi >>> 25) & 12);
  if ((tableHi & 0x2000_0000) !== 0) index &= ~1;
  if ((tableHi & 0x4000_0000) !== 0) index |= 2;
  return index;
}
