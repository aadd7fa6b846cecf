import { onHardware } from "../on-hardware.ts";
import type { Feature } from "../feature.ts";

export const nonCoherent: Feature = {
  id: "hw-non-coherent",
  title: "SMMU that snoops no caches",
  arguments: [13],
  probe: (lab) => onHardware(lab, "non-coherent"),
};
