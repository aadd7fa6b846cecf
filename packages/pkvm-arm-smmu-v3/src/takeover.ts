import { probeFeatures, strtabGeometry } from "@smmuv3/arm-smmu-v3-common";
import type { SmmuFeatures } from "@smmuv3/arm-smmu-v3-common";
import { HANDOFF_FLAG } from "@smmuv3/pkvm-abi";
import type { IommuHandoff } from "@smmuv3/pkvm-abi";
import { Donations } from "@smmuv3/pkvm-hyp";
import type { HypCore } from "@smmuv3/pkvm-hyp";
import { alignUp, ERRNO, PAGE_SIZE } from "@smmuv3/platform";
import type { FirmwareNode } from "@smmuv3/platform";
import { CMD_BYTES } from "@smmuv3/smmu-v3-defs";

import { HypSmmu } from "./smmu.ts";

/** What a design needs of the hardware. */
export interface SmmuNeeds {
  /** Stage 1 on top of stage 2, with coherent walks: EL2 does not clean the host's tables. */
  readonly nested: boolean;
}

/** A queue holds a batch of 64 commands and its SYNC, and at most what CMDQ_BASE can say. */
const CMDQ_MIN_LOG2 = 7;
const CMDQ_MAX_LOG2 = 19;

/** SMMUs that firmware describes. */
export function smmuNodes(core: HypCore): FirmwareNode[] {
  return core.firmware.nodes.filter((node) => node.compatible.includes("arm,smmu-v3"));
}

/** The SMMU whose registers are at `base`, as firmware describes it. */
export function smmuNode(core: HypCore, base: number): FirmwareNode | undefined {
  return smmuNodes(core).find(({ reg }) => reg[0]?.base === base);
}

/** Bytes of the command queue, as whole pages. */
function cmdqBytes(handoff: IommuHandoff): number {
  return alignUp(CMD_BYTES * 2 ** handoff.cmdqLog2, PAGE_SIZE);
}

/** The window is one that firmware describes, the queue and the table can be what they are said to be. */
function validate(core: HypCore, handoff: IommuHandoff): number {
  const { mmioBase, mmioSize, cmdqBase, cmdqLog2, strtabBase, strtabBytes } = handoff;
  if (smmuNode(core, mmioBase)?.reg[0]?.size !== mmioSize) return -ERRNO.ENODEV;
  if (cmdqLog2 < CMDQ_MIN_LOG2 || cmdqLog2 > CMDQ_MAX_LOG2 || cmdqBase % cmdqBytes(handoff) !== 0) return -ERRNO.EINVAL;
  if (strtabBytes <= 0 || strtabBytes % PAGE_SIZE !== 0 || strtabBase % PAGE_SIZE !== 0) return -ERRNO.EINVAL;
  return 0;
}

/** -ENODEV: hardware on which this design cannot protect. */
function suitable(core: HypCore, features: SmmuFeatures, coherent: boolean, needs: SmmuNeeds): number {
  if (!features.s2 || features.oas < core.addressBits || features.pgsizeBitmap % (2 * PAGE_SIZE) === 0) {
    return -ERRNO.ENODEV;
  }
  return needs.nested && !(features.nesting && coherent) ? -ERRNO.ENODEV : 0;
}

/** An SMMU that EL2 owns and has not started yet. */
export interface ClaimedSmmu {
  readonly smmu: HypSmmu;
  /** Gives everything back. */
  release(): void;
}

/**
 * Makes an SMMU EL2's: registers, queue and table memory change owner, the ID registers are read after the host has lost them.
 * @param index EL2's number of it
 * @returns a negative errno with nothing changed: -ENODEV (unknown or unsuitable), -EINVAL, or as a donation
 */
export function claimSmmu(
  core: HypCore,
  handoff: IommuHandoff,
  needs: SmmuNeeds,
  index: number = 0,
): ClaimedSmmu | number {
  const valid = validate(core, handoff);
  if (valid < 0) return valid;
  const { mmioBase, mmioSize, cmdqBase, cmdqLog2, strtabBase, strtabBytes } = handoff;
  const donations = new Donations();
  let status = donations.add(
    0,
    () => core.donateMmio(mmioBase, mmioSize),
    () => core.returnMmio(mmioBase, mmioSize),
  );
  const memory: readonly (readonly [pa: number, size: number])[] = [
    [cmdqBase, cmdqBytes(handoff)],
    [strtabBase, strtabBytes],
  ];
  for (const [pa, size] of memory) {
    status = donations.add(
      status,
      () => core.donateHostToHyp(pa, size),
      () => core.donateHypToHost(pa, size),
    );
  }
  const smmu = status < 0 ? status : build(core, handoff, needs, index);
  if (typeof smmu === "number") {
    donations.undo();
    return smmu;
  }
  smmu.initTable();
  core.cpu.memory.fill(cmdqBase, CMD_BYTES * 2 ** cmdqLog2, 0);
  return {
    smmu,
    release: () => {
      donations.undo();
    },
  };
}

function build(core: HypCore, handoff: IommuHandoff, needs: SmmuNeeds, index: number): HypSmmu | number {
  const { mmioBase, mmioSize, cmdqBase, cmdqLog2, strtabBase, strtabBytes, flags } = handoff;
  const window = core.cpu.ioremap(mmioBase, mmioSize);
  const features = probeFeatures(window);
  if ("error" in features) return features.error;
  const coherent = features.coherent && flags % 2 === HANDOFF_FLAG.coherent;
  const status = suitable(core, features, coherent, needs);
  if (status < 0) return status;
  const geometry = strtabGeometry(features.sidBits, features.strtab2lvl);
  const fits = geometry.bytes <= strtabBytes && strtabBase % geometry.bytes === 0 && cmdqLog2 <= features.cmdqLog2;
  if (!fits) return -ERRNO.EINVAL;
  return new HypSmmu(core, index, window, features, {
    mmioBase,
    mmioSize,
    cmdqBase,
    cmdqLog2,
    strtabBase,
    geometry,
    coherent,
  });
}
