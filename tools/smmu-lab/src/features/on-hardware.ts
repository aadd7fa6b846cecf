import { HARDWARE } from "../lab/hardware.ts";
import type { HardwareName } from "../lab/hardware.ts";
import { absent, works } from "./feature.ts";
import type { Cell } from "./feature.ts";
import { isolationOf } from "./isolation-of.ts";
import type { Lab } from "./lab.ts";

/** The design on other hardware: it protects what it protects elsewhere, and DMA works. */
export function onHardware(lab: Lab, name: HardwareName): Cell {
  const rig = lab.bootWhole({ hardware: HARDWARE[name] });
  if ("verdict" in rig) return rig;
  if (!rig.dmaWorks(0) || !rig.dmaWorks(1)) return absent("probes, but DMA does not work");
  if (rig.trouble !== "") return absent(rig.trouble);
  if (!lab.protects) return works("probes; DMA works");
  const leak = isolationOf(rig);
  return leak === undefined ? works("probes; DMA works; a VM's page is out of reach") : absent(leak);
}
