import { HANDOFF_FIELDS } from "./handoff.ts";
import { EVENT_QUEUE_OP, HYPERCALLS, IOMMU_STATE } from "./hypercalls.ts";

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
  return fnv1a(JSON.stringify([HYPERCALLS, IOMMU_STATE, EVENT_QUEUE_OP, HANDOFF_FIELDS]));
}
