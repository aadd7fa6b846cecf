import { absent, works } from "../feature.ts";
import type { Feature } from "../feature.ts";

export const blockedOnRelease: Feature = {
  id: "blocked-on-release",
  title: "blocked when a device is released",
  arguments: [25],
  probe(lab) {
    const rig = lab.bootWhole();
    if ("verdict" in rig) return rig;
    const pa = rig.page();
    const dma = rig.map(0, pa);
    if (!rig.reaches(0, dma, pa)) return absent("not reached before");
    rig.kernel.unplug(0);
    if (!rig.refused(0, dma) || !rig.refused(0, pa)) return absent("an unplugged device still reaches memory");
    if (!rig.dmaWorks(1)) return absent("the other device lost its DMA");
    return works("reached before; refused after the device was unplugged, with the mapping alive; the other device works on");
  },
};
