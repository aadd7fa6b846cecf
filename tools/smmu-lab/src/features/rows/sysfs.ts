import { absent, hidden, notApplicable, works } from "../feature.ts";
import type { Feature } from "../feature.ts";
import type { Rig } from "../lab.ts";

/** Nodes between the device of an IOMMU instance and the physical one; 0: it is the physical one. */
export function sysfsDistance(rig: Rig): number {
  const firmware = new Set(rig.kernel.tree.filter((dev) => dev.firmware).map(({ path }) => path));
  let path = rig.port.status.iommus[0]?.device ?? "";
  let distance = 0;
  while (path !== "" && !firmware.has(path)) {
    path = path.slice(0, Math.max(0, path.lastIndexOf("/")));
    distance++;
  }
  return distance;
}

export const sysfs: Feature = {
  id: "sysfs",
  title: "hypervisor visible in sysfs",
  arguments: [9],
  probe(lab) {
    if (!lab.protects) return notApplicable("EL2 does not own the SMMU");
    const rig = lab.bootWhole();
    if ("verdict" in rig) return rig;
    const { device } = rig.port.status.iommus[0]!;
    const distance = sysfsDistance(rig);
    if (distance > 1) return absent(`${device}: ${distance} nodes away from the hardware`);
    return distance === 1 ? works(`the IOMMU is at ${device}`) : hidden(`the IOMMU is at ${device}, the physical device`);
  },
};
