import { ERRNO } from "@smmuv3/platform";

import { WHEN } from "./calls.ts";
import type { Context, HypModule } from "./calls.ts";

function switchPower({ iommus }: Context, device: number, on: number): number {
  const iommu = iommus?.at(device);
  if (iommu === undefined) return -ERRNO.ENODEV;
  if (on > 1) return -ERRNO.EINVAL;
  const { driver, local } = iommu;
  return (on === 1 ? driver.resume?.(local) : driver.suspend?.(local)) ?? -ERRNO.EOPNOTSUPP;
}

/** Power domains that the host switches: EL2's driver closes the IOMMU before, and restores it after. */
export const power: HypModule = {
  calls: { __pkvm_host_hvc_pd: { ...WHEN.always, run: switchPower } },
};
