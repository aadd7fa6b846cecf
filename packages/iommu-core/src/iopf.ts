import { ERRNO } from "@smmuv3/platform";
import type { Device } from "@smmuv3/driver-core";
import type { IommuDomain } from "./domain.ts";
import { deviceIommu } from "./group.ts";

/** Rights of a page request. */
export const FAULT_PERM = { read: 1, write: 2, exec: 4, priv: 8 } as const;

/** A transaction that waits for a page (`struct iommu_fault_page_request`). */
export interface PageRequest {
  readonly pasid?: number;
  /** Names the transaction to the driver: the answer carries it. */
  readonly grpid: number;
  readonly addr: number;
  /** Bits of {@link FAULT_PERM}. */
  readonly perm: number;
  readonly sid?: number;
}

/** `success`: try again. `invalid`, `failure`: the page does not exist; something went wrong. */
export type PageResponse = "success" | "invalid" | "failure";

/**
 * Serves a page request of a domain: answers it now or later by `group.respond`. A negative errno is answered as `failure`.
 */
export type IopfHandler = (group: IopfGroup) => number;

/** A page request that waits for its answer. */
export class IopfGroup {
  readonly dev: Device;
  readonly domain: IommuDomain;
  readonly request: PageRequest;
  #pending = true;

  constructor(dev: Device, domain: IommuDomain, request: PageRequest) {
    this.dev = dev;
    this.domain = domain;
    this.request = request;
    deviceIommu(dev)?.iopf.add(this);
  }

  /** Answers; a second answer is ignored. */
  respond(response: PageResponse): void {
    if (!this.#pending) return;
    this.#pending = false;
    const state = deviceIommu(this.dev);
    state?.iopf.delete(this);
    state?.instance.ops.pageResponse?.(this.dev, this.request, response);
  }
}

/**
 * The domain whose handler serves a request: of its PASID, else of the device. Where a guest owns the PASIDs (nested), its domain
 * serves them all.
 */
function servingDomain(dev: Device, pasid: number | undefined): IommuDomain | undefined {
  const state = deviceIommu(dev);
  const rid = state?.group?.domain;
  if (pasid === undefined || pasid === 0) return rid;
  return state?.pasids.get(pasid) ?? (rid?.type === "nested" ? rid : undefined);
}

/**
 * `iommu_report_device_fault` of a page request. 0: somebody serves it, or has refused it. -EINVAL: nobody does, and the
 * transaction was ended with `invalid`. -ENODEV: the device has no IOMMU that could be answered.
 */
export function reportPageRequest(dev: Device, request: PageRequest): number {
  const state = deviceIommu(dev);
  if (state?.instance.ops.pageResponse === undefined) return -ERRNO.ENODEV;
  const domain = servingDomain(dev, request.pasid);
  const handler = domain?.iopfHandler;
  if (domain === undefined || handler === undefined) {
    state.instance.ops.pageResponse(dev, request, "invalid");
    return -ERRNO.EINVAL;
  }
  const group = new IopfGroup(dev, domain, request);
  if (handler(group) < 0) group.respond("failure");
  return 0;
}

/** Ends what waits for answers: of `domain`, or all of `dev`. The transactions fail. */
export function cancelPageRequests(dev: Device, domain?: IommuDomain): void {
  for (const group of [...(deviceIommu(dev)?.iopf ?? [])]) {
    if (domain === undefined || group.domain === domain) group.respond("invalid");
  }
}
