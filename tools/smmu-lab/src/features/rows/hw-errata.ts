import { onHardware } from "../on-hardware.ts";
import type { Feature } from "../feature.ts";

export const errata: Feature = {
  id: "hw-errata",
  title: "SMMU whose stages must not combine",
  arguments: [13],
  probe: (lab) => onHardware(lab, "errata"),
};
