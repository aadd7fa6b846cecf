import { planRange, planSingle, tlbiS12Vmall, tlbiS2Ipa } from "@smmuv3/arm-smmu-v3-common";
import { PAGE_SIZE } from "@smmuv3/platform";

import type { HypSmmu } from "./smmu.ts";

const PAGE_SHIFT = 12;

/** The invalidations of one kind of address space: each puts one command into the SMMU's batch. */
export interface TlbiKind {
  /** One address or one range, as a plan of arm-smmu-v3-common says it in words 0, 2 and 3. */
  range(smmu: HypSmmu, id: number, w0: number, w2: number, w3: number): void;
  all(smmu: HypSmmu, id: number): void;
}

/** Stage 2, by VMID. */
export const TLBI_S2: TlbiKind = {
  range({ batch }, id, w0, w2, w3) {
    tlbiS2Ipa(batch.words, batch.next(), id, w0, w2, w3);
  },
  all({ batch }, id) {
    tlbiS12Vmall(batch.words, batch.next(), id);
  },
};

/**
 * No entry of address space `id` for `[start, start + size)` is left when this returns 0; the caller holds the SMMU's lock.
 * @param granule bytes of the leaves that went away, which `leaf` says is all that did
 */
export function invalidateRange(
  smmu: HypSmmu,
  kind: TlbiKind,
  id: number,
  start: number,
  size: number,
  granule: number,
  leaf: boolean,
): number {
  const emit = (w0: number, w2: number, w3: number): void => {
    kind.range(smmu, id, w0, w2, w3);
  };
  const planned = smmu.features.ril
    ? planRange(start, size, PAGE_SHIFT, granule, leaf, emit)
    : planSingle(start, size, leaf ? granule : PAGE_SIZE, leaf, emit);
  if (!planned) kind.all(smmu, id);
  return smmu.batch.submit();
}
