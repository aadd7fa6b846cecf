import type { Memory } from "@smmuv3/platform";
import { aboveHi, ADDRESS_BITS, alignWord, GRANULES, locate, SIZE_52 } from "./granule.ts";
import { PERM, WALK } from "./status.ts";

/** Flags of {@link Stage2Walker.configure} that VTCR_EL2 does not hold. */
export const STAGE2 = {
  /** Access flag faults are disabled (STE.S2AFFD). */
  AFFD: 1,
  /** XN[0] qualifies XN[1] by privilege (FEAT_XNX); otherwise only XN[1] counts. */
  XNX: 2,
} as const;

/** Read and write of S2AP[1:0] for both privileges. */
const RIGHTS: readonly number[] = [
  0,
  PERM.READ | PERM.PRIV_READ,
  PERM.WRITE | PERM.PRIV_WRITE,
  PERM.READ | PERM.PRIV_READ | PERM.WRITE | PERM.PRIV_WRITE,
];
/** Execute rights of XN[1:0] = bits [54:53] with FEAT_XNX (Arm ARM, D8.4). */
const EXECUTE_XNX: readonly number[] = [PERM.EXECUTE | PERM.PRIV_EXECUTE, PERM.EXECUTE, 0, PERM.PRIV_EXECUTE];
const EXECUTE: readonly number[] = [
  PERM.EXECUTE | PERM.PRIV_EXECUTE,
  PERM.EXECUTE | PERM.PRIV_EXECUTE,
  0,
  0,
];

/**
 * Stage-2 walker. Results of the last {@link walk} stay in the fields; a walk allocates nothing. Descriptors are read through
 * `memory`; a page without read permission, or an address outside of RAM, is an external abort.
 */
export class Stage2Walker {
  /** Output address of the last successful walk, or of one that failed with PERMISSION or ACCESS_FLAG. */
  paLo = 0;
  paHi = 0;
  /** Level of the last descriptor looked at. */
  level = 0;
  /** log2 of the size that the last leaf maps. */
  shift = 0;
  /** The last descriptor. */
  descLo = 0;
  descHi = 0;
  /** Physical address of the last descriptor. */
  descPaLo = 0;
  descPaHi = 0;
  /** {@link PERM} bits of the leaf. */
  perm = 0;
  /** Descriptor reads since construction. */
  reads = 0;

  readonly #memory: Memory;
  #tableLo = 0;
  #tableHi = 0;
  #startLevel = 0;
  #startShift = 0;
  #startMask = 0;
  #stride = 0;
  #addressMask = 0;
  #blockLevel = 0;
  #inputLo = 0;
  #inputHi = 0;
  #outputHi = 0;
  #wide = false;
  #checkAf = true;
  #execute: readonly number[] = EXECUTE;

  constructor(memory: Memory) {
    this.#memory = memory;
  }

  /** MemAttr[3:0] of the last leaf. */
  get memAttr(): number {
    return (this.descLo >>> 2) & 15;
  }

  /** SH[1:0] of the last leaf. */
  get shareability(): number {
    return (this.descLo >>> 8) & 3;
  }

  /**
   * Sets the tables.
   * @param ttbLo,ttbHi address of the first table; bits below its size are ignored
   * @param vtcr VTCR_EL2[18:0]: T0SZ[5:0] SL0[7:6] IRGN0[9:8] ORGN0[11:10] SH0[13:12] TG0[15:14] PS[18:16]
   * @param flags of {@link STAGE2}
   * @returns WALK.OK, or WALK.TRANSLATION where T0SZ, SL0 and TG0 do not fit together: every walk would fault at level 0
   */
  configure(ttbLo: number, ttbHi: number, vtcr: number, flags: number = 0): number {
    const granule = GRANULES[(vtcr >>> 14) & 3];
    const inputBits = 64 - (vtcr & 63);
    const sl0 = (vtcr >>> 6) & 3;
    if (granule === undefined || inputBits < 16 || inputBits > 52) return this.#refuse();
    const { pageShift, stride } = granule;
    // 4K counts start levels from 2 and uses SL0 = 3 for level 3; the others count from 3 (VTCR_EL2.SL0).
    const startLevel = pageShift === 12 ? (sl0 === 3 ? 3 : 2 - sl0) : 3 - sl0;
    const startShift = pageShift + (3 - startLevel) * stride;
    const startBits = inputBits - startShift;
    // Fewer than two entries, or more than 16 concatenated tables.
    if (startBits < 1 || startBits > stride + 4) return this.#refuse();

    const ps = (vtcr >>> 16) & 7;
    const outputBits = Math.min(ADDRESS_BITS[ps]!, 52);
    this.#wide = pageShift === 16 && ps >= SIZE_52;
    this.#stride = stride;
    this.#addressMask = granule.addressMask;
    this.#blockLevel = this.#wide ? 1 : granule.blockLevel;
    this.#startLevel = startLevel;
    this.#startShift = startShift;
    this.#startMask = (1 << startBits) - 1;
    this.#tableLo = alignWord(ttbLo, startBits + 3);
    this.#tableHi = ttbHi;
    this.#inputHi = inputBits >= 32 ? aboveHi(inputBits) : -1;
    this.#inputLo = inputBits >= 32 ? 0 : ~((1 << inputBits) - 1);
    this.#outputHi = aboveHi(outputBits);
    this.#checkAf = (flags & STAGE2.AFFD) === 0;
    this.#execute = (flags & STAGE2.XNX) === 0 ? EXECUTE : EXECUTE_XNX;
    return WALK.OK;
  }

  #refuse(): number {
    this.#inputLo = -1;
    this.#inputHi = -1;
    return WALK.TRANSLATION;
  }

  /**
   * Walks for one input address.
   * @param need {@link PERM} bits the access needs; 0 asks for the translation and leaves the check to the caller
   * @returns one of {@link WALK}
   */
  walk(ipaLo: number, ipaHi: number, need: number = 0): number {
    if (((ipaHi & this.#inputHi) | (ipaLo & this.#inputLo)) !== 0) {
      this.level = 0;
      return WALK.TRANSLATION;
    }
    return this.#stride === 9 ? this.#walk4K(ipaLo, ipaHi, need) : this.#walkAny(ipaLo, ipaHi, need);
  }

  /** The 4K granule with its indices written out. */
  #walk4K(ipaLo: number, ipaHi: number, need: number): number {
    const memory = this.#memory;
    const words = memory.words;
    const perm = memory.perm;
    const pages = memory.pages;
    const basePage = memory.basePage;
    const outputHi = this.#outputHi;
    const start = this.#startLevel;
    const mask = this.#startMask;
    let lo = this.#tableLo;
    let hi = this.#tableHi;
    let index = 0;
    if (start === 0) {
      index = (ipaHi >>> 7) & mask;
      const slot = lo | (index << 3);
      const at = locate(slot, hi, perm, pages, basePage);
      if (at < 0) return this.#abort(slot, hi, 0);
      const descLo = words[at]!;
      const descHi = words[at + 1]!;
      if ((descLo & 3) !== 3 || (descHi & 0xffff & outputHi) !== 0) return this.#leaf(descLo, descHi, slot, hi, 0, 39, ipaLo, ipaHi, need);
      lo = descLo & ~0xfff;
      hi = descHi & 0xffff;
    }
    if (start <= 1) {
      index = ((ipaHi << 2) | (ipaLo >>> 30)) & (start === 1 ? mask : 511);
      const slot = lo | (index << 3);
      const at = locate(slot, hi, perm, pages, basePage);
      if (at < 0) return this.#abort(slot, hi, 1);
      const descLo = words[at]!;
      const descHi = words[at + 1]!;
      if ((descLo & 3) !== 3 || (descHi & 0xffff & outputHi) !== 0) return this.#leaf(descLo, descHi, slot, hi, 1, 30, ipaLo, ipaHi, need);
      lo = descLo & ~0xfff;
      hi = descHi & 0xffff;
    }
    if (start <= 2) {
      index = ((ipaHi << 11) | (ipaLo >>> 21)) & (start === 2 ? mask : 511);
      const slot = lo | (index << 3);
      const at = locate(slot, hi, perm, pages, basePage);
      if (at < 0) return this.#abort(slot, hi, 2);
      const descLo = words[at]!;
      const descHi = words[at + 1]!;
      if ((descLo & 3) !== 3 || (descHi & 0xffff & outputHi) !== 0) return this.#leaf(descLo, descHi, slot, hi, 2, 21, ipaLo, ipaHi, need);
      lo = descLo & ~0xfff;
      hi = descHi & 0xffff;
    }
    index = ((ipaHi << 20) | (ipaLo >>> 12)) & (start === 3 ? mask : 511);
    const slot = lo | (index << 3);
    const at = locate(slot, hi, perm, pages, basePage);
    if (at < 0) return this.#abort(slot, hi, 3);
    return this.#leaf(words[at]!, words[at + 1]!, slot, hi, 3, 12, ipaLo, ipaHi, need);
  }

  #walkAny(ipaLo: number, ipaHi: number, need: number): number {
    const memory = this.#memory;
    const words = memory.words;
    const stride = this.#stride;
    const outputHi = this.#outputHi;
    const wide = this.#wide;
    let mask = this.#startMask;
    let level = this.#startLevel;
    let shift = this.#startShift;
    let tableLo = this.#tableLo;
    let tableHi = this.#tableHi;
    for (;;) {
      const index = shift >= 32 ? ipaHi >>> (shift - 32) : (ipaLo >>> shift) | (ipaHi << (32 - shift));
      const slot = tableLo | ((index & mask) << 3);
      const at = locate(slot, tableHi, memory.perm, memory.pages, memory.basePage);
      if (at < 0) return this.#abort(slot, tableHi, level);
      const lo = words[at]!;
      const hi = words[at + 1]!;
      const outHi = (hi & 0xffff) | (wide ? (lo & 0xf000) << 4 : 0);
      if ((lo & 3) !== 3 || level === 3 || (outHi & outputHi) !== 0) {
        return this.#leaf(lo, hi, slot, tableHi, level, shift, ipaLo, ipaHi, need);
      }
      tableLo = lo & this.#addressMask;
      tableHi = outHi;
      shift -= stride;
      level++;
      mask = (1 << stride) - 1;
    }
  }

  #abort(slot: number, hi: number, level: number): number {
    this.reads += level - this.#startLevel;
    this.level = level;
    this.descPaLo = slot;
    this.descPaHi = hi;
    return WALK.EXTERNAL_ABORT;
  }

  /** Ends a walk at a descriptor that is not a good pointer to a table. */
  #leaf(
    lo: number,
    hi: number,
    slot: number,
    slotHi: number,
    level: number,
    shift: number,
    ipaLo: number,
    ipaHi: number,
    need: number,
  ): number {
    this.reads += level - this.#startLevel + 1;
    this.level = level;
    this.shift = shift;
    this.descLo = lo;
    this.descHi = hi;
    this.descPaLo = slot;
    this.descPaHi = slotHi;
    let outHi = hi & 0xffff;
    if (this.#wide) outHi |= (lo & 0xf000) << 4;
    if ((lo & 1) === 0 || ((lo & 2) === 0 && (level === 3 || level < this.#blockLevel))) return WALK.TRANSLATION;
    if ((outHi & this.#outputHi) !== 0) return WALK.ADDRESS_SIZE;
    const address = lo & this.#addressMask;
    if (shift < 32) {
      const low = (1 << shift) - 1;
      this.paLo = (address & ~low) | (ipaLo & low);
    } else {
      const low = (1 << (shift - 32)) - 1;
      this.paLo = ipaLo;
      outHi = (outHi & ~low) | (ipaHi & low);
    }
    this.paHi = outHi;
    const perm = RIGHTS[(lo >>> 6) & 3]! | this.#execute[(hi >>> 21) & 3]!;
    this.perm = perm;
    if ((lo & 0x400) === 0 && this.#checkAf) return WALK.ACCESS_FLAG;
    return (need & ~perm) === 0 ? WALK.OK : WALK.PERMISSION;
  }
}
