import { ERRNO } from "@smmuv3/platform";
import type { Device } from "@smmuv3/driver-core";
import type { IommuDomain } from "./domain.ts";
import { deviceIommu } from "./group.ts";

/** PASIDs of `dev`: 2^`pasid-num-bits` of its node, 0 when it has none. */
function pasidLimit(dev: Device): number {
  const bits = dev.node?.properties["pasid-num-bits"];
  return typeof bits === "number" ? 2 ** bits : 0;
}

/** `iommu_attach_device_pasid`: see {@link IommuCore.attachPasid}. */
export function attachPasid(dev: Device, pasid: number, domain: IommuDomain): number {
  const state = deviceIommu(dev);
  if (state === undefined) return -ERRNO.ENODEV;
  if (domain.ops.setDevPasid === undefined) return -ERRNO.EOPNOTSUPP;
  if (!(pasid > 0 && pasid < pasidLimit(dev))) return -ERRNO.EINVAL;
  if (state.pasids.has(pasid)) return -ERRNO.EBUSY;
  const status = domain.ops.setDevPasid(domain, dev, pasid, undefined);
  if (status < 0) return status;
  state.pasids.set(pasid, domain);
  domain.users++;
  return 0;
}

/** `iommu_detach_device_pasid`: see {@link IommuCore.detachPasid}. */
export function detachPasid(dev: Device, pasid: number): number {
  const state = deviceIommu(dev);
  const domain = state?.pasids.get(pasid);
  if (state === undefined || domain === undefined) return -ERRNO.ENOENT;
  const blocked = state.instance.ops.blockedDomain;
  const status = blocked.ops.setDevPasid?.(blocked, dev, pasid, domain) ?? -ERRNO.EOPNOTSUPP;
  if (status < 0) return status;
  state.pasids.delete(pasid);
  domain.users--;
  return 0;
}

/** Detaches every PASID of `dev`. */
export function detachAllPasids(dev: Device): void {
  for (const pasid of [...(deviceIommu(dev)?.pasids.keys() ?? [])]) detachPasid(dev, pasid);
}
