import { onHardware } from "../on-hardware.ts";
import type { Feature } from "../feature.ts";

export const noRil: Feature = {
  id: "hw-no-ril",
  title: "SMMU without range invalidation",
  arguments: [13],
  probe: (lab) => onHardware(lab, "no-ril"),
};
