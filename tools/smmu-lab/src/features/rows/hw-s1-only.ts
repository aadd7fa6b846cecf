import { onHardware } from "../on-hardware.ts";
import type { Feature } from "../feature.ts";

export const s1Only: Feature = {
  id: "hw-s1-only",
  title: "SMMU with stage 1 only",
  arguments: [13],
  probe: (lab) => onHardware(lab, "s1-only"),
};
