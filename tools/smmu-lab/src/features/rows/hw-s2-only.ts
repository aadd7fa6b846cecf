import { onHardware } from "../on-hardware.ts";
import type { Feature } from "../feature.ts";

export const s2Only: Feature = {
  id: "hw-s2-only",
  title: "SMMU with stage 2 only",
  arguments: [13],
  probe: (lab) => onHardware(lab, "s2-only"),
};
