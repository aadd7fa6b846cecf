// Runs every bench, interleaved with the native baselines where there are some, and prints ratios.
// usage: pnpm bench [--rounds N] [--samples N] [--only REGEX] [--save FILE]
import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { parseArgs } from "node:util";

const root = join(import.meta.dirname, "../..");
const { values } = parseArgs({
  options: {
    rounds: { type: "string", default: "3" },
    samples: { type: "string", default: "1" },
    only: { type: "string", default: "" },
    save: { type: "string" },
  },
});

/** Suites of native baselines, and the benches that print the same rows. */
const SUITES = [
  { suite: "pgtable", script: "packages/io-pgtable-arm-common/bench/pgtable.ts" },
  { suite: "smmu", script: "packages/smmu-v3-model/bench/model.ts" },
  { suite: "cmdq", script: "packages/arm-smmu-v3-common/bench/cmdq.ts" },
] as const;
/** Benches without a native counterpart. */
const ALONE = ["packages/dma-workload/bench/trace.ts", "tools/bench/replay.ts"] as const;

function run(command: string, args: readonly string[]): void {
  const { status } = spawnSync(command, args, { cwd: root, stdio: "inherit" });
  if (status !== 0) process.exit(status ?? 1);
}

const native = spawnSync("cc", ["--version"]).status === 0;
if (!native) process.stdout.write("# no C compiler: the native baselines are left out\n");

for (const { suite, script } of SUITES) {
  process.stdout.write(`\n# ${suite}, Node ${process.version}\n`);
  if (!native) {
    run(process.execPath, [script, values.samples]);
    continue;
  }
  const save = values.save === undefined ? [] : ["--save", values.save];
  const only = values.only === "" ? [] : ["--only", values.only];
  run(process.execPath, [
    "tools/bench/native/compare.mjs", "--rounds", values.rounds, "--samples", values.samples, "--suite", suite,
    ...only, ...save, "--with", `${process.execPath} ${script} ${values.samples}`,
  ]);
}
for (const script of ALONE) {
  process.stdout.write(`\n# ${script}, Node ${process.version}\n`);
  run(process.execPath, [script]);
}
