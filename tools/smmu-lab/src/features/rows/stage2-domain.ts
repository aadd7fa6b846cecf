import { PAGE_SIZE } from "@smmuv3/platform";
import { EVENT, getField } from "@smmuv3/smmu-v3-defs";
import { HARDWARE } from "../../lab/hardware.ts";
import { absent, works } from "../feature.ts";
import type { Feature } from "../feature.ts";

const IOVA = 0x70_0000;
const READ_WRITE = 3;

export const stage2Domain: Feature = {
  id: "stage2-domain",
  title: "VFIO domain on stage 2",
  arguments: [13],
  probe(lab) {
    const rig = lab.bootWhole({ hardware: HARDWARE["s2-only"] });
    if ("verdict" in rig) return rig;
    const domain = rig.newDomain(0);
    if (typeof domain !== "number") return domain;
    const pa = rig.page();
    if ((rig.kernel.map(domain, IOVA, pa, PAGE_SIZE, READ_WRITE) || rig.kernel.attach(0, domain)) < 0) return absent("cannot be attached");
    if (!rig.reaches(0, IOVA, pa)) return absent("the mapped page is not reached");
    rig.kernel.unmap(domain, IOVA, PAGE_SIZE);
    rig.refused(0, IOVA);
    const stage2 = rig.board.smmu.decodeEvents().some(({ words }) => getField(words, 0, EVENT.S2) === 1 || words[0] !== 0);
    return stage2 ? works("on an SMMU with stage 2 only, a mapped page is reached and an unmapped one refused") : absent("no fault after the unmap");
  },
};
