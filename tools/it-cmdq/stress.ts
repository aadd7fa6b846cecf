// Stress run of the shared command queue against the SMMU model.
// usage: node stress.ts [--commands N] [--producers N] [--seed N] [--log2 N] [--timeout MS] [--freezes N]
import { parseArgs } from "node:util";
import { runStress } from "./run.ts";

const { values } = parseArgs({
  args: process.argv.slice(2).filter((arg) => arg !== "--"),
  options: {
    commands: { type: "string", default: "10000000" },
    producers: { type: "string", default: "4" },
    seed: { type: "string", default: "1" },
    log2: { type: "string", default: "8" },
    timeout: { type: "string", default: "20" },
    freezes: { type: "string", default: "20" },
  },
});

/** An option that is a whole number. */
function numberOf(name: keyof typeof values): number {
  const value = Number(values[name]);
  if (!Number.isInteger(value) || value < 0) throw new RangeError(`--${name} must be a whole number, got ${values[name]}`);
  return value;
}

const total = numberOf("commands");

const result = await runStress({
  commands: total,
  producers: numberOf("producers"),
  seed: numberOf("seed"),
  log2: numberOf("log2"),
  timeout: numberOf("timeout"),
  freezes: numberOf("freezes"),
  onProgress(commands) {
    if (process.stdout.isTTY) process.stdout.write(`\r${((commands / total) * 100).toFixed(1)} %`);
  },
});
if (process.stdout.isTTY) process.stdout.write("\r");

const { hardware, producers, seconds } = result;
const sum = (name: keyof (typeof producers)[number]): number => producers.reduce((total, report) => total + report[name], 0);
const rows: readonly (readonly [string, number])[] = [
  ["commands", hardware.commands],
  ["lists", hardware.lists],
  ["SYNCs", hardware.syncs],
  ["wraps", hardware.wraps],
  ["queue full, seen by producers", sum("full")],
  ["queue full, timed out", sum("fullTimeouts")],
  ["SYNC timed out", sum("syncTimeouts")],
  ["CERROR_ILL skipped", hardware.illegal],
  ["CERROR_ABT", hardware.aborts],
  ["CERROR_ATC_INV_SYNC", hardware.atcTimeouts],
  ["SMMU frozen", hardware.freezes],
  ["owner published", sum("owned")],
  ["published by another", sum("gathered")],
  ["reservations lost", sum("contended")],
];
for (const [name, value] of rows) process.stdout.write(`${name.padEnd(32)}${String(value).padStart(12)}\n`);
process.stdout.write(`nothing lost, duplicated or reordered in ${seconds.toFixed(1)} s, ${((seconds * 1e6) / hardware.commands).toFixed(2)} us per command\n`);
