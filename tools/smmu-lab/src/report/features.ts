import type { Verdict } from "../features/feature.ts";
import type { FeatureRow } from "../features/matrix.ts";
import { WIDTH, wrap } from "./lines.ts";

/** Version of the JSON report; keys are public. */
const SCHEMA_VERSION = 1;
const MARKS: Readonly<Record<Verdict, string>> = { works: "yes", hidden: "hid", absent: "-", "n/a": "n/a" };
const WORDS: Readonly<Record<Verdict, string>> = {
  works: "works",
  hidden: "hidden by design",
  absent: "not built",
  "n/a": "does not apply",
};
const COLUMN = 4;
const LEGEND = [
  "yes   works: the probe used it on a booted machine",
  "hid   hidden by design: the hardware has it, the design withholds it",
  "-     not built, or built and not working",
  "n/a   does not apply",
];

const namesOf = (rows: readonly FeatureRow[]): string[] => [...(rows[0]?.cells.keys() ?? [])];

/** The matrix, within 80 columns: a row a feature, a column an architecture; `explain` names rows whose evidence is told as well. */
export function featuresText(rows: readonly FeatureRow[], explain: readonly string[] = []): string {
  const names = namesOf(rows);
  const label = Math.min(WIDTH - names.length * COLUMN, Math.max(...rows.map(({ feature }) => feature.title.length + feature.id.length + 3)));
  const line = (first: string, cells: readonly string[]): string => `${first.padEnd(label)}${cells.map((cell) => cell.padStart(COLUMN)).join("")}`.trimEnd();
  const title = ({ feature }: FeatureRow): string => {
    const full = `${feature.title} [${feature.id}]`;
    return full.length <= label ? full : feature.title.slice(0, label);
  };
  return [
    ...names.map((name, i) => `${String(i + 1).padStart(2)}  ${name}`),
    "",
    line("", names.map((_, i) => String(i + 1))),
    ...rows.map((row) => line(title(row), names.map((name) => MARKS[row.cells.get(name)?.verdict ?? "n/a"]))),
    "",
    ...LEGEND,
    ...rows.filter(({ feature }) => explain.includes(feature.id)).flatMap((row) => ["", ...evidence(row)]),
  ].join("\n");
}

/** What a row's probe found, architecture by architecture. */
function evidence({ feature, cells }: FeatureRow): string[] {
  return [
    feature.title,
    ...[...cells].flatMap(([name, { verdict, detail }]) => wrap(`  ${name}: `, `${WORDS[verdict]}: ${detail}`)),
  ];
}

/** The matrix as a JSON value; `schema/features.schema.json` describes it. */
export function featuresJson(rows: readonly FeatureRow[]): unknown {
  return {
    schemaVersion: SCHEMA_VERSION,
    rows: rows.map(({ feature, cells }) => ({
      id: feature.id,
      title: feature.title,
      arguments: feature.arguments,
      architectures: Object.fromEntries(
        [...cells].map(([name, { verdict, detail }]) => [name, { works: verdict === "works", verdict: WORDS[verdict], detail }]),
      ),
    })),
  };
}
