import { contextHash, KIND, LAYOUT } from "./tlb-layout.ts";
import type { Tlb, TlbRange } from "./tlb.ts";

// Of this module, for the compiler to see them as constants.
const { ENTRY, SET, SET_SHIFT, MIX, KIND_SHIFT, GLOBAL, PAGE_SIZE_4K } = LAYOUT;
/** Entries that can be looked at one after the other in the time that it takes to look one up. */
const SCAN_PER_PROBE = 2;
const PAGES_HI = 0x1_0000_0000;

/**
 * Drops the entries of `tlb.range`; global ones whatever their ASID. Table descriptors stay. Each block of the range is looked up in
 * each size that entries have, or each entry is looked at, whichever is less.
 */
export function dropRange(tlb: Tlb): void {
  const { range } = tlb;
  const { kind, pages } = range;
  // A tagged address and the VA that its entry is kept under agree after extension from bit 55.
  const hi = kind === KIND.IPA ? range.addressHi : (range.addressHi << 8) >> 8;
  const vpnLo = (range.addressLo >>> 12) | (hi << 20);
  const vpnHi = hi >>> 12;
  const probes = (pages + tlb.sizeCount) * (tlb.hasGlobals ? 2 : 1);
  if (range.asid < 0 || !tlb.dropsPages(kind) || probes * SCAN_PER_PROBE > tlb.data.length / ENTRY) {
    scanRange(tlb, range, vpnHi * PAGES_HI + (vpnLo >>> 0));
    return;
  }
  // Up to where word 0 of a key ends, and what is beyond.
  const before = Math.min(pages, PAGES_HI - (vpnLo >>> 0));
  probeSizes(tlb, range, vpnLo, vpnHi, before);
  if (pages > before && vpnHi < 0xf_ffff) probeSizes(tlb, range, 0, vpnHi + 1, pages - before);
}

function probeSizes(tlb: Tlb, { kind, vmid, asid, level }: TlbRange, vpnLo: number, vpnHi: number, pages: number): void {
  const tag = asid | (vmid << 16);
  const global = vmid << 16;
  const key = vpnHi | (kind << KIND_SHIFT);
  for (let i = -1; i < tlb.sizeCount; i++) {
    const size = i < 0 ? PAGE_SIZE_4K : tlb.sizeAt(i);
    const mask = i < 0 ? -1 : tlb.maskAt(i);
    probeRange(tlb, vpnLo, pages, tag, key | size, mask, level);
    if (tlb.hasGlobals) probeRange(tlb, vpnLo, pages, global, key | GLOBAL | size, mask, level);
  }
}

/** Looks up each block of one size that has one of the pages. */
function probeRange(tlb: Tlb, vpnLo: number, pages: number, tag: number, key: number, mask: number, level: number): void {
  const { data, setShift } = tlb;
  const hash = contextHash(tag, (key >>> KIND_SHIFT) & 3);
  const step = -mask;
  const first = vpnLo & mask;
  const span = (vpnLo - first) + pages;
  for (let offset = 0; offset < span; offset += step) {
    const vpn = (first + offset) | 0;
    const set = (Math.imul(vpn ^ hash, MIX) >>> setShift) << SET_SHIFT;
    if (data[set] === vpn || data[set + ENTRY] === vpn || data[set + 2 * ENTRY] === vpn || data[set + 3 * ENTRY] === vpn) {
      dropFound(data, set, vpn, tag, key, level);
    }
  }
}

function dropFound(data: Int32Array, set: number, vpn: number, tag: number, key: number, level: number): void {
  for (let at = set; at < set + SET; at += ENTRY) {
    if (data[at] !== vpn || data[at + 2] !== key || data[at + 1] !== tag) continue;
    if (level === 0 || ((data[at + 5]! >>> 20) & 7) === level) data[at + 3] = 0;
  }
}

function scanRange(tlb: Tlb, { kind, vmid, asid, pages, level }: TlbRange, first: number): void {
  const { data } = tlb;
  const global = vmid << 16;
  const tag = global | Math.max(asid, 0);
  // Bits of the tag that decide: without an ASID, the VMID.
  const tags = asid < 0 ? ~0xffff : -1;
  const length = data.length;
  for (let at = 0; at < length; at += ENTRY) {
    if (data[at + 3] === 0) continue;
    const other = data[at + 1]!;
    const key = data[at + 2]!;
    if (((key >>> KIND_SHIFT) & 3) !== kind || ((other ^ tag) & tags) !== 0 && (other !== global || (key & GLOBAL) === 0)) continue;
    if (level !== 0 && ((data[at + 5]! >>> 20) & 7) !== level) continue;
    // The whole leaf counts, also where stage 2 cut the entry down.
    const leafPages = 2 ** ((data[at + 6]! & 63) - 12);
    const page = (key & 0xf_ffff) * PAGES_HI + (data[at]! >>> 0);
    const start = page - (page % leafPages);
    if (start < first + pages && start + leafPages > first) data[at + 3] = 0;
  }
}
