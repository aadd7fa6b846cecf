import { IOMMU_PROT } from "@smmuv3/io-pgtable-arm-common";
import type { IommuHandoff } from "@smmuv3/pkvm-abi";
import type { AbortAction } from "@smmuv3/platform";

import type { HypCore } from "./core.ts";

/** What the host may do to a range, as bits of `IOMMU_PROT`: the `prot` of {@link HypIommuDriver.hostStage2Idmap}. */
export const HOST_PROT: { readonly none: number; readonly memory: number; readonly device: number } = {
  none: 0,
  memory: IOMMU_PROT.READ | IOMMU_PROT.WRITE | IOMMU_PROT.CACHE,
  device: IOMMU_PROT.READ | IOMMU_PROT.WRITE | IOMMU_PROT.MMIO,
};

/** The operations of an EL2 IOMMU driver. Results are 0 or positive, or a negative errno. */
export interface HypIommuDriver {
  /** Once, at the end of `__pkvm_init`. */
  init(core: HypCore): number;
  /**
   * Takes the IOMMU that `handoff` describes, all of it or nothing. The host is still trusted.
   * @returns the IOMMU's number
   */
  handoff(handoff: IommuHandoff): number;
  /**
   * The host's access to `[start, end)`, page aligned, becomes `prot` of {@link HOST_PROT}. When access is taken away, no DMA of
   * the host reaches the range once this returns 0. After a failure the core asks for the old access again.
   */
  hostStage2Idmap(start: number, end: number, prot: number): number;
  /** `__pkvm_iommu_set_state` */
  setState(iommu: number, sid: number, pasid: number, state: number): number;
  /** `__pkvm_iommu_event_queue` */
  eventQueue(iommu: number, op: number, value: number): number;
  /** The host accessed device space that EL2 owns; undefined: none of this driver's. */
  dataAbort(frame: Int32Array): AbortAction | undefined;
  /** Before the host is deprivileged; an error keeps it privileged. */
  finalize?(): number;
}
