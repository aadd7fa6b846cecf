#!/usr/bin/env node
import { readFileSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { Command, CommanderError, InvalidArgumentError, Option } from "commander";
import { SingleBar } from "cli-progress";
import { TraceError } from "@smmuv3/dma-workload";
import { addAttackCommand } from "./attack/command.ts";
import { compare, findings } from "./compare.ts";
import type { Comparison } from "./compare.ts";
import { addFeaturesCommand } from "./features/command.ts";
import { probeFeatures } from "./features/matrix.ts";
import { ARCHITECTURES } from "./lab/architectures.ts";
import { readAttacks } from "./lab/attack-results.ts";
import { benchmark, WORKLOADS } from "./lab/benchmark.ts";
import type { WorkloadName } from "./lab/benchmark.ts";
import { PROFILES } from "./lab/board.ts";
import type { Profile } from "./lab/board.ts";
import { CostTableError, DEFAULT_COSTS, parseCosts } from "./lab/costs.ts";
import type { CostTable } from "./lab/costs.ts";
import { HARDWARE_NAMES } from "./lab/hardware.ts";
import type { HardwareName } from "./lab/hardware.ts";
import { BootError } from "./lab/run.ts";
import { InputError, withPath } from "./lab/trace-file.ts";
import { DOMAINS, namedVariants, VARIANTS } from "./lab/variants.ts";
import type { DomainChoice, Variant } from "./lab/variants.ts";
import { inspect } from "./inspect/index.ts";
import type { InspectOptions } from "./inspect/index.ts";
import { benchmarkJson, benchmarkText } from "./report/benchmark.ts";
import { htmlReport } from "./report/html.ts";
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
const STAGE_WIDTH = Math.max(...[...VARIANTS.keys()].map((name) => name.length));

interface CompareFlags {
  readonly arch: readonly string[];
  readonly domain: DomainChoice;
  readonly hw?: HardwareName;
  readonly workload?: WorkloadName;
  readonly profile: Profile;
  readonly costs?: string;
  readonly attack?: readonly string[];
  readonly json?: string;
  readonly html?: string;
}

function architectureList(text: string): string[] {
  const names = text.split(",").map((name) => {
    const trimmed = name.trim();
    if (namedVariants(trimmed, "both") !== undefined) return trimmed;
    throw new InvalidArgumentError(`"${trimmed}" is none of ${ARCHITECTURES.join(", ")}, nor a variant: ${[...VARIANTS.keys()].filter((one) => one.includes("/")).join(", ")}.`);
  });
  return [...new Set(names)];
}

/** Variants by the names of `--arch`, each once. */
function variantList(names: readonly string[], domain: DomainChoice): readonly Variant[] {
  return [...new Set(names.flatMap((name) => namedVariants(name, domain) ?? []))].filter(
    (variant, i, all) => all.findIndex((other) => other.name === variant.name) === i,
  );
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

/** A file of costs in place of the built-in ones. */
async function costTable(file: string | undefined): Promise<CostTable> {
  return file === undefined ? DEFAULT_COSTS : parseCosts(await withPath(file, () => readFile(file, "utf8")), file);
}

async function runCompare(trace: string | undefined, flags: CompareFlags): Promise<void> {
  const { json, html, hw, workload } = flags;
  const costs = await costTable(flags.costs);
  const variants = variantList(flags.arch, flags.domain);
  if (variants.length === 0) throw new InputError(`--domain ${flags.domain}: none of the architectures has that`);
  const inputs = [trace, flags.costs, ...(flags.attack ?? [])].filter((path) => path !== undefined);
  for (const path of [json, html]) if (path !== undefined && path !== STDOUT) await checkOutput(path, inputs);
  if (workload !== undefined) {
    if (trace !== undefined) throw new InputError(`${trace}: --workload ${workload} needs no trace`);
    if (html !== undefined) throw new InputError("--html: the page of a trace has the workload as well; name a trace instead");
    const report = await withProgress((onProgress) =>
      benchmark({ workload, variants, costs, onProgress, ...(hw === undefined ? {} : { hardware: hw }) }),
    );
    await print(benchmarkText(report), benchmarkJson(report), json);
    return;
  }
  if (trace === undefined) throw new InputError("missing required argument 'trace': a recording, or --workload");
  const comparison = await withProgress(async (onProgress) =>
    compare({
      ...{ trace, architectures: [], variants, costs, onProgress },
      profile: flags.profile,
      hardware: hw ?? "nested",
      attacks: await readAttacks(flags.attack ?? []),
      // Nobody reads the arguments in the tables.
      settle: json !== undefined || html !== undefined,
    }),
  );
  const found = findings(comparison);
  if (found.length > 0) process.exitCode = EXIT.finding;
  if (html !== undefined) await writeOutput(html, await page(comparison, variants, costs));
  await print(comparisonTables(comparison), comparisonJson(comparison), json, found);
}

/** The page of a comparison, with the features and the benchmark of its variants. */
async function page(comparison: Comparison, variants: readonly Variant[], costs: CostTable): Promise<string> {
  return withProgress(async (onProgress) =>
    htmlReport({
      comparison,
      features: await probeFeatures({ variants, onProgress }),
      benchmark: await benchmark({ workload: "dma_map_benchmark", variants, costs, onProgress }),
    }),
  );
}

/** Runs `work` with a progress bar. */
async function withProgress<T>(work: (onProgress: Progress["update"]) => Promise<T>): Promise<T> {
  const bar = progress();
  return work((stage, done, total) => {
    bar.update(stage, done, total);
  }).finally(() => {
    bar.stop();
  });
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

const archOption = (): Option =>
  new Option("--arch <list>", `comma separated, of ${ARCHITECTURES.join(", ")}; or variants: three-driver/paging`)
    .argParser(architectureList)
    .default(ARCHITECTURES, "all");

program
  .command("compare")
  .description("replay a trace under each architecture; print costs, isolation and trusted base side by side")
  .argument("[trace]", "ftrace text with iommu:* and dma:* events, plain or gzipped")
  .addOption(archOption())
  .addOption(
    new Option("--domain <choice>", "hypercall designs behind EL2's identity map, with EL2's paging, or both; strict, fq: all that translate so; all: everything")
      .choices(DOMAINS)
      .default("both"),
  )
  .addOption(new Option("--hw <name>", "the SMMU; a design that does not probe on it is a result (default: nested)").choices(HARDWARE_NAMES))
  .addOption(new Option("--workload <name>", "instead of a trace; by default on an SMMU without range invalidation").choices(WORKLOADS))
  .addOption(
    new Option("--profile <name>", "caches of the SMMU: keep everything, nothing, or what a real one has room for")
      .choices(PROFILES)
      .default("finite"),
  )
  .option("--costs <file>", `JSON object of ns by event, in place of the built-in ones: ${Object.keys(DEFAULT_COSTS).join(", ")}`)
  .option("--attack <file...>", "reports of smmu-lab attack --json, for the arguments that a campaign settles")
  .option("--json <file>", "write the report as JSON too; - prints it instead of the tables")
  .option("--html <file>", "write one self-contained page: tables, charts, features, arguments, benchmark")
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

addFeaturesCommand(program, { progress, print, variants: archOption(), choose: (names) => variantList(names, "both") });
addAttackCommand(program, { progress, finding: EXIT.finding });

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
