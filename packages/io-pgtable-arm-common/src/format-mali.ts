import { DESC, DESC_TYPE } from "./descriptor.ts";
import type { TableFormat } from "./format.ts";
import { attributeIndex, executeNever, stage2Access } from "./format.ts";

/**
 * Mali Midgard's variant: attributes as in stage 1, access as in stage 2, pages of type 1, no access flag, shareability always that of
 * the system. What its registers get tells {@link maliTranstab} and {@link MALI_MEMATTR}.
 */
export const ARM_MALI_LPAE: TableFormat = {
  name: "MALI",
  stage: 1,
  quirks: 0,
  sizes: 0x4020_1000,
  maxIas: 48,
  maxOas: 40,
  pageType: DESC_TYPE.BLOCK,
  fourLevels: true,
  dirty: false,
  attributes: (prot) => attributeIndex(prot) | stage2Access(prot) | DESC.SH_OUTER | executeNever(prot),
};

/** MEMATTR: the meaning of the attribute indices. */
export const MALI_MEMATTR = 0x88_8d88;

const TRANSTAB = { ADRMODE_TABLE: 3, READ_INNER: 4, SHARE_OUTER: 0x10 } as const;

/** TRANSTAB of a table of this format. */
export function maliTranstab(table: { readonly pgd: number; readonly coherentWalk: boolean }): number {
  return table.pgd + TRANSTAB.ADRMODE_TABLE + TRANSTAB.READ_INNER + (table.coherentWalk ? TRANSTAB.SHARE_OUTER : 0);
}
