import { InputError } from "../lab/trace-file.ts";
import { accessOf } from "../vectors/cases.ts";
import type { Observation, RecordedAccess } from "../vectors/cases.ts";
import { readJsonLines } from "../vectors/json.ts";
import { observe } from "../vectors/rules.ts";
import { judge, plainAccess } from "../vectors/judge.ts";
import type { Machine } from "../reference/config.ts";
import type { DumpExplainer } from "./explain.ts";

/** A probe that came out otherwise, without a rule that explains it. */
export interface ProbeDifference {
  readonly line: number;
  readonly access: RecordedAccess;
  readonly got: Observation;
  readonly reason: string;
}

export interface ProbeReport {
  readonly total: number;
  readonly pass: number;
  /** Probes by the rows that excuse them. One probe may need several. */
  readonly excused: ReadonlyMap<string, number>;
  readonly excusedProbes: number;
  readonly fail: number;
  /** The first failures. */
  readonly differences: readonly ProbeDifference[];
}

const KEPT = 10;

/** Whether the other direction is permitted as the probe says, where it says. */
function permits(explainer: DumpExplainer, access: RecordedAccess): boolean {
  const { perm, recorded, write } = access;
  if (perm === undefined || !recorded.ok) return true;
  const other = explainer.explain({ ...plainAccess(access), write: !write });
  return (other.outcome === "ok") === ((perm & (write ? 1 : 2)) !== 0);
}

/** Checks recorded accesses against a dump. Throws InputError with file and line for one that is malformed. */
export async function checkProbes(machine: Machine, explainer: DumpExplainer, path: string): Promise<ProbeReport> {
  const excused = new Map<string, number>();
  const differences: ProbeDifference[] = [];
  let total = 0;
  let pass = 0;
  let excusedProbes = 0;
  let fail = 0;
  for await (const { access, line } of readJsonLines(path, (json, at) => ({ access: accessOf(json, "the probe"), line: at }))) {
    total++;
    const found = explainer.explain(plainAccess(access));
    const got = observe(found);
    const subject = { machine, access: plainAccess(access), view: observe, earlier: [] };
    const known = found.outcome !== "unknown" && permits(explainer, access);
    const rows = known ? judge(subject, access, got) : undefined;
    if (rows === undefined) {
      fail++;
      if (differences.length < KEPT) differences.push({ line, access, got, reason: found.reason });
    } else if (rows.length === 0) {
      pass++;
    } else {
      excusedProbes++;
      for (const row of rows) excused.set(row, (excused.get(row) ?? 0) + 1);
    }
  }
  if (total === 0) throw new InputError(`${path}:1: the file has no probe`);
  return { total, pass, excused: new Map([...excused].sort(([a], [b]) => (a < b ? -1 : 1))), excusedProbes, fail, differences };
}
