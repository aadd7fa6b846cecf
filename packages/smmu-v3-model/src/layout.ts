import { ECMDQ_CONTROL_PAGE, PAGE_BYTES, REGISTER_SPACE } from "@smmuv3/smmu-v3-defs";
import type { Features } from "./presets.ts";

/** Where the optional pages are, as offsets from page 0 (IHI 0070 6.1). */
export interface RegisterLayout {
  /** Offset of the VATOS page, -1 without one. */
  readonly vatos: number;
  /** Offsets of the command queue control pages. */
  readonly ecmdqPages: readonly number[];
  /** Queues of a control page, and the bytes from one to the next. */
  readonly ecmdqsPerPage: number;
  readonly ecmdqStride: number;
  /** Bytes of the whole window. */
  readonly size: number;
}

/** The VATOS page is where IDR2 says; control pages follow what comes before them, one after the other. */
export function layoutRegisters(features: Features): RegisterLayout {
  const vatos = features.vatos ? REGISTER_SPACE + features.vatosPage * PAGE_BYTES : -1;
  const first = features.vatos ? vatos + PAGE_BYTES : REGISTER_SPACE;
  const count = features.ecmdq ? Math.min(2 ** features.ecmdqLog2Pages, ECMDQ_CONTROL_PAGE.count) : 0;
  const ecmdqsPerPage = features.ecmdq ? Math.min(2 ** features.ecmdqLog2Queues, ECMDQ_CONTROL_PAGE.count) : 0;
  return {
    vatos,
    ecmdqPages: Array.from({ length: count }, (_, page) => first + page * PAGE_BYTES),
    ecmdqsPerPage,
    ecmdqStride: ecmdqsPerPage === 0 ? 0 : PAGE_BYTES / ecmdqsPerPage,
    size: first + count * PAGE_BYTES,
  };
}
