import { HANDOFF_FIELDS } from "./handoff.ts";
import { HYPERCALLS } from "./hypercalls.ts";
import { ABI_PROT, EVENT_QUEUE_OP, HOST_DOMAINS, IOMMU_DOMAIN_TYPE, IOMMU_STATE, SG_ENTRY } from "./iommu.ts";
import { POOL, REQUEST } from "./requests.ts";

/** FNV-1a of `text`, unsigned 32 bits. */
function fnv1a(text: string): number {
  let hash = 0x811c9dc5;
  for (let i = 0; i < text.length; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193);
  return hash >>> 0;
}

/**
 * Identity of this ABI: changes with any number, argument or shared structure. `__pkvm_init` carries it, and EL2 refuses a
 * host that was built against another.
 */
export function abiHash(): number {
  const iommu = [IOMMU_STATE, IOMMU_DOMAIN_TYPE, HOST_DOMAINS, ABI_PROT, SG_ENTRY, EVENT_QUEUE_OP, HANDOFF_FIELDS];
  return fnv1a(JSON.stringify([HYPERCALLS, POOL, REQUEST, iommu]));
}
