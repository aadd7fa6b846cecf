import { errnoName, PAGE_SIZE } from "@smmuv3/platform";
import { HARDWARE, RICH } from "../../lab/hardware.ts";
import { absent, works } from "../feature.ts";
import type { Cell, Feature } from "../feature.ts";
import { DEVICES } from "../lab.ts";
import type { Lab, Rig } from "../lab.ts";

const LARGEST = 1 << 20;

/** Takes all memory that the kernel has left. */
function exhaust(rig: Rig): void {
  for (let bytes = LARGEST; bytes >= PAGE_SIZE; bytes /= 2) while (rig.port.allocPages(bytes) >= 0);
}

/** Identity has no room for PASIDs: the device stays where it is. */
function besidePasid(lab: Lab): Cell {
  const rig = lab.bootWhole({ hardware: { ...HARDWARE.nested, id: RICH }, properties: { [DEVICES[0]]: { "pasid-num-bits": 8 } } });
  if ("verdict" in rig) return rig;
  const domain = rig.newDomain(0);
  if (typeof domain !== "number") return domain;
  const pa = rig.page();
  const dma = rig.map(0, pa);
  const attached = rig.kernel.attachPasid(0, 1, domain);
  if (attached < 0) return absent(`no attach fails: neither without memory, nor beside a PASID (${errnoName(attached)})`);
  const status = rig.kernel.attach(0, "identity");
  if (status === 0) return absent("no attach fails: neither without memory, nor beside a PASID");
  if (!rig.reaches(0, dma, pa) || !rig.refused(0, pa)) return absent(`${errnoName(status)}, and the device is not where it was`);
  return works(`${errnoName(status)} for identity beside a PASID; the device goes on as before`);
}

export const attachFailure: Feature = {
  id: "attach-failure",
  title: "a failed attach changes nothing",
  arguments: [25],
  probe(lab) {
    const rig = lab.bootWhole({ boot: { translation: "identity" } });
    if ("verdict" in rig) return rig;
    const domain = rig.newDomain(0);
    if (typeof domain !== "number") return domain;
    const pa = rig.page();
    if (!rig.reaches(0, pa, pa)) return absent("not reached before");
    exhaust(rig);
    const status = rig.kernel.attach(0, domain);
    if (status === 0) return besidePasid(lab);
    if (!rig.reaches(0, pa, pa)) return absent(`${errnoName(status)}, and the device is cut off`);
    return works(`${errnoName(status)} with no memory left; the device goes on as before`);
  },
};
