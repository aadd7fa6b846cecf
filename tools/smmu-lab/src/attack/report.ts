import { SCHEMA_VERSION } from "../report/json.ts";
import type { CampaignRate, CampaignReport, ReportedFinding } from "./campaign.ts";
import { ATTACK_CLASSES } from "./grammar/index.ts";
import { SCENARIOS } from "./scenarios.ts";

const TITLES: ReadonlyMap<string, string> = new Map([...ATTACK_CLASSES, ...SCENARIOS].map(({ id, title }) => [id, title]));
const KINDS = { breaches: "breach", panics: "panic", deadlocks: "deadlock" } as const;

/** Findings of one kind, as the schema has them. */
function list(findings: readonly ReportedFinding[], kind: ReportedFinding["kind"]): object[] {
  return findings
    .filter((finding) => finding.kind === kind)
    .map(({ invariant, text, count, of, epoch, script }) => ({ invariant, text, count, of, epoch, script }));
}

/** The report as JSON: schema/attack.schema.json. */
export function attackJson(report: CampaignReport): object {
  const { architecture, defects, seed, shards, asked, operations, schedules, findings, coverage } = report;
  return {
    schemaVersion: SCHEMA_VERSION,
    ...{ architecture, defects, seed, shards, asked, operations, schedules },
    ...Object.fromEntries(Object.entries(KINDS).map(([key, kind]) => [key, list(findings, kind)])),
    coverage: Object.fromEntries(Object.entries(coverage).toSorted(([a], [b]) => a.localeCompare(b, "en", { numeric: true }))),
  };
}

/** A report out of its JSON, which {@link attackJson} has written. */
export function reportOf(json: unknown): CampaignReport | undefined {
  if (typeof json !== "object" || json === null || !("schemaVersion" in json) || json.schemaVersion !== SCHEMA_VERSION) return undefined;
  if (!("breaches" in json) || !("coverage" in json) || !("asked" in json)) return undefined;
  const rest = json as unknown as CampaignReport & Record<keyof typeof KINDS, ReportedFinding[]>;
  const findings = Object.entries(KINDS).flatMap(([key, kind]) => rest[key as keyof typeof KINDS].map((finding) => ({ ...finding, kind })));
  const { architecture, defects, seed, shards, asked, operations, schedules, coverage } = rest;
  return { architecture, defects, seed, shards, asked, operations, schedules, findings, coverage };
}

function grouped(value: number): string {
  return Math.round(value).toString().replaceAll(/\B(?=(?:\d{3})+$)/gu, " ");
}

function findingText({ kind, invariant, text, count, of, epoch, script }: ReportedFinding): string {
  const times = count === 1 ? "" : `, and ${count - 1} more like it`;
  const lines = script.map((step) => `  ${JSON.stringify(step)}`);
  return [`${kind} (${invariant}): ${text}`, ` ${of} epoch ${epoch}${times}; script:`, ...lines].join("\n");
}

/** The report as text, within 80 columns but for scripts. */
export function attackText(report: CampaignReport, rate?: CampaignRate): string {
  const { architecture, defects, seed, operations, schedules, findings, coverage } = report;
  const speed = (value: number | undefined): string => (value === undefined || !Number.isFinite(value) ? "" : `, ${grouped(value)} a second`);
  const rows = Object.entries(coverage).toSorted(([a], [b]) => a.localeCompare(b, "en", { numeric: true }));
  const cell = (value: number): string => grouped(value).padStart(11);
  const counts = { breach: 0, panic: 0, deadlock: 0 };
  for (const { kind, count } of findings) counts[kind] += count;
  return [
    `${architecture}${defects.length === 0 ? "" : ` with ${defects.join(", ")}`}, seed ${seed}`,
    `${grouped(operations)} operations${speed(rate?.operationsPerSecond)}`,
    `${grouped(schedules)} schedules${speed(rate?.schedulesPerSecond)}`,
    "",
    `${"class".padEnd(14)}${"attempted".padStart(11)}${"accepted".padStart(11)}${"refused".padStart(11)}`,
    ...rows.map(([name, { attempted, accepted, refused }]) => `${name.padEnd(14)}${cell(attempted)}${cell(accepted)}${cell(refused)}  ${(TITLES.get(name) ?? "").slice(0, 31)}`.trimEnd()),
    "",
    ...findings.map(findingText),
    `breaches ${counts.breach}, panics ${counts.panic}, deadlocks ${counts.deadlock}`,
  ].join("\n");
}
