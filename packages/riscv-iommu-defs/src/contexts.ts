import { hi32, lo32, PAGE_SIZE } from "@smmuv3/platform";

/**
 * A base-format device context: `tc`, `iohgatp`, `ta`, `fsc`, 64 bits each, as eight 32-bit words. The extended format needs
 * `capabilities.MSI_FLAT`.
 */
export const RV_DC_WORDS = 8;
export const RV_DC_BYTES = 32;
/** First word of each field. */
export const RV_DC = { tc: 0, iohgatp: 2, ta: 4, fsc: 6 } as const;

/** `DC.tc` bits. */
export const RV_TC = { v: 1, dtf: 0x10, pdtv: 0x20 } as const;

/** `iohgatp.MODE` and `iosatp.MODE`, bits [63:60] of the field. */
export const RV_ATP_MODE = { bare: 0, sv39: 8, sv48: 9 } as const;
const MODE_SHIFT = 28;

/** Bits of `device_id` that DDI[0], DDI[1] and DDI[2] have in the base format. */
export const RV_DDI_BITS: readonly number[] = [7, 9, 8];

/** Bytes of a second-stage root table, also its alignment; other tables are pages. */
export const RV_ROOT_BYTES = 16384;

/** Valid bit of a non-leaf device-directory entry, whose PPN is at bits [53:10]. */
export const RV_DDTE_V = 1;

/** Low and high word of a 64-bit value that holds the page number of `pa` at bits [53:10]: `ddtp`, `cqb`, `fqb`, a DDT entry, a PTE. */
export function rvPpnField(pa: number): readonly [lo: number, hi: number] {
  const field = (pa / PAGE_SIZE) * 1024;
  return [lo32(field), hi32(field)];
}

/** Address whose page number is at bits [53:10] of `hi:lo`. */
export function rvPpnAddress(lo: number, hi: number): number {
  return (((hi & 0x003f_ffff) >>> 0) * 2 ** 22 + (lo >>> 10)) * PAGE_SIZE;
}

/** Writes `iohgatp` or `iosatp` into `dc` at word `at`: MODE, the 16 bits of GSCID above the PPN (0 in iosatp), the root. */
export function rvSetAtp(dc: Int32Array, at: number, mode: number, id: number, root: number): void {
  const ppn = root / PAGE_SIZE;
  dc[at] = lo32(ppn);
  dc[at + 1] = hi32(ppn) | (id << 12) | (mode << MODE_SHIFT);
}

/** MODE of the address-translation pointer whose high word is `hi`. */
export function rvAtpMode(hi: number): number {
  return hi >>> MODE_SHIFT;
}

/** GSCID of the `iohgatp` whose high word is `hi`. */
export function rvAtpId(hi: number): number {
  return (hi >>> 12) & 0xffff;
}

/** Root table of the address-translation pointer `hi:lo`. */
export function rvAtpRoot(lo: number, hi: number): number {
  return ((hi & 0xfff) * 2 ** 32 + (lo >>> 0)) * PAGE_SIZE;
}

/** Page-table entries: low-word bits. The PPN is at bits [53:10], reserved bits at [60:54], Svnapot N at 63, Svpbmt at [62:61]. */
export const RV_PTE = { v: 1, r: 2, w: 4, x: 8, u: 16, g: 32, a: 64, d: 128 } as const;
/** High-word bits that must be 0 without Svpbmt and Svnapot. */
export const RV_PTE_RESERVED_HI: number = 0xffc0_0000 | 0;
