import type { Access } from "../reference/explain.ts";
import type { Observation, RecordedAccess } from "./cases.ts";
import { collapse, excuse, PER_FOUR_BYTES, RULES, sameObservation } from "./rules.ts";
import type { Rule, Subject } from "./rules.ts";

/** An access of the master that the vectors were recorded with: data, unprivileged. */
export function plainAccess({ sid, ssid, iova, write }: RecordedAccess): Access {
  return { sid, ssid, iova, write, privileged: false, instruction: false };
}

/** Rows that excuse an access; none where it came out as recorded, undefined where it failed. */
export function judge(subject: Subject, access: RecordedAccess, got: Observation, rules: readonly Rule[] = RULES): readonly string[] | undefined {
  let { recorded } = access;
  const artefact: string[] = [];
  if (recorded.events.length > 1 && rules.some(({ row }) => row === PER_FOUR_BYTES)) {
    const events = collapse(recorded.events, access.len);
    if (events !== undefined) {
      recorded = { ...recorded, events };
      artefact.push(PER_FOUR_BYTES);
    }
  }
  // A write is found by the tag that it changed; without one nobody knows where it went.
  if (access.tagged && recorded.ok && recorded.pa === undefined) recorded = { ...recorded, pa: got.pa };
  if (sameObservation(recorded, got)) return artefact;
  const rows = excuse(subject, got, recorded, rules);
  return rows === undefined ? undefined : [...artefact, ...rows].sort();
}
