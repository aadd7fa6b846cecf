import { hi32, lo32, Memory } from "@smmuv3/platform";

export const BASE = 0x4000_0000;
export const ATTR = {
  table: 3,
  page: 3,
  block: 1,
  af: 0x400,
  nG: 0x800,
  s2: { none: 0, ro: 0x40, wo: 0x80, rw: 0xc0 },
  ap: { privRw: 0, rw: 0x40, privRo: 0x80, ro: 0xc0 },
  normal: 0x3c,
} as const;

/** Bits [63:32] of a descriptor besides its address. */
export const HIGH = { pxn: 0x20_0000, uxn: 0x40_0000, pxnTable: 0x800_0000, uxnTable: 0x1000_0000, apTable0: 0x2000_0000, apTable1: 0x4000_0000 } as const;

export function ram(): Memory {
  return Memory.allocate({ base: BASE, size: 0x40_0000 });
}

/** Writes a descriptor: `address | low`, plus `high` in the upper word. */
export function put(memory: Memory, table: number, index: number, address: number, low: number, high = 0): void {
  const at = memory.index(table + index * 8, true);
  memory.words[at] = lo32(address) | low;
  memory.words[at + 1] = hi32(address) | high;
}

/** VTCR_EL2[18:0]. */
export function vtcr(fields: { t0sz: number; sl0: number; tg?: number; ps?: number }): number {
  return fields.t0sz | (fields.sl0 << 6) | ((fields.tg ?? 0) << 14) | ((fields.ps ?? 4) << 16);
}
