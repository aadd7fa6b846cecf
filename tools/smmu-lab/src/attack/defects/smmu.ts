import { defect, HYPERCALL, PROTECTED } from "./types.ts";
import type { SeededDefect } from "./types.ts";

/** Mistakes in what EL2 does to the SMMU in every design, or in those with hypercalls. */
export const SMMU_DEFECTS: readonly SeededDefect[] = [
  defect(
    PROTECTED, "idmap-without-tlbi", "the identity map changes without TLBI_S2_IPA (I2)",
    "const status = invalidateRange(smmu, TLBI_S2, HOST_VMID, start, size, PAGE_SIZE, true);",
    "const status = 0;",
  ),
  defect(PROTECTED, "registers-not-donated", "the host keeps the SMMU's registers (I7, a18)", "() => core.donateMmio(mmioBase, mmioSize)", "() => 0"),
  defect(PROTECTED, "command-queue-not-donated", "the host keeps the hardware's command queue (I7)", "() => core.donateHostToHyp(pa, size), ", "() => pa === cmdqBase ? 0 : core.donateHostToHyp(pa, size), "),
  defect(PROTECTED, "ats-not-checked", "translated requests pass unchecked: CR0.ATSCHK is 0 (a10)", "(smmu.features.ats ? ", "(false ? "),
  defect(
    PROTECTED, "gbpa-bypass", "while the SMMU is disabled everything passes (I5)",
    "() => smmu.setCr0(runningCr0(smmu)),\n    () => abortWhenDisabled(cpu, window)",
    "() => smmu.setCr0(runningCr0(smmu))",
  ),
  defect(
    HYPERCALL, "blocking-ignored", "a stream that is blocked goes on",
    "if (state === IOMMU_STATE.blocking)\n      status = this.block(smmu, sid);",
    "if (state === IOMMU_STATE.blocking)\n      status = 0;",
  ),
  defect(
    HYPERCALL, "identity-is-bypass", "identity is STE.Config = bypass (I6)",
    "status = this.identity(smmu, sid, smmu.ste);",
    "smmu.ste.fill(0), smmu.ste[0] = 9, smmu.ste[3] = 1 << 12, status = this.identity(smmu, sid, smmu.ste);",
  ),
  defect(HYPERCALL, "sid-unchecked", "an STE is written for a StreamID beyond the table (a5)", "if (!smmu.hasSid(sid) || pasid !== IOMMU_NO_PASID)", "if (pasid !== IOMMU_NO_PASID)"),
  defect(
    HYPERCALL, "ste-without-cfgi", "an STE changes and the SMMU is not told",
    "cfgiSte(this.#one, 0, sid, leaf);\n    return this.issue(this.#one, 1, true);",
    "return 0;",
  ),
  defect(
    HYPERCALL, "events-anywhere", "the event queue may be in memory of others (a8)",
    "const pinned = core.pinShared(pa, bytes);",
    "const pinned = 0;",
  ),
  defect(
    HYPERCALL, "pin-under-smmu-lock", "the host's lock is taken while the SMMU's is held (2.8 [I])",
    "const pinned = core.pinShared(pa, bytes);\n    if (pinned < 0)\n      return pinned;",
    "smmu.lock.lock(this.#cpu);\n    const pinned = core.pinShared(pa, bytes);\n    smmu.lock.unlock(this.#cpu);\n    if (pinned < 0)\n      return pinned;",
  ),
];
