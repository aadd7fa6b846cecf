import { readFile } from "node:fs/promises";
import { InvalidArgumentError, Option } from "commander";
import type { Command } from "commander";
import { DefectError } from "../lab/defects.ts";
import { InputError, withPath } from "../lab/trace-file.ts";
import { checkOutput, writeOutput } from "../report/output-file.ts";
import { MergeError, mergeReports, runCampaign } from "./campaign.ts";
import type { CampaignReport, Shard } from "./campaign.ts";
import { SEEDED_DEFECTS } from "./defects/index.ts";
import type { SeededDefect } from "./defects/index.ts";
import { replay } from "./epoch.ts";
import { isConcurrent } from "./op.ts";
import { attackJson, attackText, reportOf } from "./report.ts";
import { parseScript } from "./script.ts";
import { loadTarget, TARGETS } from "./target.ts";
import type { TargetName } from "./target.ts";

/** What the command needs of the program that it is a part of. */
export interface CommandTools {
  /** A bar on a terminal, nothing elsewhere. */
  readonly progress: () => { update(stage: string, done: number, total: number): void; stop(): void };
  /** Exit status of a finding. */
  readonly finding: number;
}

interface AttackFlags {
  readonly arch?: TargetName;
  readonly defect: readonly string[];
  readonly ops: number;
  readonly schedules: number;
  readonly seed: number;
  readonly shard?: Shard;
  readonly json?: string;
  readonly replay?: string;
  readonly merge?: readonly string[];
  readonly listDefects?: true;
}

const STDOUT = "-";
const DEFAULT_OPS = 100_000;
const DEFAULT_SCHEDULES = 2000;

function count(text: string): number {
  const value = /^\d+$/u.test(text) ? Number(text) : Number.NaN;
  if (!Number.isSafeInteger(value)) throw new InvalidArgumentError("expected a whole number.");
  return value;
}

function shard(text: string): Shard {
  const [, index, of] = /^(\d+)\/(\d+)$/u.exec(text) ?? [];
  const parsed = { index: Number(index), count: Number(of) };
  if (!(parsed.index >= 1 && parsed.index <= parsed.count)) throw new InvalidArgumentError("expected i/n with 1 <= i <= n.");
  return parsed;
}

function architecture(text: string): TargetName {
  const found = TARGETS.find((name) => name === text);
  if (found === undefined) throw new InvalidArgumentError(`"${text}" is none of ${TARGETS.join(", ")}.`);
  return found;
}

function collect(text: string, before: readonly string[]): string[] {
  return [...before, text];
}

function defectsOf(names: readonly string[], name: TargetName): SeededDefect[] {
  return names.map((wanted) => {
    const found = SEEDED_DEFECTS.find((defect) => defect.name === wanted && defect.architectures.includes(name));
    if (found === undefined) throw new InputError(`--defect: "${wanted}" is no defect of ${name}; --list-defects names them`);
    return found;
  });
}

function defectList(json: boolean): string {
  const rows = SEEDED_DEFECTS.map(({ name, architectures, about, needs }) => ({ name, architectures, about, needs }));
  if (json) return JSON.stringify(rows, null, 2);
  return rows.map(({ name, architectures, about }) => `${name}\n    ${about}\n    ${architectures.join(", ")}`).join("\n");
}

async function output(report: CampaignReport, text: string, json: string | undefined): Promise<void> {
  const asJson = `${JSON.stringify(attackJson(report), null, 2)}\n`;
  process.stdout.write(json === STDOUT ? asJson : `${text}\n`);
  if (json !== undefined && json !== STDOUT) await writeOutput(json, asJson);
}

async function readReport(path: string): Promise<CampaignReport> {
  const text = await withPath(path, () => readFile(path, "utf8"));
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    throw new InputError(`${path}: not JSON`);
  }
  const report = reportOf(value);
  if (report === undefined) throw new InputError(`${path}: not a report of smmu-lab attack`);
  return report;
}

async function merge(files: readonly string[], json: string | undefined): Promise<CampaignReport> {
  if (json !== undefined && json !== STDOUT) await checkOutput(json, files);
  const reports = await Promise.all(files.map(readReport));
  try {
    const merged = mergeReports(reports);
    await output(merged, attackText(merged), json);
    return merged;
  } catch (error) {
    throw error instanceof MergeError ? new InputError(`--merge: ${error.message}`) : error;
  }
}

async function replayScript(path: string, flags: AttackFlags, name: TargetName): Promise<boolean> {
  const script = parseScript(await withPath(path, () => readFile(path, "utf8")), path);
  const target = await loadTarget(name, defectsOf(flags.defect, name), script.some(isConcurrent));
  const found = replay(target, script);
  const text = found === undefined ? "nothing was found" : `${found.kind} (${found.invariant}): ${found.text}`;
  process.stdout.write(flags.json === STDOUT ? `${JSON.stringify({ finding: found ?? null })}\n` : `${text}\n`);
  return found !== undefined;
}

async function campaign(flags: AttackFlags, name: TargetName, tools: CommandTools): Promise<CampaignReport> {
  const { json, seed, ops, schedules } = flags;
  const defects = defectsOf(flags.defect, name);
  if (json !== undefined && json !== STDOUT) await checkOutput(json, []);
  const bar = tools.progress();
  const report = await runCampaign({
    ...{ architecture: name, defects, ops, schedules, seed },
    ...(flags.shard === undefined ? {} : { shard: flags.shard }),
    onProgress: (done, total) => {
      bar.update(name, done, total);
    },
  }).finally(() => {
    bar.stop();
  });
  await output(report, attackText(report, report.rate), json);
  return report;
}

async function run(flags: AttackFlags, tools: CommandTools): Promise<void> {
  if (flags.listDefects === true) {
    process.stdout.write(`${defectList(flags.json === STDOUT)}\n`);
    return;
  }
  if (flags.merge !== undefined) {
    if ((await merge(flags.merge, flags.json)).findings.length > 0) process.exitCode = tools.finding;
    return;
  }
  if (flags.arch === undefined) throw new InputError("--arch: say which architecture to attack");
  const found =
    flags.replay === undefined
      ? (await campaign(flags, flags.arch, tools)).findings.length > 0
      : await replayScript(flags.replay, flags, flags.arch);
  if (found) process.exitCode = tools.finding;
}

/** Adds `smmu-lab attack` to a program. */
export function addAttackCommand(program: Command, tools: CommandTools): void {
  program
    .command("attack")
    .description("let a hostile kernel loose on an architecture; report what it breaks, with a script for each")
    .addOption(new Option("--arch <name>", `of ${TARGETS.join(", ")}`).argParser(architecture))
    .option("--ops <n>", "operations, one after the other", count, DEFAULT_OPS)
    .option("--schedules <n>", "races of several CPUs, each under a schedule of its own", count, DEFAULT_SCHEDULES)
    .option("--seed <n>", "the campaign follows from it alone", count, 1)
    .option("--shard <i/n>", "the i-th of n parts of the campaign; i counts from 1", shard)
    .option("--defect <name>", "put a known mistake in first; may be given several times", collect, [])
    .option("--list-defects", "name the known mistakes, and end")
    .option("--replay <script>", "perform the operations of a script (JSON lines) instead")
    .option("--merge <report...>", "join the JSON reports of shards instead")
    .option("--json <file>", "write the report as JSON too; - prints it instead of the text")
    .addHelpText("after", "\nExit status: 0 nothing found; 1 a breach, panic or deadlock; 2 bad usage or input.")
    .action(async (flags: AttackFlags) => {
      try {
        await run(flags, tools);
      } catch (error) {
        throw error instanceof DefectError ? new InputError(error.message) : error;
      }
    });
}
