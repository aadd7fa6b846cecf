// Stage-2 tables and stream tables as they lie in memory, read by code that shares nothing with those who wrote them.
import type { Memory } from "@smmuv3/platform";
import { PAGE_SIZE } from "@smmuv3/platform";
import { L1STD_BYTES, REG, STE_BYTES, extract } from "@smmuv3/smmu-v3-defs";

/** Called with each leaf: output address, bytes, S2AP. */
export type LeafVisitor = (pa: number, size: number, rights: number) => void;

const START_LEVEL: readonly number[] = [2, 1, 0];
const ADDRESS_LO = 0xffff_f000 | 0;
const ADDRESS_HI = 0xffff;

function address(lo: number, hi: number): number {
  return (hi & ADDRESS_HI) * 0x1_0000_0000 + ((lo & ADDRESS_LO) >>> 0);
}

/**
 * Visits the leaves of tables with a 4K granule and a first level of `inputBits` that starts at `root`.
 * @param visitTable called with the address of each page of tables
 * @returns false where the tables leave RAM
 */
export function forEachTableLeaf(
  memory: Memory, root: number, inputBits: number, start: number, visit: LeafVisitor, visitTable: (pa: number) => void,
): boolean {
  const { words } = memory;
  const walk = (table: number, level: number, entries: number): boolean => {
    for (let at = table; at < table + entries * 8; at += PAGE_SIZE) {
      if (memory.pageIndex(at) < 0) return false;
      visitTable(at);
    }
    const base = (table - memory.base) / 4;
    for (let i = 0; i < entries; i++) {
      const lo = words[base + i * 2]!;
      if ((lo & 1) === 0) continue;
      const pa = address(lo, words[base + i * 2 + 1]!);
      if (level < 3 && (lo & 2) !== 0) {
        if (!walk(pa, level + 1, 512)) return false;
      } else {
        const size = PAGE_SIZE * 512 ** (3 - level);
        visit(pa - (pa % size), size, (lo >>> 6) & 3);
      }
    }
    return true;
  };
  const indexBits = inputBits - 12 - 9 * (3 - start);
  const bytes = Math.max(64, 2 ** indexBits * 8);
  return start >= 0 && indexBits > 0 && indexBits <= 13 && walk(root - (root % bytes), start, 2 ** indexBits);
}

/**
 * {@link forEachTableLeaf} of stage 2, concatenated tables included.
 * @param vtcr VTCR_EL2 bits [18:0], which STE word 5 has as well
 */
export function forEachStage2Leaf(memory: Memory, ttb: number, vtcr: number, visit: LeafVisitor, visitTable: (pa: number) => void): boolean {
  const start = START_LEVEL[(vtcr >>> 6) & 3];
  if (start === undefined || ((vtcr >>> 14) & 3) !== 0) return false;
  return forEachTableLeaf(memory, ttb, 64 - (vtcr & 63), start, visit, visitTable);
}

/** Where the hardware finds its stream table, from STRTAB_BASE and STRTAB_BASE_CFG. */
export interface StreamTable {
  readonly base: number;
  readonly twoLevel: boolean;
  readonly split: number;
  readonly log2size: number;
}

export function streamTable(baseLo: number, baseHi: number, cfg: number): StreamTable {
  const { FMT, SPLIT, LOG2SIZE } = REG.STRTAB_BASE_CFG;
  const base = (baseHi & 0xf_ffff) * 0x1_0000_0000 + ((baseLo & ~63) >>> 0);
  return { base, twoLevel: extract(cfg, FMT) === 1, split: extract(cfg, SPLIT), log2size: extract(cfg, LOG2SIZE) };
}

/** Called with the StreamID and the address of its STE. */
export type SteVisitor = (sid: number, pa: number) => void;

/** Visits each STE that the hardware can reach; `visitTable` gets each piece of the table: address, bytes. */
export function forEachSte(memory: Memory, table: StreamTable, visit: SteVisitor, visitTable: (pa: number, size: number) => void): boolean {
  const { base, twoLevel, split, log2size } = table;
  const run = (first: number, pa: number, count: number): boolean => {
    if (memory.pageIndex(pa) < 0 || memory.pageIndex(pa + count * STE_BYTES - 1) < 0) return false;
    visitTable(pa, count * STE_BYTES);
    for (let i = 0; i < count; i++) visit(first + i, pa + i * STE_BYTES);
    return true;
  };
  if (!twoLevel) return run(0, base, 2 ** log2size);
  const entries = 2 ** Math.max(log2size - split, 0);
  if (memory.pageIndex(base) < 0 || memory.pageIndex(base + entries * L1STD_BYTES - 1) < 0) return false;
  visitTable(base, entries * L1STD_BYTES);
  const { words } = memory;
  for (let i = 0; i < entries; i++) {
    const at = (base - memory.base) / 4 + i * 2;
    const span = words[at]! & 31;
    if (span === 0 || span > split + 1) continue;
    const bytes = STE_BYTES * 2 ** (span - 1);
    const pointer = (words[at + 1]! & 0xf_ffff) * 0x1_0000_0000 + ((words[at]! & ~63) >>> 0);
    if (!run(i * 2 ** split, pointer - (pointer % bytes), 2 ** (span - 1))) return false;
  }
  return true;
}

/** Address of the STE of `sid`, -1 where there is none. */
export function steAddress(memory: Memory, table: StreamTable, sid: number): number {
  const { base, twoLevel, split, log2size } = table;
  if (sid >= 2 ** log2size) return -1;
  if (!twoLevel) return base + sid * STE_BYTES;
  const l1 = base + Math.floor(sid / 2 ** split) * L1STD_BYTES;
  if (memory.pageIndex(l1) < 0) return -1;
  const at = (l1 - memory.base) / 4;
  const span = memory.words[at]! & 31;
  if (span === 0 || sid % 2 ** split >= 2 ** (span - 1)) return -1;
  const bytes = STE_BYTES * 2 ** (span - 1);
  const pointer = (memory.words[at + 1]! & 0xf_ffff) * 0x1_0000_0000 + ((memory.words[at]! & ~63) >>> 0);
  const pa = pointer - (pointer % bytes) + (sid % 2 ** split) * STE_BYTES;
  return memory.pageIndex(pa) < 0 ? -1 : pa;
}
