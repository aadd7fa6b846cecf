import { errnoName } from "@smmuv3/platform";
import type { Rig } from "./lab.ts";

/**
 * Takes a page from under the devices, with warm caches, and gives it to a VM. Undefined: it was reachable before and is not
 * now; else what went wrong.
 */
export function isolationOf(rig: Rig): string | undefined {
  const pa = rig.page();
  const addresses = rig.port.devices.map((_, device) => rig.map(device, pa));
  if (!addresses.every((dma, device) => rig.reaches(device, dma, pa))) return "the page was not reachable before";
  let taken = rig.takePage(pa);
  if (typeof taken === "number") {
    // In use for DMA: it is refused until the host lets go.
    addresses.forEach((dma, device) => rig.unmap(device, dma));
    taken = rig.takePage(pa);
  }
  if (typeof taken === "number") return `no page can be given to a VM: ${errnoName(taken)}`;
  for (const [device, dma] of addresses.entries()) {
    if (!rig.outOfReach(device, dma, taken)) return "a device reaches the VM's page";
  }
  return undefined;
}
