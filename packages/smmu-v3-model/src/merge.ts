import { EVENT, EVENTS, maskOf } from "@smmuv3/smmu-v3-defs";

/** Events that may come before an STE is found: STE.MEV has no say in them (IHI 0070 7.3.1). */
const BEFORE_STE: ReadonlySet<number> = new Set([
  EVENTS.F_UUT.type,
  EVENTS.C_BAD_STREAMID.type,
  EVENTS.F_STE_FETCH.type,
  EVENTS.C_BAD_STE.type,
]);

/** Events that are the same whatever InputAddr[11:0] is (7.3.8, 7.3.12 to 7.3.17). */
const BY_PAGE: ReadonlySet<number> = new Set([
  EVENTS.F_TRANSL_FORBIDDEN.type,
  EVENTS.F_WALK_EABT.type,
  EVENTS.F_TRANSLATION.type,
  EVENTS.F_ADDR_SIZE.type,
  EVENTS.F_ACCESS.type,
  EVENTS.F_PERMISSION.type,
  EVENTS.F_TLB_CONFLICT.type,
]);

/** Events with a Stall field; in those of conflicts the bit belongs to Reason. */
const STALLING: ReadonlySet<number> = new Set(
  Object.values(EVENTS)
    .filter(({ fields }) => (fields as readonly string[]).includes("Stall"))
    .map(({ type }) => type),
);

const STALL = maskOf(EVENT.Stall);
const INPUT = EVENT.InputAddr.word;

/**
 * Whether `record` may be merged into the record whose first word is `words[at]` (7.3.1).
 * @param mev STE.MEV of the stream
 */
export function mergeable(record: Int32Array, words: Int32Array, at: number, mev: boolean): boolean {
  const type = record[0]! & 0xff;
  if (!mev && !BEFORE_STE.has(type)) return false;
  if (STALLING.has(type) && ((record[EVENT.Stall.word]! | words[at + EVENT.Stall.word]!) & STALL) !== 0) return false;
  for (let i = 0; i < record.length; i++) {
    const ignored = i === INPUT && BY_PAGE.has(type) ? 0xfff : 0;
    if (((record[i]! ^ words[at + i]!) & ~ignored) !== 0) return false;
  }
  return true;
}
