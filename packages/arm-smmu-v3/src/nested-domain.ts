import { ERRNO } from "@smmuv3/platform";
import { checkVste, makeNestedSte, VSTE_WORDS } from "@smmuv3/arm-smmu-v3-common";
import type { Vste } from "@smmuv3/arm-smmu-v3-common";
import { copyUserData, IommuDomain } from "@smmuv3/iommu-core";
import type { UserData, Viommu } from "@smmuv3/iommu-core";
import { STE_CONFIG } from "@smmuv3/smmu-v3-defs";
import type { PagingDomain } from "./domain.ts";
import type { NativeBackend } from "./native.ts";

/** IOMMU_HWPT_DATA_ARM_SMMUV3: the first two quadwords of an STE. */
export const HWPT_DATA_ARM_SMMUV3 = 2;

/** A device of a virtual machine, by the number that it has there. */
export interface Vmaster {
  readonly viommu: Viommu;
  readonly vsid: number;
}

/** A virtual machine's stage 1, or the bypass or abort that it chose, over its stage 2. */
export class NestedDomain extends IommuDomain {
  constructor(viommu: Viommu, backend: NativeBackend, parent: PagingDomain, words: Int32Array, vste: Vste) {
    const s1 = vste.config === STE_CONFIG.s1;
    super({
      type: "nested",
      ops: {
        attachDev: (_, dev) => {
          const vsid = viommu.host.findVirtId(viommu, dev);
          // Without a number of its own, nothing that the guest's tables need can be invalidated.
          if (vsid < 0 && s1) return -ERRNO.ENOENT;
          const vmaster: Vmaster | undefined = vsid < 0 ? undefined : { viommu, vsid };
          return backend.attachNested(dev, {
            parent,
            // The guest's STE says whether its device uses ATS.
            disableAts: s1 && !vste.ats,
            vmaster,
            makeSte: (ste, options) => {
              makeNestedSte(ste, words, parent.stage2, options, parent.s2fwb);
            },
          });
        },
      },
    });
  }
}

/** The nested domain of a virtual STE. -EIO for one that no virtual machine may have; -EOPNOTSUPP for flags. */
export function allocNested(
  viommu: Viommu, backend: NativeBackend, parent: PagingDomain, flags: number, data: UserData,
): NestedDomain | number {
  if (flags !== 0) return -ERRNO.EOPNOTSUPP;
  const words = copyUserData(data, HWPT_DATA_ARM_SMMUV3, VSTE_WORDS);
  if (typeof words === "number") return words;
  const vste = checkVste(words);
  return typeof vste === "number" ? vste : new NestedDomain(viommu, backend, parent, words, vste);
}
