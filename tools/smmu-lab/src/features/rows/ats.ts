import { hi32, lo32, TRANSLATION } from "@smmuv3/platform";
import { HARDWARE, RICH } from "../../lab/hardware.ts";
import { absent, hidden, works } from "../feature.ts";
import type { Feature } from "../feature.ts";
import { DEVICES } from "../lab.ts";

const WRITE = 1;

export const ats: Feature = {
  id: "ats",
  title: "ATS usable, or closed",
  arguments: [24],
  probe(lab) {
    const rig = lab.bootWhole({
      hardware: { ...HARDWARE.nested, id: RICH },
      properties: { [DEVICES[0]]: { "ats-supported": true } },
    });
    if ("verdict" in rig) return rig;
    const { ats: port } = rig.board.smmu;
    const sid = rig.master(0).streamId;
    const pa = rig.page();
    const dma = rig.map(0, pa);
    const { status, translations } = port.translationRequest({ sid, address: dma });
    const usable = status === "success" && translations[0]?.R === true;
    const presented = (at: number): boolean => port.translatedAccess(sid, 0, lo32(at), hi32(at), WRITE) === TRANSLATION.ok;
    const own = presented(pa);
    if (usable && own) return works("a translation request is answered, and the translated access goes through");
    // A page that nobody mapped for the device: an open ATS reaches it.
    const other = rig.page();
    if (presented(other)) return absent("open: a translated access to a page that is not mapped passes unchecked");
    const text = `a translation request is answered with ${status}, a translated access is refused`;
    return rig.port.status.iommuAtEl2 ? hidden(text) : absent(`closed: ${text}; the driver does not enable it`);
  },
};
