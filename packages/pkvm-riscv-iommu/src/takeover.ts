import type { IommuHandoff } from "@smmuv3/pkvm-abi";
import { Donations } from "@smmuv3/pkvm-hyp";
import type { HypCore } from "@smmuv3/pkvm-hyp";
import { ERRNO, PAGE_SIZE } from "@smmuv3/platform";
import type { FirmwareNode } from "@smmuv3/platform";
import { RV_CAP, RV_CMD_BYTES, RV_FCTL, RV_REG, RV_REGISTER_SPACE } from "@smmuv3/riscv-iommu-defs";

import { CMDQ_MIN_LOG2, HypRiscvIommu } from "./hyp-iommu.ts";

/** `cqb` says at most 2^32 entries; this is what fits a block of EL2's. */
const CMDQ_MAX_LOG2 = 16;

/** RISC-V IOMMUs that firmware describes. */
export function riscvNodes(core: HypCore): FirmwareNode[] {
  return core.firmware.nodes.filter((node) => node.compatible.includes("riscv,iommu"));
}

/** Bytes of the command queue, as whole pages. */
function cmdqBytes({ cmdqLog2 }: IommuHandoff): number {
  return Math.max(PAGE_SIZE, RV_CMD_BYTES * 2 ** cmdqLog2);
}

/** An IOMMU that EL2 owns and has not started yet. */
export interface ClaimedIommu {
  readonly iommu: HypRiscvIommu;
  /** Gives everything back. */
  release(): void;
}

/**
 * Makes an IOMMU EL2's: registers, queue and directory change owner. All or nothing.
 * @returns a negative errno: -ENODEV (none of these, or without Sv48x4), -EINVAL, or as a donation
 */
export function claimIommu(core: HypCore, handoff: IommuHandoff, index: number): ClaimedIommu | number {
  const { mmioBase, mmioSize, cmdqBase, cmdqLog2, strtabBase, strtabBytes } = handoff;
  const known = riscvNodes(core).some(({ reg }) => reg[0]?.base === mmioBase && reg[0].size === mmioSize);
  if (!known) return -ERRNO.ENODEV;
  const bytes = cmdqBytes(handoff);
  const shapes = cmdqLog2 >= CMDQ_MIN_LOG2 && cmdqLog2 <= CMDQ_MAX_LOG2 && cmdqBase % bytes === 0;
  if (mmioSize < RV_REGISTER_SPACE || !shapes || strtabBytes !== PAGE_SIZE) return -ERRNO.EINVAL;
  const donations = new Donations();
  let status = donations.add(
    0,
    () => core.donateMmio(mmioBase, mmioSize),
    () => core.returnMmio(mmioBase, mmioSize),
  );
  for (const [pa, size] of [[cmdqBase, bytes], [strtabBase, PAGE_SIZE]] as const) {
    status = donations.add(
      status,
      () => core.donateHostToHyp(pa, size),
      () => core.donateHypToHost(pa, size),
    );
  }
  const window = core.cpu.ioremap(mmioBase, mmioSize);
  // Read after the host has lost the registers.
  if (status === 0 && (window.read32(RV_REG.capabilities) & RV_CAP.sv48x4) === 0) status = -ERRNO.ENODEV;
  if (status === 0 && (window.read32(RV_REG.fctl) & (RV_FCTL.be | RV_FCTL.gxl)) !== 0) status = -ERRNO.ENODEV;
  if (status < 0) {
    donations.undo();
    return status;
  }
  core.cpu.memory.fill(strtabBase, PAGE_SIZE, 0);
  core.cpu.memory.fill(cmdqBase, bytes, 0);
  return {
    iommu: new HypRiscvIommu(core, index, window, { mmioBase, mmioSize, cmdqBase, cmdqLog2, ddtBase: strtabBase }),
    release: () => { donations.undo(); },
  };
}
