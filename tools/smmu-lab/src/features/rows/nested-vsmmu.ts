import { maskOf, OFFSET, REG } from "@smmuv3/smmu-v3-defs";
import { isHostAbort } from "@smmuv3/machine";
import { SMMU_BASE } from "../../lab/board.ts";
import { absent, hidden } from "../feature.ts";
import type { Feature } from "../feature.ts";
import type { Rig } from "../lab.ts";

/** IDR0 as the kernel reads it, undefined where EL2 refuses the access. */
function kernelIdr0(rig: Rig): number | undefined {
  try {
    return rig.board.machine.host.ioremap(SMMU_BASE, 0x1000).read32(OFFSET.IDR0);
  } catch (error) {
    if (isHostAbort(error)) return undefined;
    throw error;
  }
}

export const nestedVsmmu: Feature = {
  id: "nested-vsmmu",
  title: "nested translation for VMs (vSMMU)",
  arguments: [14],
  probe(lab) {
    const rig = lab.bootWhole();
    if ("verdict" in rig) return rig;
    const ops = rig.kernel.instances.flatMap((instance) => instance.ops).filter((name) => /viommu|nest/i.test(name));
    const idr0 = kernelIdr0(rig);
    if (idr0 === undefined) return hidden("EL2 refuses the kernel every access to the SMMU's registers");
    const stage2 = maskOf(REG.IDR0.S2P);
    if ((rig.hardwareIdr0 & stage2) !== 0 && (idr0 & stage2) === 0) return hidden("IDR0.S2P is 1 on the hardware and 0 where the kernel reads it");
    const found = ops.length === 0 ? "no operation of its driver nests a VM's" : `its driver offers ${ops.join(", ")}; no VM of this probe uses them`;
    return absent(`the kernel sees both stages; ${found}`);
  },
};
