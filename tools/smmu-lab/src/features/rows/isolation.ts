import { absent, notApplicable, works } from "../feature.ts";
import type { Feature } from "../feature.ts";
import { isolationOf } from "../isolation-of.ts";

export const isolation: Feature = {
  id: "isolation",
  title: "a VM's memory is out of reach",
  arguments: [],
  probe(lab) {
    if (!lab.hyp) return notApplicable("no protected VMs");
    const rig = lab.bootWhole();
    if ("verdict" in rig) return rig;
    const leak = isolationOf(rig);
    return leak === undefined ? works("reachable just before, out of reach of every device after it went to a VM") : absent(leak);
  },
};
