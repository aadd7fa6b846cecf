import type { Translation } from "@smmuv3/arch-common";
import type { Cell } from "./feature.ts";
import { absent } from "./feature.ts";
import type { Rig } from "./lab.ts";

/** Why the kernel of `rig` does not translate as it was asked to; undefined: it does. */
export function needsTranslation(rig: Rig, wanted: Translation): Cell | undefined {
  const { translation } = rig.port.status;
  if (translation === wanted) return undefined;
  const domain = rig.newDomain(0);
  return typeof domain === "number" ? absent(`asked for ${wanted}, the kernel uses ${translation}`) : domain;
}
