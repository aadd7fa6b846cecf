import { BOOT_DMA_PROPERTY } from "@smmuv3/platform";
import type { FirmwareNode } from "@smmuv3/platform";
import type { Board } from "../../lab/board.ts";
import { absent, works } from "../feature.ts";
import type { Feature } from "../feature.ts";
import { watchStores } from "../lab.ts";

const STREAM = 0x18;
/** Where the display reads, before the end of RAM: the kernel allocates from the other end. */
const OFFSET = 0x1000;

function display({ name }: FirmwareNode): FirmwareNode {
  const iommus = [{ iommu: name, id: STREAM }];
  return { name: "framebuffer", compatible: ["framebuffer"], reg: [], interrupts: {}, iommus, properties: { [BOOT_DMA_PROPERTY]: true } };
}

export const rmr: Feature = {
  id: "rmr",
  title: "boot DMA (RMR) never interrupted",
  arguments: [25],
  probe(lab) {
    let reads = 0;
    let refused = 0;
    const state: { look: () => void } = { look: () => {} };
    const prepare = (board: Board): void => {
      const master = board.machine.dmaMaster("framebuffer", STREAM, board.smmu);
      const address = board.firmware.memory.base + board.firmware.memory.size - OFFSET;
      state.look = () => {
        reads++;
        if (master.probe(address, false) !== 0) refused++;
      };
      state.look();
      watchStores(board, state.look);
    };
    const rig = lab.bootWhole({ nodes: (smmu) => [display(smmu)], prepare, onRegisterWrite: () => { state.look(); } });
    if ("verdict" in rig) return rig;
    state.look();
    if (refused > 0) return absent(`${refused} of ${reads} reads of the display were refused while the system came up`);
    return works(`${reads} reads, one after each store to memory and to a register, from reset to the end of boot: none refused`);
  },
};
