import { DMA_DIRECTION } from "@smmuv3/arch-common";
import { PAGE_SIZE } from "@smmuv3/platform";
import { absent, hidden, works } from "../feature.ts";
import type { Feature } from "../feature.ts";

export const contiguous: Feature = {
  id: "contiguous",
  title: "scattered pages as one DMA range",
  arguments: [16],
  probe(lab) {
    const rig = lab.bootWhole();
    if ("verdict" in rig) return rig;
    const pages = [rig.page(), rig.page(), rig.page()];
    // The middle one is left out: the other two do not adjoin.
    const entries = [pages[0]!, pages[2]!].map((pa) => ({ pa, length: PAGE_SIZE, dmaAddress: 0, dmaLength: 0 }));
    const segments = rig.port.dmaMapSg(0, entries, DMA_DIRECTION.bidirectional);
    if (segments < 1) return absent("the list cannot be mapped");
    if (segments > 1) return hidden(`${segments} segments: without translation the device needs scatter-gather of its own`);
    const { dmaAddress } = entries[0]!;
    const reached = rig.reaches(0, dmaAddress, pages[0]!) && rig.reaches(0, dmaAddress + PAGE_SIZE, pages[2]!);
    return reached ? works("two pages that do not adjoin are one range for the device") : absent("the range is not the pages");
  },
};
