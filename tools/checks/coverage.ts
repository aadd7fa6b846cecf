// `pnpm coverage`: lines and branches of the hardware side's sources that each package's own tests reach. Prints a table, writes it
// to the model's docs, and fails below the goals. Not a part of `pnpm test`: it takes some minutes.
import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

interface Measure {
  readonly total: number;
  readonly covered: number;
  readonly pct: number;
}

type Summary = Readonly<Record<string, Readonly<Record<"lines" | "branches" | "functions", Measure>>>>;

interface Goal {
  readonly name: string;
  readonly lines: number;
  readonly branches: number;
}

/** Percentages below which `pnpm coverage` fails. */
const GOALS: readonly Goal[] = [
  { name: "smmu-v3-model", lines: 97, branches: 93 },
  { name: "vmsa-walk", lines: 97, branches: 93 },
  { name: "smmu-v3-defs", lines: 97, branches: 93 },
  { name: "machine", lines: 95, branches: 90 },
  { name: "platform", lines: 95, branches: 90 },
];

const ROOT = join(import.meta.dirname, "../..");
const DOC = join(ROOT, "packages/smmu-v3-model/docs/coverage.md");

/** Runs the tests of one package and returns what they reach. */
function measure(name: string): Summary {
  const directory = mkdtempSync(join(tmpdir(), "coverage-"));
  try {
    const { status } = spawnSync(
      join(ROOT, "node_modules/.bin/vitest"),
      [
        "run", "test/", "--testTimeout=120000", "--hookTimeout=120000", "--reporter=dot",
        "--coverage.enabled", "--coverage.provider=v8", "--coverage.include=src/**", "--coverage.reporter=json-summary",
        `--coverage.reportsDirectory=${directory}`,
      ],
      { cwd: join(ROOT, "packages", name), stdio: ["ignore", "ignore", "inherit"] },
    );
    if (status !== 0) throw new Error(`the tests of ${name} fail`);
    return JSON.parse(readFileSync(join(directory, "coverage-summary.json"), "utf8")) as Summary;
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

function cell({ pct, covered, total }: Measure): string {
  return `${pct.toFixed(2)} % (${covered} of ${total})`;
}

const table = ["| package | lines | branches | functions |", "| --- | --- | --- | --- |"];
const below: string[] = [];
for (const { name, lines, branches } of GOALS) {
  const { total } = measure(name);
  table.push(`| ${name} | ${cell(total!.lines)} | ${cell(total!.branches)} | ${cell(total!.functions)} |`);
  if (total!.lines.pct < lines) below.push(`${name}: lines ${total!.lines.pct} %, goal ${lines} %`);
  if (total!.branches.pct < branches) below.push(`${name}: branches ${total!.branches.pct} %, goal ${branches} %`);
}
console.log(table.join("\n"));
writeFileSync(DOC, [
  "# Coverage",
  "",
  "What the tests of each package reach of its `src`, as `pnpm coverage` measured and wrote it. Tests that join packages are not in it.",
  "",
  ...table,
  "",
].join("\n"));
for (const message of below) console.error(`coverage: ${message}`);
if (below.length > 0) process.exitCode = 1;
