import { errnoName, PAGE_SIZE } from "@smmuv3/platform";
import { HARDWARE, RICH } from "../../lab/hardware.ts";
import { absent, works } from "../feature.ts";
import type { Feature } from "../feature.ts";
import { DEVICES } from "../lab.ts";

const PASID = 3;
const IOVA = 0x70_0000;
const READ_WRITE = 3;

export const pasid: Feature = {
  id: "pasid",
  title: "PASID: several address spaces",
  arguments: [14],
  probe(lab) {
    const rig = lab.bootWhole({
      hardware: { ...HARDWARE.nested, id: RICH },
      properties: { [DEVICES[0]]: { "pasid-num-bits": 8 } },
    });
    if ("verdict" in rig) return rig;
    const domain = rig.newDomain(0);
    if (typeof domain !== "number") return domain;
    const pa = rig.page();
    const status = rig.kernel.map(domain, IOVA, pa, PAGE_SIZE, READ_WRITE) || rig.kernel.attachPasid(0, PASID, domain);
    if (status < 0) return absent(`attaching PASID ${PASID}: ${errnoName(status)}`);
    const master = rig.master(0);
    master.ssid = PASID;
    const tagged = rig.reaches(0, IOVA, pa);
    master.ssid = -1;
    if (!tagged) return absent("DMA with the PASID does not reach its page");
    if (!rig.refused(0, IOVA)) return absent("DMA without a PASID reaches the page as well");
    if (!rig.dmaWorks(0)) return absent("DMA without a PASID works no more");
    const detached = rig.kernel.detachPasid(0, PASID);
    master.ssid = PASID;
    if (detached < 0 || !rig.refused(0, IOVA)) return absent("the page is reached after the PASID was detached");
    return works("a page of its own is reached with the PASID only, beside the other DMA of the device; detached, it is refused");
  },
};
