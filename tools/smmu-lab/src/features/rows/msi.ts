import { MSI_DOORBELL } from "@smmuv3/machine";
import { errnoName, PAGE_SIZE, TRANSLATION } from "@smmuv3/platform";
import { absent, works } from "../feature.ts";
import type { Feature } from "../feature.ts";

const INTERRUPT = 512;

export const msi: Feature = {
  id: "msi",
  title: "MSI through the SMMU",
  arguments: [],
  probe(lab) {
    const rig = lab.bootWhole();
    if ("verdict" in rig) return rig;
    const doorbell = rig.board.firmware.doorbells[0]!.base;
    const dma = rig.port.dmaMapResource(0, doorbell, PAGE_SIZE);
    if (dma < 0) return absent(`the doorbell cannot be mapped: ${errnoName(dma)}`);
    const status = rig.master(0).write(dma + MSI_DOORBELL, Int32Array.of(INTERRUPT));
    if (status !== TRANSLATION.ok) return absent("the doorbell is not reached");
    if (!rig.board.machine.pending(INTERRUPT)) return absent("the doorbell was reached, no interrupt came");
    return works(`a write to 0x${(dma + MSI_DOORBELL).toString(16)} rings the doorbell at 0x${doorbell.toString(16)}`);
  },
};
