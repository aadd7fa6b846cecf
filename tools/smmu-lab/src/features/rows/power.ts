import { errnoName } from "@smmuv3/platform";
import { absent, works } from "../feature.ts";
import type { Feature } from "../feature.ts";

export const power: Feature = {
  id: "power",
  title: "power management of the SMMU",
  arguments: [],
  probe(lab) {
    const rig = lab.bootWhole();
    if ("verdict" in rig) return rig;
    const { pkvm } = rig.port;
    if (!lab.protects || pkvm === undefined) return absent("the stock driver has no runtime power management yet");
    const pa = rig.page();
    const dma = rig.map(0, pa);
    if (!rig.reaches(0, dma, pa)) return absent("not reached before");
    const off = pkvm.setPower(0, false);
    if (off < 0) return absent(`EL2 has no power domain for the SMMU: ${errnoName(off)}`);
    if (!rig.refused(0, dma)) return absent("DMA is answered while the SMMU is off");
    const on = pkvm.setPower(0, true);
    if (on < 0 || !rig.reaches(0, dma, pa)) return absent(`not reached after power came back: ${errnoName(on)}`);
    return works("off: every DMA is refused; on again: as before");
  },
};
