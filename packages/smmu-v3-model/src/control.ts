import { maskOf, OFFSET, REG } from "@smmuv3/smmu-v3-defs";
import type { RegisterFile } from "./registers.ts";

const UPDATE = maskOf(REG.GBPA.UPDATE);

/** Registers with a request and an acknowledgement (6.3.9, 6.3.17). */
const ACKNOWLEDGED: readonly (readonly [request: number, acknowledge: number])[] = [
  [OFFSET.CR0, OFFSET.CR0ACK],
  [OFFSET.IRQ_CTRL, OFFSET.IRQ_CTRLACK],
];
/** Registers with an UPDATE bit (6.3.15). */
const UPDATED: readonly number[] = [OFFSET.GBPA, OFFSET.GMPAM, OFFSET.GBPMPAM];

/** Registers whose writes take effect later, and are acknowledged then. */
export function takesEffectLater(offset: number): boolean {
  return UPDATED.includes(offset) || ACKNOWLEDGED.some(([request]) => request === offset);
}

/** Puts into effect what software has requested, and acknowledges it. Returns false when there was nothing to do. */
export function applyUpdates(file: RegisterFile): boolean {
  let changed = false;
  for (const [request, acknowledge] of ACKNOWLEDGED) {
    if (file.get(acknowledge) === file.get(request)) continue;
    file.set(acknowledge, file.get(request));
    changed = true;
  }
  for (const offset of UPDATED) {
    if ((file.get(offset) & UPDATE) === 0) continue;
    file.set(offset, file.get(offset) & ~UPDATE);
    changed = true;
  }
  return changed;
}
