import type { IommuHandoff } from "@smmuv3/pkvm-abi";
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

/** Gives everything that {@link claimIommu} took back. */
export function releaseIommu(core: HypCore, { resources }: HypRiscvIommu): void {
  core.donateHypToHost(resources.ddtBase, PAGE_SIZE);
  core.donateHypToHost(resources.cmdqBase, Math.max(PAGE_SIZE, RV_CMD_BYTES * 2 ** resources.cmdqLog2));
  core.returnMmio(resources.mmioBase, resources.mmioSize);
}

/**
 * Makes an IOMMU EL2's: registers, queue and directory change owner. All or nothing.
 * @returns a negative errno: -ENODEV (none of these, or without Sv48x4), -EINVAL, or as a donation
 */
export function claimIommu(core: HypCore, handoff: IommuHandoff, index: number): HypRiscvIommu | number {
  const { mmioBase, mmioSize, cmdqBase, cmdqLog2, strtabBase, strtabBytes } = handoff;
  const known = riscvNodes(core).some(({ reg }) => reg[0]?.base === mmioBase && reg[0].size === mmioSize);
  if (!known) return -ERRNO.ENODEV;
  const bytes = cmdqBytes(handoff);
  const shapes = cmdqLog2 >= CMDQ_MIN_LOG2 && cmdqLog2 <= CMDQ_MAX_LOG2 && cmdqBase % bytes === 0;
  if (mmioSize < RV_REGISTER_SPACE || !shapes || strtabBytes !== PAGE_SIZE) return -ERRNO.EINVAL;
  const undo: (() => void)[] = [];
  const take = (status: number, back: () => void): boolean => {
    if (status === 0) undo.push(back);
    return status === 0;
  };
  let status = core.donateMmio(mmioBase, mmioSize);
  if (take(status, () => core.returnMmio(mmioBase, mmioSize))) {
    status = core.donateHostToHyp(cmdqBase, bytes);
    if (take(status, () => core.donateHypToHost(cmdqBase, bytes))) {
      status = core.donateHostToHyp(strtabBase, PAGE_SIZE);
      if (take(status, () => core.donateHypToHost(strtabBase, PAGE_SIZE))) status = 0;
    }
  }
  const window = core.cpu.ioremap(mmioBase, mmioSize);
  // Read after the host has lost the registers.
  if (status === 0 && (window.read32(RV_REG.capabilities) & RV_CAP.sv48x4) === 0) status = -ERRNO.ENODEV;
  if (status === 0 && (window.read32(RV_REG.fctl) & (RV_FCTL.be | RV_FCTL.gxl)) !== 0) status = -ERRNO.ENODEV;
  if (status < 0) {
    for (let i = undo.length - 1; i >= 0; i--) undo[i]!();
    return status;
  }
  core.cpu.memory.fill(strtabBase, PAGE_SIZE, 0);
  core.cpu.memory.fill(cmdqBase, bytes, 0);
  return new HypRiscvIommu(core, index, window, { mmioBase, mmioSize, cmdqBase, cmdqLog2, ddtBase: strtabBase });
}
