import { ERRNO } from "@smmuv3/platform";
import type { Device } from "@smmuv3/driver-core";
import type { IommuDomain } from "./domain.ts";
import { deviceIommu } from "./group.ts";
import { cancelPageRequests } from "./iopf.ts";

/** PASIDs of `dev`, 0 when it has none: 2^`pasid-num-bits` of its node, or what its PCI capability says; no more than its IOMMU has. */
export function pasidLimit(dev: Device): number {
  const bits = dev.node?.properties["pasid-num-bits"] ?? dev.pci?.pasidBits;
  if (typeof bits !== "number" || bits === 0) return 0;
  return Math.min(2 ** bits, deviceIommu(dev)?.instance.maxPasids ?? Infinity);
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

/** `iommu_replace_device_pasid`: see {@link IommuCore.replacePasid}. */
export function replacePasid(dev: Device, pasid: number, domain: IommuDomain): number {
  const state = deviceIommu(dev);
  const old = state?.pasids.get(pasid);
  if (state === undefined || old === undefined) return -ERRNO.ENOENT;
  if (old === domain) return 0;
  const status = domain.ops.setDevPasid?.(domain, dev, pasid, old) ?? -ERRNO.EOPNOTSUPP;
  if (status < 0) return status;
  cancelPageRequests(dev, old);
  state.pasids.set(pasid, domain);
  domain.users++;
  old.users--;
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
  cancelPageRequests(dev, domain);
  state.pasids.delete(pasid);
  domain.users--;
  return 0;
}

/** Detaches every PASID of `dev`. */
export function detachAllPasids(dev: Device): void {
  for (const pasid of [...(deviceIommu(dev)?.pasids.keys() ?? [])]) detachPasid(dev, pasid);
}
