import { absent, works } from "../feature.ts";
import type { Feature } from "../feature.ts";
import { needsTranslation } from "../translation.ts";

export const dmaStrict: Feature = {
  id: "dma-strict",
  title: "DMA translation, strict",
  arguments: [14, 15],
  probe(lab) {
    const rig = lab.bootWhole({ boot: { translation: "strict" } });
    if ("verdict" in rig) return rig;
    const missing = needsTranslation(rig, "strict");
    if (missing !== undefined) return missing;
    const pa = rig.page();
    const dma = rig.map(0, pa);
    if (dma < 0 || !rig.reaches(0, dma, pa)) return absent("a mapped page is not reached");
    if (rig.reaches(0, pa, pa)) return absent("the physical address answers too: nothing translates");
    rig.unmap(0, dma);
    if (!rig.refused(0, dma)) return absent("the device reaches the page after its unmap");
    return works("a page is reached at its DMA address, not at its own; after the unmap it is refused at once");
  },
};
