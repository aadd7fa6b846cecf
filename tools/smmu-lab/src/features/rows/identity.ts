import { absent, works } from "../feature.ts";
import type { Feature } from "../feature.ts";

export const identity: Feature = {
  id: "identity",
  title: "identity domain (passthrough)",
  arguments: [15],
  probe(lab) {
    const rig = lab.bootWhole({ boot: { translation: "identity" } });
    if ("verdict" in rig) return rig;
    const type = rig.kernel.domainType(0);
    if (type !== "identity") return absent(`asked for identity, the device is on a ${type} domain`);
    const pa = rig.page();
    const dma = rig.map(0, pa);
    if (dma !== pa || !rig.reaches(0, dma, pa)) return absent("the physical address does not answer");
    return works("DMA addresses are physical ones, and they answer");
  },
};
