import { absent, works } from "../feature.ts";
import type { Feature } from "../feature.ts";
import { needsFault } from "../fault-address.ts";
import { DEVICES } from "../lab.ts";

export const events: Feature = {
  id: "events",
  title: "faults reported with the device",
  arguments: [],
  probe(lab) {
    const rig = lab.bootWhole();
    if ("verdict" in rig) return rig;
    const address = needsFault(rig);
    if (typeof address !== "number") return address;
    rig.master(1).probe(address, true);
    rig.port.poll();
    const fault = rig.kernel.faults.at(-1);
    if (fault === undefined) return absent(`a DMA to 0x${address.toString(16)} was not reported to the kernel`);
    if (fault.device !== DEVICES[1]) return absent(`reported for ${fault.device === "" ? "no device" : fault.device}, it was ${DEVICES[1]}`);
    if (fault.iova !== address) return absent(`reported with address ${String(fault.iova)}`);
    return works(`${fault.reason} at 0x${address.toString(16)} reported for ${fault.device}`);
  },
};
