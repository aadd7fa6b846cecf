import type { IoPgtableFormat } from "./format-64.ts";
import { formatOf } from "./format-64.ts";
import { resolveGeometry } from "./geometry.ts";
import type { SharedIoPgtableConfig, SharedPgtableHandle } from "./shared-io-pgtable.ts";
import { SharedIoPgtable } from "./shared-io-pgtable.ts";

/**
 * Builds empty tables that several agents may write at once; `cfg.memory` is then over a SharedArrayBuffer.
 * @throws RangeError naming the field of `cfg` that Linux's allocator would refuse, Errno ENOMEM without a first table
 */
export function allocSharedIoPgtable(fmt: IoPgtableFormat, cfg: SharedIoPgtableConfig): SharedIoPgtable {
  const format = formatOf(fmt);
  return new SharedIoPgtable(format, cfg, resolveGeometry(format, cfg));
}

/**
 * One more agent on the tables of `handle`. Format, sizes, quirks and RAM must be those the tables were built with.
 * @throws RangeError naming the field of `cfg` that Linux's allocator would refuse
 */
export function attachSharedIoPgtable(
  fmt: IoPgtableFormat,
  cfg: SharedIoPgtableConfig,
  handle: SharedPgtableHandle,
): SharedIoPgtable {
  const format = formatOf(fmt);
  return new SharedIoPgtable(format, cfg, resolveGeometry(format, cfg), handle);
}
