import { hi32, join, lo32, PAGE_SIZE } from "@smmuv3/platform";
import type { Memory } from "@smmuv3/platform";

/**
 * What the kernel tells EL2 about an IOMMU that it gives away: one page, read once. Addresses and byte counts; queue and
 * table memory is donated with it.
 */
export interface IommuHandoff {
  readonly mmioBase: number;
  readonly mmioSize: number;
  /** Command queue memory for the hardware, naturally aligned; log2 of its entries. */
  readonly cmdqBase: number;
  readonly cmdqLog2: number;
  /** Stream table (level 1 or linear), naturally aligned. */
  readonly strtabBase: number;
  readonly strtabBytes: number;
  /** {@link HANDOFF_FLAG}. */
  readonly flags: number;
}

/** `coherent`: table walks and queue accesses of the device are coherent with the CPU. */
export const HANDOFF_FLAG = { coherent: 1 } as const;

/** Fields of the page, in order, 64 bits each. */
export const HANDOFF_FIELDS = [
  "mmioBase",
  "mmioSize",
  "cmdqBase",
  "cmdqLog2",
  "strtabBase",
  "strtabBytes",
  "flags",
] as const satisfies readonly (keyof IommuHandoff)[];

/** Writes the handoff page at `pa` (4K aligned). */
export function writeHandoff(memory: Memory, pa: number, handoff: IommuHandoff): void {
  memory.fill(pa, PAGE_SIZE, 0);
  HANDOFF_FIELDS.forEach((field, index) => {
    memory.store32(pa + index * 8, lo32(handoff[field]));
    memory.store32(pa + index * 8 + 4, hi32(handoff[field]));
  });
}

/** Reads the handoff page at `pa`. */
export function readHandoff(memory: Memory, pa: number): IommuHandoff {
  const at = (field: keyof IommuHandoff): number => {
    const offset = pa + HANDOFF_FIELDS.indexOf(field) * 8;
    return join(memory.load32(offset), memory.load32(offset + 4));
  };
  return {
    mmioBase: at("mmioBase"),
    mmioSize: at("mmioSize"),
    cmdqBase: at("cmdqBase"),
    cmdqLog2: at("cmdqLog2"),
    strtabBase: at("strtabBase"),
    strtabBytes: at("strtabBytes"),
    flags: at("flags"),
  };
}

/**
 * 4K pages that the kernel sets aside for EL2 in a machine of `ramBytes`: page state, host stage-2 tables and, with an IOMMU
 * at EL2, its identity map and second-level stream tables.
 */
export function poolPages(ramBytes: number, iommu: boolean): number {
  const pages = ramBytes / PAGE_SIZE;
  // A last-level table holds 512 entries; the levels above add less than one in 256.
  const tables = Math.ceil(pages / 512) + Math.ceil(pages / (512 * 256)) + 16;
  const pageState = Math.ceil((pages * 4) / PAGE_SIZE);
  const base = pageState + tables + 64;
  // 500: what the kernel reserves for second-level stream tables, device mappings and slack.
  return iommu ? base + tables + 500 : base;
}
