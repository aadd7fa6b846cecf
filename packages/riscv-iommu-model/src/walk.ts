import { PAGE_SIZE } from "@smmuv3/platform";
import type { Memory } from "@smmuv3/platform";
import { RV_ATP_MODE, RV_PTE, RV_PTE_RESERVED_HI, rvPpnAddress } from "@smmuv3/riscv-iommu-defs";

/** How a walk ended. */
export const WALK_RESULT = { ok: 0, pageFault: 1, guestPageFault: 2, accessFault: 3 } as const;
export type WalkResult = (typeof WALK_RESULT)[keyof typeof WALK_RESULT];

/** What an access needs of a leaf: its R, W or X bit. */
export const NEED = { read: 2, write: 4, execute: 8 } as const;

/** The translation of a device context, decoded. */
export interface Regime {
  /** `iosatp.MODE` and root. */
  readonly firstMode: number;
  readonly firstRoot: number;
  /** `iohgatp.MODE` and root. */
  readonly secondMode: number;
  readonly secondRoot: number;
}

const VPN_BITS = 9;
const ENTRIES = 512;
/** Svnapot: 64 KiB, PPN[3:0] = 1000. */
const NAPOT_HI = 0x8000_0000 | 0;
const NAPOT_PAGES = 16;
const NAPOT_PPN = 8;

function levelsOf(mode: number): number {
  return mode === RV_ATP_MODE.sv39 ? 3 : 4;
}

/** Address bits of the first stage `mode`; 0 when it is Bare. */
export function firstStageBits(mode: number): number {
  return mode === RV_ATP_MODE.bare ? 0 : 12 + levelsOf(mode) * VPN_BITS;
}

/**
 * The input address `hi:lo` as a number: the bits that the first stage translates, or all of them where it is Bare. -1: a
 * first-stage address whose upper bits do not repeat the top one, or one that is too large for any second stage.
 */
export function inputAddress(firstMode: number, lo: number, hi: number): number {
  const bits = firstStageBits(firstMode);
  if (bits === 0) return hi >>> 21 === 0 ? (hi >>> 0) * 2 ** 32 + (lo >>> 0) : -1;
  const top = hi >> (bits - 33);
  if (top !== 0 && top !== -1) return -1;
  return ((hi & (2 ** (bits - 32) - 1)) >>> 0) * 2 ** 32 + (lo >>> 0);
}

/**
 * Two-stage walk of Sv39 / Sv48 and Sv39x4 / Sv48x4 tables ("Two-Stage Address Translation" of the privileged specification).
 * Devices have user privilege: leaves need U. A and D are not updated by hardware: a leaf without them faults.
 */
export class RvWalker {
  /** Output address. */
  pa = 0;
  /** Permissions that every stage grants, bits of RV_PTE r, w, x. */
  rights = 0;
  /** Guest-physical address: of the output, or the one that faulted. */
  gpa = 0;
  /** The second stage refused an access to a first-stage table. */
  implicit = false;
  /** Bytes and start of the first-stage and second-stage leaf; 0 where the stage is Bare. */
  firstSize = 0;
  firstStart = 0;
  secondSize = 0;
  secondStart = 0;
  /** Table entries read since construction. */
  reads = 0;
  readonly #memory: Memory;
  /** Leaf of the last stage that was walked. */
  #leafPa = 0;
  #leafSize = 0;
  #leafRights = 0;

  constructor(memory: Memory) {
    this.#memory = memory;
  }

  /** Translates `iova`, as {@link inputAddress} gives it; `need` is one of {@link NEED}. */
  walk(regime: Regime, iova: number, need: number): WalkResult {
    this.implicit = false;
    this.firstSize = this.secondSize = 0;
    let gpa = iova;
    let rights = RV_PTE.r | RV_PTE.w | RV_PTE.x;
    if (regime.firstMode !== RV_ATP_MODE.bare) {
      const status = this.#first(regime, iova, need);
      if (status !== WALK_RESULT.ok) return status;
      gpa = this.#leafPa;
      rights = this.#leafRights;
      this.firstSize = this.#leafSize;
      this.firstStart = iova - (iova % this.#leafSize);
    }
    this.implicit = false;
    const status = this.#second(regime, gpa, need);
    if (status !== WALK_RESULT.ok) return status;
    this.gpa = gpa;
    this.pa = this.#leafPa;
    this.rights = rights & this.#leafRights;
    this.secondSize = this.#leafSize;
    this.secondStart = this.#leafSize === 0 ? 0 : gpa - (gpa % this.#leafSize);
    return WALK_RESULT.ok;
  }

  #first(regime: Regime, iova: number, need: number): WalkResult {
    return this.#tables(regime.firstRoot, levelsOf(regime.firstMode), iova, need, regime);
  }

  #second(regime: Regime, gpa: number, need: number): WalkResult {
    if (regime.secondMode === RV_ATP_MODE.bare) {
      this.#leafPa = gpa;
      this.#leafSize = 0;
      this.#leafRights = RV_PTE.r | RV_PTE.w | RV_PTE.x;
      return WALK_RESULT.ok;
    }
    this.gpa = gpa;
    const levels = levelsOf(regime.secondMode);
    // The root is four times as large: two more bits.
    if (gpa >= 2 ** (14 + levels * VPN_BITS)) return WALK_RESULT.guestPageFault;
    const status = this.#tables(regime.secondRoot, levels, gpa, need, undefined);
    return status === WALK_RESULT.pageFault ? WALK_RESULT.guestPageFault : status;
  }

  /** Walks the tables of one stage; `outer`: table addresses of the first stage go through the second. */
  #tables(root: number, levels: number, address: number, need: number, outer: Regime | undefined): WalkResult {
    let table = root;
    for (let level = levels - 1; level >= 0; level--) {
      const size = PAGE_SIZE * ENTRIES ** level;
      const index = Math.floor(address / size) % (level === levels - 1 && outer === undefined ? ENTRIES * 4 : ENTRIES);
      let at = table + index * 8;
      if (outer !== undefined) {
        const status = this.#second(outer, at, NEED.read);
        if (status !== WALK_RESULT.ok) {
          this.implicit = true;
          return status;
        }
        at = this.#leafPa;
      }
      const { words } = this.#memory;
      if (this.#memory.pageIndex(at) < 0) return WALK_RESULT.accessFault;
      const word = (at - this.#memory.base) / 4;
      this.reads++;
      const lo = words[word]!;
      const hi = words[word + 1]!;
      if ((lo & RV_PTE.v) === 0 || (lo & (RV_PTE.r | RV_PTE.w)) === RV_PTE.w) return WALK_RESULT.pageFault;
      const napot = (hi & NAPOT_HI) !== 0;
      if ((hi & RV_PTE_RESERVED_HI & ~NAPOT_HI) !== 0) return WALK_RESULT.pageFault;
      if ((lo & (RV_PTE.r | RV_PTE.x)) !== 0) return this.#leaf(lo, hi, size, napot, address, need);
      // A, D and U of a table entry are reserved.
      if (napot || (lo & (RV_PTE.a | RV_PTE.d | RV_PTE.u)) !== 0) return WALK_RESULT.pageFault;
      table = rvPpnAddress(lo, hi);
    }
    return WALK_RESULT.pageFault;
  }

  #leaf(lo: number, hi: number, size: number, napot: boolean, address: number, need: number): WalkResult {
    const dirty = need !== NEED.write || (lo & RV_PTE.d) !== 0;
    if ((lo & RV_PTE.u) === 0 || (lo & need) === 0 || (lo & RV_PTE.a) === 0 || !dirty) return WALK_RESULT.pageFault;
    let base = rvPpnAddress(lo, hi);
    let bytes = size;
    if (napot) {
      const pages = base / PAGE_SIZE;
      if (size !== PAGE_SIZE || pages % NAPOT_PAGES !== NAPOT_PPN) return WALK_RESULT.pageFault;
      base -= NAPOT_PPN * PAGE_SIZE;
      bytes = NAPOT_PAGES * PAGE_SIZE;
    }
    if (base % bytes !== 0) return WALK_RESULT.pageFault;
    // Without D a write has to come back for it.
    const rights = (lo & RV_PTE.d) === 0 ? lo & ~RV_PTE.w : lo;
    this.#leafRights = rights & (RV_PTE.r | RV_PTE.w | RV_PTE.x);
    this.#leafPa = base + (address % bytes);
    this.#leafSize = bytes;
    return WALK_RESULT.ok;
  }
}
