import { errnoName } from "@smmuv3/platform";
import { hidden, absent, works } from "../feature.ts";
import type { Feature } from "../feature.ts";
import { DEVICES } from "../lab.ts";

/** All RAM is above it. */
const BITS = 30;

export const dmaMaskAll: Feature = {
  id: "dma-mask-all",
  title: "device whose mask is below all RAM",
  arguments: [16],
  probe(lab) {
    const rig = lab.bootWhole({ properties: { [DEVICES[0]]: { "dma-mask-bits": BITS } } });
    if ("verdict" in rig) return rig;
    const pa = rig.page();
    const dma = rig.map(0, pa);
    if (dma < 0) {
      const text = `a ${BITS}-bit device, RAM from 0x${rig.board.firmware.memory.base.toString(16)}: ${errnoName(dma)}, nowhere to bounce`;
      return rig.port.status.translation === "identity" ? hidden(text) : absent(text);
    }
    return rig.reaches(0, dma, pa) ? works(`0x${pa.toString(16)} is reached at 0x${dma.toString(16)}`) : absent("not reached");
  },
};
