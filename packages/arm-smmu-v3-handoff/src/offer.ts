import { alignUp, PAGE_SIZE } from "@smmuv3/platform";
import type { FirmwareNode } from "@smmuv3/platform";
import { strtabGeometry } from "@smmuv3/arm-smmu-v3-common";
import type { SmmuFeatures } from "@smmuv3/arm-smmu-v3-common";
import type { KernelContext } from "@smmuv3/driver-core";
import { HANDOFF_FLAG, hypercall, writeHandoff } from "@smmuv3/pkvm-abi";
import { CMD_BYTES } from "@smmuv3/smmu-v3-defs";

/** A physical SMMU that EL2 is offered. */
export interface SmmuOffer {
  /** Its register space. */
  readonly reg: FirmwareNode["reg"][number];
  /** As its ID registers say. */
  readonly features: SmmuFeatures;
  /** It snoops caches, says firmware. */
  readonly coherent: boolean;
}

/** log2 of the commands of EL2's queue at most: 64 KiB of them are plenty for attaching streams. */
const CMDQ_MAX_LOG2 = 12;

/**
 * Gives an SMMU to EL2 together with memory for its command queue and stream table, sized by the ID registers; EL2 clears both.
 * @returns EL2's number of it; or a negative errno, -ENOMEM or EL2's, with SMMU and memory still the host's
 */
export function giveToHyp(ctx: KernelContext, offer: SmmuOffer): number {
  const { cpu, memory, pages } = ctx;
  const { reg, features, coherent } = offer;
  const cmdqLog2 = Math.min(features.cmdqLog2, CMDQ_MAX_LOG2);
  const strtab = strtabGeometry(features.sidBits, features.strtab2lvl);
  const sizes = [PAGE_SIZE, CMD_BYTES << cmdqLog2, strtab.bytes].map((bytes) => alignUp(bytes, PAGE_SIZE));
  const blocks = sizes.map((bytes) => pages.alloc(bytes));
  const [page, cmdqBase, strtabBase] = blocks as [number, number, number];
  let status = Math.min(0, ...blocks);
  if (status === 0) {
    writeHandoff(memory, page, {
      mmioBase: reg.base,
      mmioSize: reg.size,
      cmdqBase,
      cmdqLog2,
      strtabBase,
      strtabBytes: sizes[2]!,
      flags: coherent ? HANDOFF_FLAG.coherent : 0,
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
