import { absent } from "./feature.ts";
import type { Cell } from "./feature.ts";
import type { Rig } from "./lab.ts";

/** Nothing is mapped there. */
const UNMAPPED = 0x7f_1234_5000;

/** An address at which the DMA of any device faults: unmapped, or where nothing translates, a VM's page. */
export function needsFault(rig: Rig): number | Cell {
  if (rig.port.status.translation !== "identity") return UNMAPPED;
  const pa = rig.page();
  const taken = rig.takePage(pa);
  return typeof taken === "number" ? absent("nothing faults: identity without protection") : pa;
}
