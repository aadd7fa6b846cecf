// Mutation testing of one package by its own tests. Usage: pnpm mutation PACKAGE [--mutate GLOB,...] [--concurrency N]
import { Stryker } from "@stryker-mutator/core";
import { parseArgs } from "node:util";
import { join } from "node:path";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    mutate: { type: "string", default: "src/**/*.ts,!src/index.ts" },
    concurrency: { type: "string", default: "2" },
    report: { type: "string", default: "" },
  },
});
const [name] = positionals;
if (name === undefined || !/^[a-z0-9-]+$/u.test(name)) throw new RangeError(`usage: pnpm mutation PACKAGE, got "${name ?? ""}"`);
const home = import.meta.dirname;
process.chdir(join(home, "../../packages", name));
const report = values.report === "" ? join(home, "reports", `${name}.json`) : values.report;
const stryker = new Stryker({
  mutate: values.mutate.split(","),
  testRunner: "vitest",
  plugins: [join(home, "node_modules/@stryker-mutator/vitest-runner/dist/src/index.js")],
  vitest: { configFile: join(home, "vitest.config.ts"), related: false },
  coverageAnalysis: "perTest",
  concurrency: Number(values.concurrency),
  ignoreStatic: true,
  reporters: ["json", "clear-text", ...(process.stderr.isTTY ? ["progress"] : [])],
  jsonReporter: { fileName: report },
  clearTextReporter: { allowColor: false, reportTests: false, logTests: false },
  tempDirName: ".stryker-tmp",
  cleanTempDir: "always",
  checkers: [],
  disableTypeChecks: "src/**/*.ts",
  allowEmpty: true,
  timeoutMS: 20_000,
});
await stryker.runMutationTest();
