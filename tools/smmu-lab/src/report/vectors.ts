import type { Observation } from "../vectors/cases.ts";
import { RULES } from "../vectors/rules.ts";
import type { VectorReport } from "../vectors/run.ts";
import { hex } from "../reference/bus.ts";
import { count, fact, wrap } from "./lines.ts";

const SCHEMA_VERSION = 1;

/** 16 digits, as the vectors have them. */
const long = (value: bigint): string => `0x${value.toString(16).padStart(16, "0")}`;

export function observationJson({ ok, pa, events }: Observation): object {
  return { ok, pa: pa === undefined ? null : hex(pa), events: events.map((record) => record.map(long)) };
}

/** What was seen of an access, on one line. */
export function showObservation({ ok, pa, events }: Observation): string {
  const result = ok ? `ok${pa === undefined ? "" : ` ${hex(pa)}`}` : "refused";
  return [result, ...(ok ? [] : events.length === 0 ? ["no record"] : events.map((record) => record.map(hex).join(" ")))].join(", ");
}

/** The report as JSON, schema/vectors.schema.json. */
export function vectorsJson(report: VectorReport, files: readonly string[], profile: string): object {
  return {
    schemaVersion: SCHEMA_VERSION,
    files,
    profile,
    cases: report.cases,
    accesses: report.accesses,
    pass: report.pass,
    excused: Object.fromEntries(report.excused),
    excusedAccesses: report.excusedAccesses,
    fail: report.fail,
    skipped: report.skipped,
    differences: report.differences.map(({ file, line, name, index, access, got }) => ({
      file,
      line,
      case: name,
      access: index,
      sid: access.sid,
      iova: hex(access.iova),
      write: access.write,
      recorded: observationJson(access.recorded),
      got: observationJson(got),
    })),
  };
}

/** Rows and their counts, with what each one is. */
export function excusedLines(excused: ReadonlyMap<string, number>): string[] {
  return [...excused].flatMap(([row, accesses]) => {
    const rule = RULES.find((candidate) => candidate.row === row);
    return [`  ${row.padEnd(22)}${count(accesses).padStart(6)}`, ...wrap("    ", `QEMU ${rule?.qemu ?? ""}; ${rule?.section ?? ""}`)];
  });
}

/** The report as text, within 80 columns. */
export function vectorsText(report: VectorReport): string {
  const { cases, accesses, pass, excused, excusedAccesses, fail, differences, skipped } = report;
  return [
    ...fact("cases", `${count(cases)}, with ${count(accesses)} accesses`),
    ...fact("pass", count(pass)),
    ...fact("excused", count(excusedAccesses)),
    ...fact("fail", count(fail)),
    ...(skipped.crashed + skipped.steps === 0
      ? []
      : fact("skipped", `${count(skipped.crashed)} cases that crashed QEMU, ${count(skipped.steps)} accesses after changes that were not recorded`)),
    ...(excused.size === 0 ? [] : ["", "EXCUSED BY DEVIATIONS OF QEMU (an access may need several)", ...excusedLines(excused)]),
    ...differences.flatMap(({ file, line, name, index, access, got }) => [
      "",
      ...wrap("", `${file}:${line}: ${name}, access ${index}: StreamID ${hex(access.sid)} ${access.write ? "writes" : "reads"} ${hex(access.iova)}`),
      ...wrap("  recorded  ", showObservation(access.recorded)),
      ...wrap("  got       ", showObservation(got)),
    ]),
    ...(fail > differences.length ? ["", `${count(fail - differences.length)} more differences`] : []),
  ].join("\n");
}
