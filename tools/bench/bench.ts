// Runs every bench, in turns with its native baseline where there is one, and prints minima, ratios, gates and goals.
// usage: pnpm bench [--rounds N] [--samples N] [--suite NAME]... [--only REGEX] [--save FILE] [--json FILE]
import { spawnSync } from "node:child_process";
import { appendFileSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { cpus, tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { collect, renderMeans, renderRows, rowsOf } from "./rows.ts";
import type { Row, Samples } from "./rows.ts";

const root = join(import.meta.dirname, "../..");

interface Suite {
  readonly name: string;
  /** Whether run.sh has it too. */
  readonly native: boolean;
  /** Prints lines; gets the number of samples. */
  readonly script: string;
  readonly flags?: readonly string[];
}

const MODEL = "packages/smmu-v3-model/bench";
const SUITES: readonly Suite[] = [
  { name: "pgtable", native: true, script: "packages/io-pgtable-arm-common/bench/pgtable.ts" },
  { name: "smmu", native: true, script: `${MODEL}/model.ts` },
  { name: "growth", native: true, script: `${MODEL}/growth.ts` },
  { name: "garbage", native: false, script: `${MODEL}/garbage.ts`, flags: ["--max-semi-space-size=256"] },
  { name: "cmdq", native: true, script: "packages/arm-smmu-v3-common/bench/cmdq.ts" },
];
/** Benches that print a text of their own. */
const ALONE = [
  { name: "trace", script: "packages/dma-workload/bench/trace.ts" },
  { name: "replay", script: "tools/bench/replay.ts" },
] as const;

const { values } = parseArgs({
  options: {
    rounds: { type: "string", default: "3" },
    samples: { type: "string", default: "1" },
    suite: { type: "string", multiple: true, default: [] },
    only: { type: "string", default: "" },
    save: { type: "string" },
    json: { type: "string" },
  },
});

function positive(name: string, value: string): number {
  if (!/^[1-9]\d{0,3}$/u.test(value)) throw new RangeError(`--${name} must be a whole number from 1 to 9999, got "${value}"`);
  return Number(value);
}

const rounds = positive("rounds", values.rounds);
const samples = String(positive("samples", values.samples));
const only = new RegExp(values.only, "u");
const names = [...SUITES, ...ALONE].map(({ name }) => name);
for (const suite of values.suite) {
  if (!names.includes(suite)) throw new RangeError(`--suite must be one of ${names.join(", ")}, got "${suite}"`);
}
const chosen = (name: string): boolean => values.suite.length === 0 || values.suite.includes(name);

function run(command: string, args: readonly string[], environment: Readonly<Record<string, string>> = {}): string {
  const { status, error, stdout } = spawnSync(command, args, {
    cwd: root, env: { ...process.env, ...environment }, encoding: "utf8", maxBuffer: 2 ** 28, stdio: ["ignore", "pipe", "inherit"],
  });
  if (error !== undefined) throw error;
  if (status !== 0) throw new Error(`${command} ${args.join(" ")}: exit status ${String(status)}`);
  return stdout;
}

const print = (line: string): void => {
  process.stdout.write(`${line}\n`);
};

const host = { node: process.version, v8: process.versions.v8, cpu: cpus()[0]?.model ?? "unknown", cores: cpus().length };
const date = new Date().toISOString();
print(`# Node ${host.node}, V8 ${host.v8}`);
print(`# ${host.cores} x ${host.cpu}, ${date}`.slice(0, 80));
const native = spawnSync("cc", ["--version"]).status === 0;
if (!native) print("# no C compiler: the native baselines are left out");

/** The native baselines ask for huge pages unless THP=0; so does the C library for the buffers of these. */
const HUGE_PAGES: Readonly<Record<string, string>> = process.env["THP"] === "0" ? {} : { GLIBC_TUNABLES: "glibc.malloc.hugetlb=1" };

/** Rounds, not one long run of each: the slow minutes of a machine then fall on both. */
function measure({ name, native: twin, script, flags = [] }: Suite, build: string): readonly Row[] {
  const found: Samples = new Map();
  for (let round = 0; round < rounds; round++) {
    const texts: string[] = [];
    if (native && twin) texts.push(run("tools/bench/native/run.sh", [samples, name], { BUILD: build }));
    texts.push(run(process.execPath, [...flags, script, samples], HUGE_PAGES));
    for (const text of texts) {
      collect(found, text, name);
      if (values.save !== undefined) appendFileSync(values.save, text);
    }
  }
  return rowsOf(found).filter(({ bench }) => only.test(bench));
}

const build = mkdtempSync(join(tmpdir(), "smmuv3-baselines-"));
const measured: (Row & { readonly suite: string })[] = [];
try {
  for (const suite of SUITES.filter(({ name }) => chosen(name))) {
    const rows = measure(suite, build);
    if (rows.length === 0) continue;
    print(`\n# ${suite.name}: ${rounds} rounds of ${samples} samples`);
    for (const line of [...renderRows(rows), ...renderMeans(rows)]) print(line);
    measured.push(...rows.map((row) => ({ suite: suite.name, ...row })));
  }
} finally {
  rmSync(build, { recursive: true, force: true });
}
const over = measured.filter(({ verdict }) => verdict === "over");
const gated = measured.filter(({ verdict }) => verdict !== "-");
if (gated.length > 0) print(`\n# ${gated.length - over.length} of ${gated.length} rows within their gate`);
if (values.json !== undefined) {
  const report = { schemaVersion: 1, ...host, date, rounds, samples: Number(samples), rows: measured };
  writeFileSync(values.json, `${JSON.stringify(report, undefined, 2)}\n`);
}
for (const { name, script } of ALONE.filter(({ name: alone }) => chosen(alone))) {
  print(`\n# ${name}`);
  process.stdout.write(run(process.execPath, [script]));
}
