/** Hypercalls of a guest, x0 as int32 (SMCCC vendor-specific hypervisor service). Numbers are those of Linux where it has one. */
export const GUEST_CALL = {
  /** x1 = ipa: the host may use the page as well. */
  memShare: 0xc600_0003 | 0,
  /** x1 = ipa: undoes it. */
  memUnshare: 0xc600_0004 | 0,
  /** x1 = {@link PVIOMMU_OP}, x2.. its arguments; x1 comes back with the amount done. */
  pviommuOp: 0xc600_003e | 0,
  /** x1 = pviommu, x2 = vsid; x1, x2 come back with the address of the IOMMU and the StreamID behind it, as firmware has them. */
  devReqDma: 0xc600_003f | 0,
} as const;

/**
 * x1 of {@link GUEST_CALL}.pviommuOp, and its arguments from x2 on; every other register up to x6 is zero.
 *
 * - `attachDev`, `detachDev`: pviommu, vsid, pasid, domain, pasid_bits
 * - `allocDomain`: none; returns the id
 * - `freeDomain`: domain
 * - `mapPages`: domain, iova, ipa, size, prot (ABI_PROT)
 * - `unmapPages`: domain, iova, size
 *
 * Only 4K pages: what is contiguous for the guest is not elsewhere. Fewer bytes mapped than asked for: the host has been asked for
 * what lacked, and the guest repeats the rest after its next exit.
 */
export const PVIOMMU_OP = {
  attachDev: 0,
  detachDev: 1,
  allocDomain: 2,
  freeDomain: 3,
  mapPages: 4,
  unmapPages: 5,
} as const;

/** x0 of a guest's hypercall that EL2 refused. */
export const SMCCC_INVALID_PARAMETER = -3;
