import { absent, works } from "../feature.ts";
import type { Feature } from "../feature.ts";
import { needsTranslation } from "../translation.ts";

/** More unmaps than the flush queue holds. */
const UNMAPS = 600;

export const dmaFq: Feature = {
  id: "dma-fq",
  title: "DMA translation, flush queue",
  arguments: [14],
  probe(lab) {
    const rig = lab.bootWhole({ boot: { translation: "fq" } });
    if ("verdict" in rig) return rig;
    const missing = needsTranslation(rig, "fq");
    if (missing !== undefined) return missing;
    const pa = rig.page();
    const dma = rig.map(0, pa);
    if (!rig.reaches(0, dma, pa)) return absent("a mapped page is not reached");
    rig.unmap(0, dma);
    const window = !rig.refused(0, dma);
    const other = rig.page();
    for (let i = 0; i < UNMAPS; i++) rig.unmap(0, rig.map(0, other));
    const again = rig.map(0, other);
    if (again !== dma && !rig.refused(0, dma)) return absent(`still reached after ${UNMAPS} more unmaps`);
    return works(window ? "an unmapped page stays reachable until the queue is flushed, then no more" : "an unmap is complete on return; only IOVAs wait in the queue");
  },
};
