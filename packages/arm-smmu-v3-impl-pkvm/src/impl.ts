import { alignUp, ERRNO, errnoName, PAGE_SIZE } from "@smmuv3/platform";
import type { ImplOps, SmmuDevice } from "@smmuv3/arm-smmu-v3";
import { probeFeatures, strtabGeometry } from "@smmuv3/arm-smmu-v3-common";
import type { SmmuFeatures } from "@smmuv3/arm-smmu-v3-common";
import { HANDOFF_FLAG, hypercall, writeHandoff } from "@smmuv3/pkvm-abi";
import { CMD_BYTES } from "@smmuv3/smmu-v3-defs";
import { PkvmBackend } from "./backend.ts";

/** log2 of the commands that EL2's queue has at most: 64 KiB are plenty for attaching streams. */
const MAX_CMDQ_LOG2 = 12;

/**
 * Gives memory for the command queue and the stream table to EL2 together with the SMMU.
 * @returns EL2's number of the IOMMU, or a negative errno with the SMMU and the memory still ours
 */
function handOff(smmu: SmmuDevice, features: SmmuFeatures): number {
  const { pages, memory, cpu } = smmu.kernel;
  const cmdqLog2 = Math.min(features.cmdqLog2, MAX_CMDQ_LOG2);
  const strtab = strtabGeometry(features.sidBits, features.strtab2lvl);
  const sizes = [PAGE_SIZE, alignUp(CMD_BYTES << cmdqLog2, PAGE_SIZE), alignUp(strtab.bytes, PAGE_SIZE)];
  const blocks = sizes.map((bytes) => pages.allocZeroed(memory, bytes));
  const [page, cmdqBase, strtabBase] = blocks;
  let status: number = -ERRNO.ENOMEM;
  if (page !== undefined && cmdqBase !== undefined && strtabBase !== undefined && blocks.every((pa) => pa >= 0)) {
    writeHandoff(memory, page, {
      mmioBase: smmu.mmioBase,
      mmioSize: smmu.mmioBytes,
      cmdqBase,
      cmdqLog2,
      strtabBase,
      strtabBytes: sizes[2]!,
      flags: smmu.coherent ? HANDOFF_FLAG.coherent : 0,
    });
    status = hypercall(cpu, "__pkvm_iommu_handoff", page);
  }
  if (status < 0) {
    blocks.forEach((pa, i) => {
      if (pa >= 0) pages.free(pa, sizes[i]!);
    });
  }
  return status;
}

/**
 * pKVM as an implementation of arm-smmu-v3: the SMMU is given to EL2, which programs it on request. The kernel keeps probing,
 * StreamID ownership, interrupts and events; streams are identity mapped (below EL2's stage 2) or blocked. Without an EL2 the
 * driver uses the hardware itself.
 */
export function createPkvmImpl(): ImplOps {
  return {
    name: "pKVM",
    probe(smmu) {
      const features = probeFeatures(smmu.window);
      if ("error" in features) return -ERRNO.ENODEV;
      const id = handOff(smmu, features);
      if (id >= 0) return new PkvmBackend(smmu, id, features.evtqLog2);
      if (id !== -ERRNO.ENOSYS) smmu.log("err", `handing the SMMU to EL2: ${errnoName(id)}`);
      return id;
    },
  };
}
