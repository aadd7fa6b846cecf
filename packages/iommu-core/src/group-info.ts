import type { Device } from "@smmuv3/driver-core";
import type { IommuGroup } from "./group.ts";

/** PCI functions of one slot, of which one can reach the others without passing the IOMMU. */
export function sharesSlot(a: Device, b: Device): boolean {
  const slot = (dev: Device): string => dev.name.slice(0, dev.name.lastIndexOf("."));
  return a.pci !== undefined && b.pci !== undefined && slot(a) === slot(b) && !(a.pci.acs && b.pci.acs);
}

/** `type` of a group in sysfs: of its default domain. */
export function defaultType({ defaultDomain }: IommuGroup): string {
  if (defaultDomain?.type !== "paging") return defaultDomain?.type ?? "";
  return defaultDomain.flushQueue === undefined ? "DMA" : "DMA-FQ";
}

/** `reserved_regions` of a group in sysfs: one line each, `0x0000000008000000 0x00000000080fffff msi`. */
export function reservedText(group: IommuGroup): string {
  const address = (value: number): string => `0x${value.toString(16).padStart(16, "0")}`;
  const lines = group.devices.flatMap((dev) =>
    (group.instance.ops.getResvRegions?.(dev) ?? []).map(
      ({ start, length, type }) => `${address(start)} ${address(start + length - 1)} ${type === "sw-msi" ? "msi" : type}`,
    ),
  );
  return [...new Set(lines)].sort().join("\n");
}
