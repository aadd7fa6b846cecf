import { errnoName, PAGE_SIZE } from "@smmuv3/platform";
import { absent, works } from "../feature.ts";
import type { Feature } from "../feature.ts";

const IOVA = 0x70_0000;
const READ_WRITE = 3;

export const userDomain: Feature = {
  id: "user-domain",
  title: "a domain of its own for VFIO",
  arguments: [14, 16],
  probe(lab) {
    const rig = lab.bootWhole();
    if ("verdict" in rig) return rig;
    const domain = rig.newDomain(0);
    if (typeof domain !== "number") return domain;
    const { kernel } = rig;
    const pa = rig.page();
    const status = kernel.map(domain, IOVA, pa, PAGE_SIZE, READ_WRITE) || kernel.attach(0, domain);
    if (status < 0) return absent(`mapping and attaching: ${errnoName(status)}`);
    if (!rig.reaches(0, IOVA, pa) || !rig.refused(0, pa)) return absent("not the mapped page alone is reached");
    kernel.unmap(domain, IOVA, PAGE_SIZE);
    if (!rig.refused(0, IOVA)) return absent("reached after the unmap");
    const back = kernel.attach(0, "default") || kernel.freeDomain(domain);
    if (back < 0 || !rig.dmaWorks(0)) return absent(`back to the default domain: ${errnoName(back)}`);
    return works("the mapped page alone is reached; unmapped it is refused; the device goes back to its default domain");
  },
};
