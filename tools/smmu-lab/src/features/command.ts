import { InvalidArgumentError, Option } from "commander";
import type { Command } from "commander";
import { InputError } from "../lab/trace-file.ts";
import type { Variant } from "../lab/variants.ts";
import { featuresJson, featuresText } from "../report/features.ts";
import { checkOutput } from "../report/output-file.ts";
import { FEATURES } from "./index.ts";
import { probeFeatures } from "./matrix.ts";

/** What the command needs of the program that it is a part of. */
export interface FeatureTools {
  /** A bar on a terminal, nothing elsewhere. */
  readonly progress: () => { update(stage: string, done: number, total: number): void; stop(): void };
  readonly print: (text: string, report: unknown, json: string | undefined) => Promise<void>;
  /** Variants that `--arch` may name. */
  readonly variants: Option;
  /** What the option gave, as variants. */
  readonly choose: (names: readonly string[]) => readonly Variant[];
}

interface FeatureFlags {
  readonly arch: readonly string[];
  readonly json?: string | true;
  readonly explain?: readonly string[];
}

const STDOUT = "-";

function rowIds(text: string, before: readonly string[] = []): readonly string[] {
  const ids = text.split(",").map((id) => id.trim());
  for (const id of ids) {
    if (!FEATURES.some((feature) => feature.id === id)) {
      throw new InvalidArgumentError(`"${id}" is none of ${FEATURES.map((feature) => feature.id).join(", ")}.`);
    }
  }
  return [...before, ...ids];
}

async function run(flags: FeatureFlags, tools: FeatureTools): Promise<void> {
  const json = flags.json === true ? STDOUT : flags.json;
  if (json !== undefined && json !== STDOUT) await checkOutput(json, []);
  const variants = tools.choose(flags.arch);
  if (variants.length === 0) throw new InputError("--arch: no architecture");
  const { explain = [] } = flags;
  const bar = tools.progress();
  const rows = await probeFeatures({
    variants,
    // Only what was asked for: the other rows cost time.
    features: explain.length === 0 ? FEATURES : FEATURES.filter(({ id }) => explain.includes(id)),
    onProgress: (variant, done, total) => { bar.update(variant, done, total); },
  }).finally(() => { bar.stop(); });
  await tools.print(featuresText(rows, explain), featuresJson(rows), json);
}

/** Adds the `features` command. */
export function addFeaturesCommand(program: Command, tools: FeatureTools): void {
  program
    .command("features")
    .description("probe what works under each architecture: a row a feature, every cell a probe that ran")
    .addOption(tools.variants)
    .option("--json [file]", "write the report as JSON too; without a file, or with -, print it instead of the table")
    .addOption(new Option("--explain <row>", "probe these rows only (comma separated ids), and tell the evidence").argParser(rowIds))
    .addHelpText("after", `\nRows: ${FEATURES.map(({ id }) => id).join(", ")}.`)
    .action((flags: FeatureFlags) => run(flags, tools));
}
