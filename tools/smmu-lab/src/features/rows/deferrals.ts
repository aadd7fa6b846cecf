import { absent, works } from "../feature.ts";
import type { Feature } from "../feature.ts";

export const deferrals: Feature = {
  id: "deferrals",
  title: "probe without deferral loops",
  arguments: [6, 7],
  probe(lab) {
    const rig = lab.bootWhole();
    if ("verdict" in rig) return rig;
    const { devices, status } = rig.port;
    const clients = (path: string): boolean => devices.some((name) => path.endsWith(name));
    const waited = rig.kernel.tree.filter((dev) => dev.deferrals > 0);
    const iommu = waited.find(({ path }) => !clients(path));
    if (iommu !== undefined) return absent(`${iommu.path} was deferred ${iommu.deferrals} times`);
    if (waited.some((dev) => dev.deferrals > 1)) return absent("a client was deferred again and again");
    if (status.warnings.length > 0) return absent(status.warnings[0]!);
    return works(`no IOMMU driver was deferred; ${waited.length} of ${devices.length} clients waited for it, once`);
  },
};
