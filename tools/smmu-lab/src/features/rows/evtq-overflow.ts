import { maskOf, place, REG } from "@smmuv3/smmu-v3-defs";
import { PRESETS } from "@smmuv3/smmu-v3-model";
import { HARDWARE } from "../../lab/hardware.ts";
import { absent, works } from "../feature.ts";
import type { Feature } from "../feature.ts";
import { needsFault } from "../fault-address.ts";

/** log2 of the places of the hardware's event queue, and more faults than it holds. */
const QUEUE_LOG2 = 7;
const FAULTS = 200;
const { EVENTQS } = REG.IDR1;
const SMALL_QUEUE = { ...PRESETS.qemuNested, IDR1: (PRESETS.qemuNested.IDR1 & ~maskOf(EVENTQS)) | place(EVENTQS, QUEUE_LOG2) };

export const evtqOverflow: Feature = {
  id: "evtq-overflow",
  title: "event queue overflow survived",
  arguments: [],
  probe(lab) {
    const rig = lab.bootWhole({ hardware: { ...HARDWARE.nested, id: SMALL_QUEUE } });
    if ("verdict" in rig) return rig;
    const address = needsFault(rig);
    if (typeof address !== "number") return address;
    const master = rig.master(1);
    const before = rig.port.faultsReported;
    // Interrupts are taken when the kernel runs, which it does not in between.
    for (let i = 0; i < FAULTS; i++) master.probe(address, true);
    rig.port.poll();
    const reported = rig.port.faultsReported - before;
    if (reported === 0 || reported >= FAULTS) return absent(`${reported} of ${FAULTS} faults reported`);
    master.probe(address, true);
    rig.port.poll();
    if (rig.port.faultsReported - before !== reported + 1) return absent("no fault is reported after the overflow");
    if (!rig.dmaWorks(0)) return absent("DMA does not work afterwards");
    return rig.trouble === "" ? works(`${reported} of ${FAULTS} faults reported, the rest lost; the next one is reported again`) : absent(rig.trouble);
  },
};
