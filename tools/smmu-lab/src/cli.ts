#!/usr/bin/env node
import { readFileSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { Command, CommanderError, InvalidArgumentError, Option } from "commander";
import { SingleBar } from "cli-progress";
import { TraceError } from "@smmuv3/dma-workload";
import { compare, findings } from "./compare.ts";
import { ARCHITECTURES, isArchitecture } from "./lab/architectures.ts";
import type { ArchitectureName } from "./lab/architectures.ts";
import { PROFILES } from "./lab/board.ts";
import type { Profile } from "./lab/board.ts";
import { CostTableError, DEFAULT_COSTS, parseCosts } from "./lab/costs.ts";
import { BootError } from "./lab/run.ts";
import { InputError, withPath } from "./lab/trace-file.ts";
import { inspect } from "./inspect/index.ts";
import type { InspectOptions } from "./inspect/index.ts";
import { inspectJson } from "./report/inspect-json.ts";
import { inspectText } from "./report/inspect-text.ts";
import { comparisonJson } from "./report/json.ts";
import { checkOutput, writeOutput } from "./report/output-file.ts";
import { comparisonTables } from "./report/table.ts";
import { vectorsJson, vectorsText } from "./report/vectors.ts";
import { runVectors } from "./vectors/run.ts";

/** Exit statuses; 0 is success. */
const EXIT = { finding: 1, badInput: 2, defect: 70 } as const;
const STDOUT = "-";
/** Longest first column of the progress bar. */
const STAGE_WIDTH = Math.max(...ARCHITECTURES.map((name) => name.length));

interface CompareFlags {
  readonly arch: readonly ArchitectureName[];
  readonly profile: Profile;
  readonly costs?: string;
  readonly json?: string;
}

function architectureList(text: string): ArchitectureName[] {
  const names = text.split(",").map((name) => {
    const trimmed = name.trim();
    if (isArchitecture(trimmed)) return trimmed;
    throw new InvalidArgumentError(`"${trimmed}" is none of ${ARCHITECTURES.join(", ")}.`);
  });
  return [...new Set(names)];
}

interface Progress {
  update(stage: string, done: number, total: number): void;
  stop(): void;
}

/** A bar on a terminal; nothing when standard error is piped. */
function progress(): Progress {
  if (!process.stderr.isTTY) return { update: () => {}, stop: () => {} };
  const bar = new SingleBar({ format: "{stage} [{bar}] {percentage}%", clearOnComplete: true, linewrap: true });
  bar.start(1, 0, { stage: "reading".padEnd(STAGE_WIDTH) });
  return {
    update(stage, done, total) {
      bar.setTotal(Math.max(1, total));
      bar.update(done, { stage: stage.padEnd(STAGE_WIDTH) });
    },
    stop() {
      bar.stop();
    },
  };
}

async function runCompare(trace: string, flags: CompareFlags): Promise<void> {
  const { json, costs: costFile } = flags;
  const costs =
    costFile === undefined ? DEFAULT_COSTS : parseCosts(await withPath(costFile, () => readFile(costFile, "utf8")), costFile);
  const toFile = json !== undefined && json !== STDOUT;
  if (toFile) await checkOutput(json, costFile === undefined ? [trace] : [trace, costFile]);
  const bar = progress();
  const comparison = await compare({
    trace,
    architectures: flags.arch,
    profile: flags.profile,
    costs,
    onProgress: (stage, done, total) => {
      bar.update(stage, done, total);
    },
  }).finally(() => {
    bar.stop();
  });
  const found = findings(comparison);
  if (found.length > 0) process.exitCode = EXIT.finding;
  await print(comparisonTables(comparison), comparisonJson(comparison), json, found);
}

/**
 * Prints a report, as text or JSON, and writes the file that was asked for. The text comes first: it is not lost when the file
 * cannot be written after all.
 */
async function print(text: string, report: unknown, json: string | undefined, found: readonly string[] = []): Promise<void> {
  const jsonText = `${JSON.stringify(report, null, 2)}\n`;
  process.stdout.write(json === STDOUT ? jsonText : `${text}\n`);
  if (found.length > 0) process.stderr.write(`${found.join("\n")}\n`);
  if (json !== undefined && json !== STDOUT) await writeOutput(json, jsonText);
}

interface VectorFlags {
  readonly profile: Profile;
  readonly json?: string;
}

async function runVectorCommand(files: readonly string[], { profile, json }: VectorFlags): Promise<void> {
  if (json !== undefined && json !== STDOUT) await checkOutput(json, files);
  const report = await runVectors(files, { profile });
  if (report.fail > 0) process.exitCode = EXIT.finding;
  await print(vectorsText(report), vectorsJson(report, files, profile), json);
}

interface InspectFlags {
  readonly registers?: string;
  readonly base?: bigint;
  readonly sid?: bigint;
  readonly ssid?: bigint;
  readonly iova?: bigint;
  readonly write?: true;
  readonly privileged?: true;
  readonly instruction?: true;
  readonly probes?: string;
  readonly json?: string;
}

/** Parser of numbers below 2^`bits`. */
function numberBelow(bits: number): (text: string) => bigint {
  return (text) => {
    const value = /^(0x[0-9a-f]+|\d+)$/i.test(text) ? BigInt(text) : -1n;
    if (value < 0n || value >> BigInt(bits) !== 0n) throw new InvalidArgumentError(`expected a number of at most ${bits} bits, as 0x... or decimal.`);
    return value;
  };
}

/** The access that options describe. */
function askedAccess(flags: InspectFlags): Pick<InspectOptions, "access"> {
  const { sid, ssid, iova, write, privileged, instruction } = flags;
  if (sid !== undefined && iova !== undefined) {
    return {
      access: {
        sid: Number(sid),
        ssid: ssid === undefined ? undefined : Number(ssid),
        iova,
        write: write === true,
        privileged: privileged === true,
        instruction: instruction === true,
      },
    };
  }
  const alone = (["sid", "ssid", "iova", "write", "privileged", "instruction"] as const).find((name) => flags[name] !== undefined);
  if (alone !== undefined) throw new InputError(`--${alone}: an access needs both --sid and --iova`);
  return {};
}

async function runInspect(dump: string, flags: InspectFlags): Promise<void> {
  const { json, registers, base, probes } = flags;
  const access = askedAccess(flags);
  if (json !== undefined && json !== STDOUT) {
    await checkOutput(json, [dump, registers, probes].filter((path) => path !== undefined));
  }
  const inspection = await inspect({
    dump,
    ...(base === undefined ? {} : { base }),
    ...(registers === undefined ? {} : { registers }),
    ...(probes === undefined ? {} : { probes }),
    ...access,
  });
  if ((inspection.probes?.fail ?? 0) > 0) process.exitCode = EXIT.finding;
  await print(inspectText(inspection), inspectJson(inspection), json);
}

function version(): string {
  const manifest = JSON.parse(readFileSync(new URL("../package.json", import.meta.url), "utf8")) as { readonly version: string };
  return manifest.version;
}

const program = new Command("smmu-lab")
  .description("Compares SMMUv3 driver architectures for protected hypervisors on a real DMA trace.")
  .version(version())
  .showHelpAfterError("(--help tells more)")
  .exitOverride();

program
  .command("compare")
  .description("replay a trace under each architecture; print costs, isolation and trusted base side by side")
  .argument("<trace>", "ftrace text with iommu:* and dma:* events, plain or gzipped")
  .addOption(
    new Option("--arch <list>", `comma separated, of ${ARCHITECTURES.join(", ")}`)
      .argParser(architectureList)
      .default(ARCHITECTURES, "all"),
  )
  .addOption(
    new Option("--profile <name>", "caches of the SMMU: keep everything, nothing, or what a real one has room for")
      .choices(PROFILES)
      .default("finite"),
  )
  .option("--costs <file>", `JSON object of ns by event, in place of the built-in ones: ${Object.keys(DEFAULT_COSTS).join(", ")}`)
  .option("--json <file>", "write the report as JSON too; - prints it instead of the tables")
  .addHelpText(
    "after",
    `
Recording a trace, as root, on Linux 6.12 or later:
  echo 1 > /sys/kernel/tracing/events/iommu/enable
  echo 1 > /sys/kernel/tracing/events/dma/enable
  cat /sys/kernel/tracing/trace > my.ftrace

Exit status: 0 success; 1 a finding (wrong DMA, a leak in a design that claims
isolation, a failed run); 2 bad usage or unreadable input; 70 a defect of this
program (SMMU_LAB_DEBUG=1 shows where).`,
  )
  .action(runCompare);

const jsonOption = "write the report as JSON too; - prints it instead of the text";

program
  .command("vectors")
  .description("replay recorded accesses of an SMMU on the model; excuse what a known deviation of QEMU explains")
  .argument("<file...>", "cases as JSON lines: registers, memory, accesses and what became of them")
  .addOption(new Option("--profile <name>", "caches of the SMMU").choices(PROFILES).default("finite"))
  .option("--json <file>", jsonOption)
  .addHelpText("after", "\nExit status: 0 success; 1 an access came out otherwise; 2 bad usage or input.")
  .action(runVectorCommand);

program
  .command("inspect")
  .description("decode the SMMU structures of a memory dump; explain one access; check recorded ones")
  .argument("<dump>", "directory with pages.json, ELF core with physical addresses, or raw memory (--base)")
  .option("--registers <file>", "JSON of the SMMU's registers (default: registers.json beside the dump)")
  .option("--base <address>", "physical address where raw memory begins", numberBelow(52))
  .option("--sid <n>", "explain an access: its StreamID", numberBelow(32))
  .option("--ssid <n>", "its SubstreamID", numberBelow(20))
  .option("--iova <address>", "its address", numberBelow(64))
  .option("--write", "it writes")
  .option("--privileged", "it is privileged")
  .option("--instruction", "it fetches instructions")
  .option("--probes <file>", "check accesses recorded as JSON lines")
  .option("--json <file>", jsonOption)
  .addHelpText("after", "\nExit status: 0 success; 1 a probe came out otherwise; 2 bad usage or input.")
  .action(runInspect);

/** Ends the program as `error` deserves; a stack is for who debugs this program. */
function report(error: unknown): void {
  if (error instanceof CommanderError) {
    process.exitCode = error.exitCode === 0 ? 0 : EXIT.badInput;
    return;
  }
  const message = error instanceof Error ? error.message : String(error);
  if (error instanceof TraceError || error instanceof CostTableError || error instanceof InputError) process.exitCode = EXIT.badInput;
  else if (error instanceof BootError) process.exitCode = EXIT.finding;
  else process.exitCode = EXIT.defect;
  process.stderr.write(`smmu-lab: ${process.exitCode === EXIT.defect ? "internal error: " : ""}${message}\n`);
  if (process.env["SMMU_LAB_DEBUG"] !== undefined && error instanceof Error) process.stderr.write(`${error.stack ?? ""}\n`);
}

// A reader that has seen enough (`| head`) is no error.
process.stdout.on("error", (error: NodeJS.ErrnoException) => {
  if (error.code === "EPIPE") process.exit();
  report(new InputError(`standard output: ${error.message}`));
});

try {
  await program.parseAsync();
} catch (error) {
  report(error);
}
