import type { IoPgtableConfig } from "./config.ts";
import { IO_PGTABLE_QUIRK } from "./config.ts";
import type { TableFormat } from "./format.ts";

/** Shape of the tables of one format, ranges and sizes resolved. */
export interface Geometry {
  /** Page and block sizes in use. */
  readonly pgsizeBitmap: number;
  readonly ias: number;
  readonly oas: number;
  /** log2 of the granule. */
  readonly pageShift: number;
  /** Index bits of every level but the first. */
  readonly bitsPerLevel: number;
  readonly startLevel: number;
  /** Index bits of the first level; more than `bitsPerLevel` when tables are concatenated. */
  readonly pgdBits: number;
  /** Bytes of the first table. */
  readonly pgdBytes: number;
  /** Bytes allocated for it. */
  readonly rootBytes: number;
}

/** Address bits below the index of `level` (0 to 3). */
export function levelShift(geometry: Geometry, level: number): number {
  return (4 - level) * geometry.bitsPerLevel + 3;
}

/** Sizes that a granule offers; no 64G with 16K, no 512G with 4K, no contiguous runs. */
const SIZES: readonly { readonly granule: number; readonly sizes: readonly number[]; readonly bits: number }[] = [
  { granule: 0x1000, sizes: [0x1000, 0x20_0000, 0x4000_0000], bits: 48 },
  { granule: 0x4000, sizes: [0x4000, 0x200_0000], bits: 48 },
  { granule: 0x1_0000, sizes: [0x1_0000, 0x2000_0000], bits: 52 },
];
const SIZE_4T = 2 ** 42;

/** Stage 2 must not start where these do: (granule shift, start level, ias or 0, oas or 0); 0 matches any. */
const CONCATENATED: readonly (readonly [pageShift: number, start: number, ias: number, oas: number])[] = [
  [14, 0, 0, 48],
  [14, 0, 48, 0],
  [12, 0, 0, 40],
  [12, 0, 0, 42],
  [14, 1, 0, 40],
];
/** No table is smaller, whatever its number of entries. */
const MIN_TABLE_BYTES = 64;
/** An architecture limit: at most 16 tables side by side. */
const MAX_CONCATENATED = 16;

const hasSize = (bitmap: number, size: number): boolean => Math.floor(bitmap / size) % 2 === 1;

/** Sizes in `bitmap`, ascending. */
function sizesOf(bitmap: number): number[] {
  const sizes: number[] = [];
  for (let size = 1; size <= bitmap; size *= 2) if (hasSize(bitmap, size)) sizes.push(size);
  return sizes;
}

function chooseGranule(sizes: readonly number[], pageSize: number): number {
  if (sizes.includes(pageSize)) return pageSize;
  return sizes.findLast((size) => size < pageSize) ?? sizes[0] ?? 0;
}

function requireInteger(name: string, value: number): void {
  if (!Number.isSafeInteger(value) || value < 0) {
    throw new RangeError(`allocIoPgtable: ${name} must be a non-negative integer, got ${value}`);
  }
}

function requireAtMost(name: string, value: number, limit: number, format: TableFormat): void {
  if (value > limit) throw new RangeError(`allocIoPgtable: ${name} must be at most ${limit} for ${format.name}, got ${value}`);
}

/** Resolves a configuration. Throws RangeError naming the field where Linux's allocator gives NULL. */
export function resolveGeometry(format: TableFormat, cfg: IoPgtableConfig): Geometry {
  const quirks = cfg.quirks ?? 0;
  requireInteger("pgsizeBitmap", cfg.pgsizeBitmap);
  requireInteger("ias", cfg.ias);
  requireInteger("oas", cfg.oas);
  if ((quirks & ~format.quirks) !== 0) {
    throw new RangeError(
      `allocIoPgtable: quirks must be within 0x${format.quirks.toString(16)} for ${format.name}, got 0x${quirks.toString(16)}`,
    );
  }
  requireAtMost("ias", cfg.ias, format.maxIas, format);
  requireAtMost("oas", cfg.oas, format.maxOas, format);
  if ((quirks & IO_PGTABLE_QUIRK.ARM_OUTER_WBWA) !== 0 && cfg.coherentWalk) {
    throw new RangeError("allocIoPgtable: quirks must not have ARM_OUTER_WBWA when coherentWalk is true");
  }

  const supported = sizesOf(cfg.pgsizeBitmap).filter((size) => hasSize(format.sizes, size));
  const granule = chooseGranule(supported, cfg.pageSize ?? 0x1000);
  const offered = SIZES.find((row) => row.granule === granule);
  if (offered === undefined) {
    throw new RangeError(
      `allocIoPgtable: pgsizeBitmap must have 4K, 16K or 64K as its granule, got 0x${cfg.pgsizeBitmap.toString(16)}`,
    );
  }
  const ias = Math.min(cfg.ias, offered.bits);
  const oas = Math.min(cfg.oas, offered.bits);
  if (!format.fourLevels && PHYSICAL_SIZE[oas] === undefined) {
    throw new RangeError(
      `allocIoPgtable: oas must be one of ${Object.keys(PHYSICAL_SIZE).join(", ")} (at most ${offered.bits}), got ${oas}`,
    );
  }
  const pageShift = Math.log2(granule);
  if (ias <= pageShift) throw new RangeError(`allocIoPgtable: ias must be above ${pageShift}, got ${ias}`);
  const sizes = granule === 0x1_0000 && cfg.oas > 48 ? [...offered.sizes, SIZE_4T] : offered.sizes;
  const pgsizeBitmap = sizes.filter((size) => supported.includes(size)).reduce((sum, size) => sum + size, 0);

  const bitsPerLevel = pageShift - 3;
  const levels = Math.ceil((ias - pageShift) / bitsPerLevel);
  let startLevel = 4 - levels;
  let pgdBits = ias - pageShift - bitsPerLevel * (levels - 1);
  if (format.fourLevels && startLevel > 0) {
    startLevel = 0;
    pgdBits = 0;
  }
  if (
    format.stage === 2 &&
    CONCATENATED.some(
      ([shift, start, i, o]) =>
        shift === pageShift && start === startLevel && (i === 0 || i === ias) && (o === 0 || o === oas),
    )
  ) {
    if (2 ** pgdBits > MAX_CONCATENATED) {
      throw new RangeError(
        `allocIoPgtable: ias must need at most ${MAX_CONCATENATED} concatenated tables, got ${ias} (${2 ** pgdBits})`,
      );
    }
    pgdBits += bitsPerLevel;
    startLevel++;
  }
  const pgdBytes = 8 * 2 ** pgdBits;
  const rootBytes = format.fourLevels ? granule : Math.max(pgdBytes, MIN_TABLE_BYTES);
  return { pgsizeBitmap, ias, oas, pageShift, bitsPerLevel, startLevel, pgdBits, pgdBytes, rootBytes };
}

/** TCR / VTCR encodings of an output size. */
const PHYSICAL_SIZE: Readonly<Record<number, number>> = { 32: 0, 36: 1, 40: 2, 42: 3, 44: 4, 48: 5, 52: 6 };
const TG0: Readonly<Record<number, number>> = { 12: 0, 14: 2, 16: 1 };
const TG1: Readonly<Record<number, number>> = { 12: 2, 14: 1, 16: 3 };

/** Fields of TCR that describe a stage-1 table. */
export interface Tcr {
  readonly ips: number;
  readonly tg: number;
  readonly sh: number;
  readonly orgn: number;
  readonly irgn: number;
  readonly tsz: number;
}

/** Fields of VTCR that describe a stage-2 table. */
export interface Vtcr {
  readonly ps: number;
  readonly tg: number;
  readonly sh: number;
  readonly orgn: number;
  readonly irgn: number;
  readonly sl: number;
  readonly tsz: number;
}

/** How the walker accesses tables: inner shareable write-back, or outer shareable non-cacheable. */
const walkAttributes = (coherent: boolean): { sh: number; orgn: number; irgn: number } =>
  coherent ? { sh: 3, orgn: 1, irgn: 1 } : { sh: 2, orgn: 0, irgn: 0 };

export function tcrOf(geometry: Geometry, coherentWalk: boolean, quirks: number): Tcr {
  const attributes = walkAttributes(coherentWalk);
  const tg = (quirks & IO_PGTABLE_QUIRK.ARM_TTBR1) !== 0 ? TG1 : TG0;
  return {
    ips: PHYSICAL_SIZE[geometry.oas]!,
    tg: tg[geometry.pageShift]!,
    ...attributes,
    orgn: (quirks & IO_PGTABLE_QUIRK.ARM_OUTER_WBWA) !== 0 ? 1 : attributes.orgn,
    tsz: 64 - geometry.ias,
  };
}

export function vtcrOf(geometry: Geometry, coherentWalk: boolean): Vtcr {
  const start = geometry.startLevel + (geometry.pageShift === 12 ? 1 : 0);
  return {
    ps: PHYSICAL_SIZE[geometry.oas]!,
    tg: TG0[geometry.pageShift]!,
    ...walkAttributes(coherentWalk),
    sl: ~start & 3,
    tsz: 64 - geometry.ias,
  };
}
