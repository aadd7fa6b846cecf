import type { Memory } from "@smmuv3/platform";
import {
  RV_ATP_MODE, RV_CAUSE, RV_DC, RV_DC_BYTES, RV_DC_WORDS, RV_DDI_BITS, RV_DDTE_V, RV_DDTP_MODE, RV_ROOT_BYTES, RV_TC, rvAtpId,
  rvAtpMode, rvAtpRoot, rvPpnAddress,
} from "@smmuv3/riscv-iommu-defs";
import type { Regime } from "./walk.ts";

/** A device context as the IOMMU holds it. */
export interface DeviceContext extends Regime {
  /** Faults other than those of the device context itself are not reported. */
  readonly dtf: boolean;
  /** GSCID; -1 when the second stage is Bare. */
  readonly gscid: number;
  /** PSCID; -1 when the first stage is Bare. */
  readonly pscid: number;
}

/** `ddtp`, decoded. */
export interface DirectoryPointer {
  readonly mode: number;
  readonly root: number;
}

/** Bits of a non-leaf entry that must be 0: [9:1] and [63:54]. */
const DDTE_RESERVED_LO = 0x3fe;
const DDTE_RESERVED_HI = 0xffc0_0000 | 0;
/** Modes of this IOMMU. */
const MODES: ReadonlySet<number> = new Set(Object.values(RV_ATP_MODE));

/** Levels of the directory, 0 where there is none. */
export function directoryLevels(mode: number): number {
  return mode >= RV_DDTP_MODE.level1 ? mode - RV_DDTP_MODE.level1 + 1 : 0;
}

/** True when `did` fits a directory of `levels`. */
export function didFits(did: number, levels: number): boolean {
  const bits = RV_DDI_BITS.slice(0, levels).reduce((sum, width) => sum + width, 0);
  return did < 2 ** bits;
}

/** "Process to locate the Device-context": the context of `did`, or the CAUSE of the fault. `did` fits the directory. */
export function locateContext(memory: Memory, { mode, root }: DirectoryPointer, did: number): DeviceContext | number {
  let table = root;
  for (let level = directoryLevels(mode) - 1; level > 0; level--) {
    const shift = RV_DDI_BITS.slice(0, level).reduce((sum, width) => sum + width, 0);
    const at = table + ((did >>> shift) & (2 ** RV_DDI_BITS[level]! - 1)) * 8;
    if (memory.pageIndex(at) < 0) return RV_CAUSE.ddtAccessFault;
    const lo = memory.load32(at);
    const hi = memory.load32(at + 4);
    if ((lo & RV_DDTE_V) === 0) return RV_CAUSE.ddtNotValid;
    if ((lo & DDTE_RESERVED_LO) !== 0 || (hi & DDTE_RESERVED_HI) !== 0) return RV_CAUSE.ddtMisconfigured;
    table = rvPpnAddress(lo, hi);
  }
  const at = table + (did % 2 ** RV_DDI_BITS[0]!) * RV_DC_BYTES;
  if (memory.pageIndex(at) < 0) return RV_CAUSE.ddtAccessFault;
  const dc = new Int32Array(RV_DC_WORDS);
  memory.read(at, dc);
  return decodeContext(dc);
}

/**
 * "Device-context configuration checks" for an IOMMU without ATS, MSI_FLAT, AMO_HWAD, process directories and a second
 * endianness: of `tc` only V and DTF may be set.
 */
function decodeContext(dc: Int32Array): DeviceContext | number {
  const tc = dc[RV_DC.tc]!;
  if ((tc & RV_TC.v) === 0) return RV_CAUSE.ddtNotValid;
  const [iohgatpLo, iohgatpHi] = [dc[RV_DC.iohgatp]!, dc[RV_DC.iohgatp + 1]!];
  const [fscLo, fscHi] = [dc[RV_DC.fsc]!, dc[RV_DC.fsc + 1]!];
  const [taLo, taHi] = [dc[RV_DC.ta]!, dc[RV_DC.ta + 1]!];
  const secondMode = rvAtpMode(iohgatpHi);
  const firstMode = rvAtpMode(fscHi);
  const secondRoot = rvAtpRoot(iohgatpLo, iohgatpHi);
  const wrong =
    (tc & ~(RV_TC.v | RV_TC.dtf)) !== 0 ||
    dc[RV_DC.tc + 1] !== 0 ||
    !MODES.has(secondMode) ||
    !MODES.has(firstMode) ||
    (secondMode !== RV_ATP_MODE.bare && secondRoot % RV_ROOT_BYTES !== 0) ||
    // iosatp has no identifier: bits [59:44] are reserved. ta holds PSCID at [31:12]; RCID and MCID need QOSID.
    rvAtpId(fscHi) !== 0 ||
    (taLo & 0xfff) !== 0 ||
    taHi !== 0;
  if (wrong) return RV_CAUSE.ddtMisconfigured;
  return {
    dtf: (tc & RV_TC.dtf) !== 0,
    gscid: secondMode === RV_ATP_MODE.bare ? -1 : rvAtpId(iohgatpHi),
    pscid: firstMode === RV_ATP_MODE.bare ? -1 : taLo >>> 12,
    firstMode,
    firstRoot: rvAtpRoot(fscLo, fscHi),
    secondMode,
    secondRoot,
  };
}
