import type { IoPgtableConfig } from "./config.ts";
import type { IoPgtableFormat } from "./format-64.ts";
import { formatOf } from "./format-64.ts";
import { resolveGeometry } from "./geometry.ts";
import { IoPgtable } from "./io-pgtable.ts";

/**
 * `allocIoPgtable` without the fast paths by granule: the same tables from less code, for those who count lines more than
 * nanoseconds.
 * @throws as `allocIoPgtable`
 */
export function allocGenericIoPgtable(fmt: IoPgtableFormat, cfg: IoPgtableConfig): IoPgtable {
  const format = formatOf(fmt);
  return new IoPgtable(format, cfg, resolveGeometry(format, cfg));
}
