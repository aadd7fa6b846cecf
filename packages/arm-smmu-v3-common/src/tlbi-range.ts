import { CMD, place } from "@smmuv3/smmu-v3-defs";

/**
 * Receives one invalidation of a plan: bits of words 0, 2 and 3 of the command (NUM and SCALE; Leaf, TTL, TG and address).
 * Opcode, VMID and ASID are the receiver's.
 */
export type TlbiEmit = (w0: number, w2: number, w3: number) => void;

/** Above this many commands of one address each, invalidating the whole address space is cheaper. */
const MAX_SINGLE_OPS = 512;
const MAX_SCALE = 31;
const WORD = 0x1_0000_0000;
/** log2 of the pages that NUM counts at SCALE 0. */
const NUM_LIMIT = 32;

/** Bits of `value` below its highest set one, inclusive; 0 for 0. Integers below 2^53. */
function fls(value: number): number {
  return value < WORD ? 32 - Math.clz32(value) : 64 - Math.clz32(value / WORD);
}

/**
 * One command per `granule` bytes of `[iova, iova + size)`, for an SMMU without range invalidation.
 * @returns false when it takes too many: invalidate everything instead; nothing was emitted
 */
export function planSingle(iova: number, size: number, granule: number, leaf: boolean, emit: TlbiEmit): boolean {
  const ops = size / granule;
  if (ops === 0 || ops > MAX_SINGLE_OPS) return false;
  const leafBit = leaf ? place(CMD.Leaf, 1) : 0;
  const end = iova + size;
  for (let at = iova; at < end; at += granule) {
    emit(0, (at & CMD.Address.loMask) | leafBit, (at / WORD) | 0);
  }
  return true;
}

/**
 * At most two range commands that together cover `[iova, iova + size)` and nothing else, IHI 0070 4.4.1.1.
 * @param pageShift log2 of the translation granule: 12, 14 or 16
 * @param granule bytes of the leaves that went away; gives TTL with `leaf`
 * @returns false when the range is beyond what a command can say; nothing was emitted
 */
export function planRange(
  iova: number, size: number, pageShift: number, granule: number, leaf: boolean, emit: TlbiEmit,
): boolean {
  if (size === 0) return false;
  const page = 2 ** pageShift;
  const first = Math.floor(iova / page);
  const last = Math.floor((iova + size - 1) / page);
  const pages = last - first + 1;
  const scale = fls(Math.floor((pages - 1) / NUM_LIMIT));
  if (scale > MAX_SCALE) return false;
  const ttl = ttlOf(leaf, granule, pageShift);
  const num = Math.floor(pages / 2 ** scale);
  emitRange(first * page, num, scale, ttl, pageShift, leaf, emit);
  const rest = pages - num * 2 ** scale;
  if (rest > 0) {
    // The second command ends where the range ends and may overlap the first one.
    const scale2 = fls(Math.floor((rest - 1) / NUM_LIMIT));
    const num2 = Math.ceil(rest / 2 ** scale2);
    emitRange((last + 1 - num2 * 2 ** scale2) * page, num2, scale2, ttl, pageShift, leaf, emit);
  }
  return true;
}

/**
 * One range command that covers `[iova, iova + size)`, and up to a 32nd more behind it. For an SMMU that leaves an entry of a
 * contiguous run in its TLB unless one command covers the whole run (erratum), where runs are not known: Shared Virtual
 * Addressing. Parameters and result as {@link planRange}.
 */
export function planRangeOver(
  iova: number, size: number, pageShift: number, granule: number, leaf: boolean, emit: TlbiEmit,
): boolean {
  if (size === 0) return false;
  const page = 2 ** pageShift;
  const first = Math.floor(iova / page);
  const pages = Math.floor((iova + size - 1) / page) - first + 1;
  const scale = fls(Math.floor((pages - 1) / NUM_LIMIT));
  if (scale > MAX_SCALE) return false;
  emitRange(first * page, Math.ceil(pages / 2 ** scale), scale, ttlOf(leaf, granule, pageShift), pageShift, leaf, emit);
  return true;
}

/**
 * Any number of range commands, the smallest first, as kernels until 7.1 did: one per run of ones in the binary number of pages,
 * taken five bits at a time. Not a whole number of pages, or an address that TTL does not allow, is the caller's. Parameters and
 * result as {@link planRange}; a plan that touches one page more than asked is one that would be illegal otherwise.
 */
export function planRangeSplit(
  iova: number, size: number, pageShift: number, granule: number, leaf: boolean, emit: TlbiEmit,
): boolean {
  if (size === 0) return false;
  const ttl = ttlOf(leaf, granule, pageShift);
  const common = place(CMD.TG, (pageShift - 10) / 2) | place(CMD.TTL, ttl) | (leaf ? place(CMD.Leaf, 1) : 0);
  let pages = Math.floor(size / 2 ** pageShift);
  // Without TTL a last command of one page would have NUM, SCALE and TTL all zero.
  if (ttl === 0 && pages % NUM_LIMIT === 1) pages++;
  for (let at = iova, scale = 0; pages > 0; ) {
    while (pages % 2 === 0) {
      pages /= 2;
      scale++;
    }
    const num = pages % NUM_LIMIT;
    emit(place(CMD.NUM, num - 1) | place(CMD.SCALE, scale), (at & CMD.Address.loMask) | common, (at / WORD) | 0);
    at += num * 2 ** (scale + pageShift);
    pages -= num;
  }
  return true;
}

/** TTL: the level of leaves of `granule` bytes; 0 where tables went away too. */
function ttlOf(leaf: boolean, granule: number, pageShift: number): number {
  return leaf ? 4 - Math.floor((Math.log2(granule) - 3) / (pageShift - 3)) : 0;
}

function emitRange(
  start: number, num: number, scale: number, ttl: number, pageShift: number, leaf: boolean, emit: TlbiEmit,
): void {
  let level = ttl;
  if (level > 0) {
    // TTL promises an address aligned to that level's leaves; level 1 does not exist with 16K (without DS).
    const leafShift = pageShift + (3 - level) * (pageShift - 3);
    if (start % 2 ** leafShift !== 0 || (pageShift === 14 && level === 1)) level = 0;
  }
  // TG with NUM, SCALE and TTL all zero is illegal: it would say nothing that a single address does not.
  const single = num === 1 && scale === 0 && level === 0;
  const tg = single ? 0 : (pageShift - 10) / 2;
  emit(
    place(CMD.NUM, num - 1) | place(CMD.SCALE, scale),
    (start & CMD.Address.loMask) | place(CMD.TG, tg) | place(CMD.TTL, level) | (leaf ? place(CMD.Leaf, 1) : 0),
    (start / WORD) | 0,
  );
}
