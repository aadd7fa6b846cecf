import { ERRNO } from "@smmuv3/platform";
import type { HypercallName } from "@smmuv3/pkvm-abi";
import { absent, notApplicable, works } from "../feature.ts";
import type { Feature } from "../feature.ts";
import { refuseCall } from "../lab.ts";
import type { ProbeOptions } from "../lab.ts";

const refusing = (name: HypercallName): ProbeOptions => ({ prepare: (board) => { refuseCall(board, name, ERRNO.EINVAL); } });

/** What goes wrong, in the order of boot. */
export const FAILURES: readonly (readonly [what: string, options: ProbeOptions])[] = [
  ["there is no EL2", { withoutHyp: true }],
  ["EL2 does not start", refusing("__pkvm_init")],
  ["EL2 refuses the SMMU", refusing("__pkvm_iommu_handoff")],
  ["the host cannot be deprivileged", refusing("__pkvm_prot_finalize")],
];

export const liveness: Feature = {
  id: "liveness",
  title: "works when EL2 fails to start",
  arguments: [8],
  probe(lab) {
    if (!lab.hyp) return notApplicable("no hypervisor");
    for (const [what, options] of FAILURES) {
      const rig = lab.boot(options);
      const { protectedMode } = rig.port.status;
      const handsOver = lab.protects || !what.includes("SMMU");
      if (protectedMode && handsOver) return absent(`${what}: the kernel believes itself protected`);
      if (rig.trouble !== "") return absent(`${what}: ${rig.trouble}`);
      if (!rig.dmaWorks(0) || !rig.dmaWorks(1)) return absent(`${what}: DMA does not work`);
    }
    return works(`${FAILURES.length} failures, one at a time: devices work, unprotected, and the kernel knows`);
  },
};
