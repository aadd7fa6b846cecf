import { EVENT, EVENT_CLASS, EVENT_WORDS, EVENTS, printEvent, setField } from "@smmuv3/smmu-v3-defs";
import type { Machine } from "../reference/config.ts";
import { explain } from "../reference/explain.ts";
import type { Access, Explanation } from "../reference/explain.ts";
import type { Quirks } from "../reference/quirks.ts";
import { RIGHT } from "../reference/tables.ts";

/**
 * Row warm-tlb: what QEMU does with an access that hits a TLB entry which an earlier access of the case has left, or undefined
 * where there is none. The entry has the leaf's own AP, without APTable; reads are not checked; a refusal has no IPA; and with
 * stage 2 alone it is not recorded.
 */
export function hitTlb(machine: Machine, access: Access, earlier: readonly Access[], quirks: Quirks): Explanation | undefined {
  for (const before of earlier) {
    if (before.sid !== access.sid) continue;
    const filled = explain(machine, before, quirks);
    const { leaf, pa } = filled;
    if (leaf === undefined || pa === undefined || before.iova >> BigInt(leaf.shift) !== access.iova >> BigInt(leaf.shift)) continue;
    const first = leaf.own ?? RIGHT.all;
    if (!access.write || (first & leaf.rights2 & RIGHT.write) !== 0) {
      return { ...filled, pa: pa - before.iova + access.iova };
    }
    const stage2 = (first & RIGHT.write) !== 0;
    const words = new Int32Array(EVENT_WORDS);
    setField(words, 0, EVENT.Type, EVENTS.F_PERMISSION.type);
    setField(words, 0, EVENT.SID, access.sid);
    setField(words, 0, EVENT.S2, stage2 ? 1 : 0);
    setField(words, 0, EVENT.CLASS, EVENT_CLASS.IN);
    words[4] = Number(BigInt.asIntN(32, access.iova));
    words[5] = Number(BigInt.asIntN(32, access.iova >> 32n));
    const event = { name: "F_PERMISSION", recorded: leaf.own !== undefined, words, text: printEvent(words) } as const;
    return { outcome: "abort", pa: undefined, event, reason: "a TLB entry refuses it", reads: [], leaf: undefined };
  }
  return undefined;
}
