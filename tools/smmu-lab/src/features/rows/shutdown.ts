import { absent, works } from "../feature.ts";
import type { Feature } from "../feature.ts";

export const shutdown: Feature = {
  id: "shutdown",
  title: "orderly shutdown, still isolated",
  arguments: [],
  probe(lab) {
    const rig = lab.bootWhole();
    if ("verdict" in rig) return rig;
    const pa = rig.page();
    const taken = lab.protects ? rig.takePage(pa) : undefined;
    if (typeof taken === "number") return absent("no page can be given to a VM");
    rig.kernel.shutdown();
    rig.port.poll();
    if (rig.trouble !== "") return absent(rig.trouble);
    if (taken === undefined) return works("every driver quiesced its device");
    return rig.outOfReach(0, pa, taken) ? works("every driver quiesced its device; the VM's page stays out of reach") : absent("a device reaches the VM's page after the shutdown");
  },
};
