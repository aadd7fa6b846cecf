import type { IoPgtableConfig } from "./config.ts";
import { IO_PGTABLE_QUIRK } from "./config.ts";
import { DESC_TYPE } from "./descriptor.ts";
import type { TableFormat } from "./format.ts";
import type { IoPgtableFormat } from "./format-64.ts";
import { formatOf } from "./format-64.ts";
import type { Geometry } from "./geometry.ts";
import { resolveGeometry } from "./geometry.ts";
import { IoPgtable } from "./io-pgtable.ts";
import { IoPgtable16k } from "./io-pgtable-16k.ts";
import { IoPgtable4k } from "./io-pgtable-4k.ts";
import { IoPgtable64k } from "./io-pgtable-64k.ts";

/** By log2 of the granule. */
const SPECIALISED: Readonly<Record<number, typeof IoPgtable>> = { 12: IoPgtable4k, 14: IoPgtable16k, 16: IoPgtable64k };

/**
 * What the specialised classes take for granted: pages of type 3, a walker that snoops, IOVAs of the lower half and not below 32 bits, and RAM whose
 * addresses differ in the low word.
 */
function isPlain(format: TableFormat, cfg: IoPgtableConfig, geometry: Geometry): boolean {
  return (
    format.pageType === DESC_TYPE.PAGE &&
    cfg.coherentWalk &&
    ((cfg.quirks ?? 0) & IO_PGTABLE_QUIRK.ARM_TTBR1) === 0 &&
    geometry.ias >= 32 &&
    geometry.startLevel <= 2 &&
    cfg.memory.size <= 2 ** 32
  );
}

/**
 * Builds empty tables.
 * @throws RangeError naming the field of `cfg` that Linux's allocator would refuse, Errno ENOMEM without a first table
 */
export function allocIoPgtable(fmt: IoPgtableFormat, cfg: IoPgtableConfig): IoPgtable {
  const format = formatOf(fmt);
  const geometry = resolveGeometry(format, cfg);
  const Class = isPlain(format, cfg, geometry) ? SPECIALISED[geometry.pageShift]! : IoPgtable;
  return new Class(format, cfg, geometry);
}
