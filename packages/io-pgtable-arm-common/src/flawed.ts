import { join } from "@smmuv3/platform";
import type { IoPgtableConfig, IotlbGather } from "./config.ts";
import type { TableFormat } from "./format.ts";
import type { IoPgtableFormat } from "./format-64.ts";
import { formatOf } from "./format-64.ts";
import type { Geometry } from "./geometry.ts";
import { resolveGeometry } from "./geometry.ts";
import { IoPgtable } from "./io-pgtable.ts";
import type { DirtyVisitor } from "./visit.ts";

/** Behaviour of Linux that the tables do not copy, by name: see {@link allocFlawedIoPgtable}. */
export const IO_PGTABLE_FLAW = {
  /** A look-up ignores IOVA bits above `ias`: it finds what is mapped at the bits below. */
  LOOKUP_ALIAS: 1,
  /** Of a run only the first PA is compared with `oas`. */
  FIRST_PA_ONLY: 2,
  /** Nobody is told of leaves that were made clean, whatever gather is given: writes through a stale TLB entry go unseen. */
  DIRTY_NO_FLUSH: 4,
} as const;

class FlawedIoPgtable extends IoPgtable {
  readonly #flaws: number;

  constructor(format: TableFormat, cfg: IoPgtableConfig, geometry: Geometry, flaws: number) {
    super(format, cfg, geometry);
    this.#flaws = flaws;
  }

  override iovaToPhysPair(iovaLo: number, iovaHi: number): boolean {
    if ((this.#flaws & IO_PGTABLE_FLAW.LOOKUP_ALIAS) === 0) return super.iovaToPhysPair(iovaLo, iovaHi);
    const { rangeLo, rangeHi, sign } = this;
    return super.iovaToPhysPair((iovaLo & ~rangeLo) | (sign & rangeLo), (iovaHi & ~rangeHi) | (sign & rangeHi));
  }

  override readAndClearDirty(
    iova: number,
    size: number,
    noClear: boolean,
    visit: DirtyVisitor,
    gather: IotlbGather | null = null,
  ): number {
    const told = (this.#flaws & IO_PGTABLE_FLAW.DIRTY_NO_FLUSH) === 0 ? gather : null;
    return super.readAndClearDirty(iova, size, noClear, visit, told);
  }

  protected override outputOutside(paLo: number, paHi: number, bytes: number): boolean {
    if ((this.#flaws & IO_PGTABLE_FLAW.FIRST_PA_ONLY) === 0) return super.outputOutside(paLo, paHi, bytes);
    return join(paLo, paHi) >= this.outputEnd;
  }
}

/**
 * Builds tables with flaws of Linux, to show what they do; never for use.
 * @param flaws bits of {@link IO_PGTABLE_FLAW}
 * @throws as `allocIoPgtable`
 */
export function allocFlawedIoPgtable(fmt: IoPgtableFormat, cfg: IoPgtableConfig, flaws: number): IoPgtable {
  const format = formatOf(fmt);
  return new FlawedIoPgtable(format, cfg, resolveGeometry(format, cfg), flaws);
}
