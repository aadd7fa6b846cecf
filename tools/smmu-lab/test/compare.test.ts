// A comparison as a library gives it: the report, its schema, its findings.
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Ajv2020 } from "ajv/dist/2020.js";
import { afterAll, describe, expect, test } from "vitest";
import type { Translation } from "@smmuv3/arch-common";
import { TRANSLATION } from "@smmuv3/platform";
import type { Translator } from "@smmuv3/platform";
import {
  ARCHITECTURES,
  BootError,
  compare,
  comparisonJson,
  comparisonTables,
  DEFAULT_COSTS,
  findings,
  loadArchitecture,
  operationsOf,
  runArchitecture,
  survey,
} from "../src/index.ts";
import type { ArchitectureReport, CompareOptions, Comparison, RunOptions } from "../src/index.ts";
import { attachText, mapText, smallTrace, strayMapText, unmapText } from "./traces.ts";

const dir = mkdtempSync(join(tmpdir(), "smmu-lab-"));
afterAll(() => {
  rmSync(dir, { recursive: true });
});

function write(name: string, text: string): string {
  const path = join(dir, name);
  writeFileSync(path, text);
  return path;
}

const small = write("small.ftrace", smallTrace());

function options(more: Partial<CompareOptions> = {}): CompareOptions {
  return { trace: small, architectures: ARCHITECTURES, profile: "finite", costs: DEFAULT_COSTS, ...more };
}

const schema = JSON.parse(readFileSync(join(import.meta.dirname, "../schema/compare.schema.json"), "utf8")) as object;
const validate = new Ajv2020({ allErrors: true, strict: true, strictTypes: false, strictRequired: false, allowUnionTypes: true }).compile(schema);

/** What the report looks like to a program that reads it. */
interface Report {
  readonly machine: { readonly ramBytes: number; readonly streamIds: Record<string, number> };
  readonly workload: {
    readonly lines: number;
    readonly maps: number;
    readonly unmaps: number;
    readonly attaches: number;
    readonly skipped: Record<string, number>;
  };
  readonly architectures: {
    name: string;
    counters: Record<string, unknown>;
    readonly operations: Record<string, number>;
    readonly dma: { readonly ok: number; readonly faulted: number; readonly wrong: number };
    readonly isolation: Record<string, number | boolean>;
    readonly simulated: { readonly totalNs: number; readonly perOperationNs: number };
  }[];
}

const toReport = (comparison: Comparison): Report => JSON.parse(JSON.stringify(comparisonJson(comparison))) as Report;

describe("report", async () => {
  const comparison = await compare(options());
  const report = toReport(comparison);

  test("it is what the schema says", () => {
    validate(report);
    expect(validate.errors).toBeNull();
  });

  test.each<readonly [what: string, spoil: (report: Report) => void]>([
    ["unknown architecture", (spoilt) => (spoilt.architectures[0]!.name = "twin")],
    ["counter missing", (spoilt) => delete spoilt.architectures[0]!.counters["mmio"]],
    ["negative count", (spoilt) => (spoilt.workload.skipped["noDmaEvent"] = -1)],
    ["more keys", (spoilt) => Object.assign(spoilt, { more: 1 })],
  ])("the schema refuses: %s", (_, spoil) => {
    const spoilt = structuredClone(report);
    spoil(spoilt);
    expect(validate(spoilt)).toBe(false);
  });

  test("every map: line is replayed or skipped with its reason", () => {
    const lines = smallTrace().split("\n");
    const { maps, unmaps, attaches, skipped } = report.workload;
    expect(skipped).toEqual({ noDmaEvent: 1 });
    expect(maps + 1).toBe(lines.filter((line) => line.includes(" map: ")).length);
    expect({ maps, unmaps, attaches, lines: report.workload.lines }).toEqual({ maps: 12, unmaps: 10, attaches: 3, lines: lines.length - 1 });
  });

  test("every mapping is made, moved data over, unmapped and probed", () => {
    expect(report.architectures.map(({ name }) => name)).toEqual(ARCHITECTURES);
    for (const { operations, dma, isolation, name } of report.architectures) {
      expect({ name, dmaOps: operations["dmaOps"] }).toEqual({ name, dmaOps: 24 });
      expect(dma).toEqual({ ok: 16, faulted: operations["pgtableUnmaps"], wrong: 0 });
      expect(isolation["pagesTaken"]).toBe(name === "native" ? 0 : 16);
      expect(isolation["applicable"]).toBe(name !== "native");
    }
    expect(findings(comparison)).toEqual([]);
  });

  test("a device that is not on PCI has a StreamID of its own", () => {
    expect(report.machine).toEqual({
      ramBytes: 512 << 20,
      streamIds: { "0000:00:01.0": 8, "0000:00:02.0": 16, "4000000.ethernet": 17 },
    });
  });

  test("a counter that has parts keeps its own count", () => {
    expect(report.architectures[0]!.counters["events"]).toEqual({ total: 0, lost: 0, merged: 0 });
  });
});

describe("costs", async () => {
  const native = { architectures: ["native"] } as const;
  const nothing = Object.fromEntries(Object.keys(DEFAULT_COSTS).map((key) => [key, 0]));
  const [usual, free, mmio] = await Promise.all(
    [DEFAULT_COSTS, nothing, { ...nothing, mmio: 7 }].map(async (costs) => toReport(await compare(options({ ...native, costs })))),
  );

  test("they change the simulated time, and nothing else", () => {
    expect(usual!.architectures[0]!.simulated.totalNs).toBeGreaterThan(0);
    expect(free!.architectures[0]!.simulated).toEqual({ totalNs: 0, perOperationNs: 0 });
    const { counters, operations, simulated } = mmio!.architectures[0]!;
    expect(simulated.totalNs).toBe(7 * (counters["mmio"] as number));
    expect(simulated.perOperationNs).toBe(simulated.totalNs / operations["dmaOps"]!);
    expect(counters).toEqual(usual!.architectures[0]!.counters);
  });
});

describe("findings", async () => {
  const { architectures, ...rest } = await compare(options({ architectures: ["pkvm-unprotected", "single-driver"] }));
  const [open, closed] = architectures as [ArchitectureReport, ArchitectureReport];
  const found = (report: ArchitectureReport): string[] => findings({ ...rest, architectures: [report] });
  const withResult = (report: ArchitectureReport, more: Partial<ArchitectureReport["result"]>): ArchitectureReport => ({
    ...report,
    result: { ...report.result, ...more },
  });

  test("leaks where nothing promises isolation are none", () => {
    expect(open.result.isolation!.dmaLeaked).toBeGreaterThan(0);
    expect(found(open)).toEqual([]);
  });

  test.each<readonly [what: string, report: ArchitectureReport, line: string]>([
    ["leak", withResult(closed, { isolation: { ...closed.result.isolation!, dmaLeaked: 3 } }), "single-driver: 3 DMA leaks"],
    ["wrong DMA", withResult(open, { dma: { ok: 1, faulted: 1, wrong: 2 } }), "pkvm-unprotected: 2 wrong DMA"],
    [
      "page out of reach from the start",
      withResult(open, { isolation: { ...open.result.isolation!, reachableBefore: 15 } }),
      "pkvm-unprotected: 1 pages were not reachable before they were taken",
    ],
    [
      "hand-over failed",
      withResult(closed, { status: { ...closed.result.status, iommuAtEl2: false } }),
      "single-driver: EL2 does not own the SMMU after boot",
    ],
    ["failure", withResult(closed, { failures: ["EL2 panic: x"], findings: ["EL2 panic: x"] }), "single-driver: 1 failures"],
  ])("%s", (_, report, line) => {
    const lines = found(report);
    expect(lines[0]).toBe(line);
    expect(lines.slice(1)).toEqual(report.result.findings.map((text) => `  ${text}`));
  });

  test("an SMMU that refuses everything is found under every architecture", async () => {
    const abort: Translator = { paLo: 0, paHi: 0, translate: () => TRANSLATION.abort };
    const comparison = await compare(options({ run: { translator: () => abort } }));
    for (const name of ARCHITECTURES) expect(findings(comparison).some((line) => line.startsWith(`${name}: `))).toBe(true);
  });
});

describe("a run that ends early", () => {
  const runOptions: RunOptions = { devices: ["0000:00:01.0"], profile: "lazy", ramBytes: 64 << 20, pagesToTake: 2, operations: 4 };

  test("what the kernel throws is a failure with the line of the trace", async () => {
    const trace = write("four.ftrace", (mapText() + unmapText()).repeat(2));
    const built = await loadArchitecture("native");
    const result = await runArchitecture(
      {
        ...built,
        bootKernel: (cpu, firmware) => {
          const port = built.bootKernel(cpu, firmware);
          port.dmaUnmap = () => {
            throw new Error("BUG");
          };
          return port;
        },
      },
      operationsOf(trace),
      runOptions,
    );
    expect(result.failures).toEqual(["the run stopped at trace line 4: BUG"]);
    expect(result.dmaOps).toBe(2);
    expect(result.isolation).toBeUndefined();
  });

  test("a kernel that does not boot is named", async () => {
    const built = await loadArchitecture("native");
    const dead = (): never => {
      throw new Error("no memory");
    };
    const run = runArchitecture({ ...built, bootKernel: dead }, [], runOptions);
    await expect(run).rejects.toThrow(BootError);
    await expect(run).rejects.toThrow("native: does not boot: no memory");
  });

  test("a trace that changes while it is read", async () => {
    const trace = write("growing.ftrace", mapText() + unmapText());
    let grown = false;
    const comparison = compare(
      options({
        trace,
        architectures: ["native"],
        run: {
          onBoard: () => {
            if (!grown) writeFileSync(trace, (mapText() + unmapText()).repeat(2));
            grown = true;
          },
        },
      }),
    );
    await expect(comparison).rejects.toThrow(`${trace}: changed while it was read`);
  });
});

describe("survey", () => {
  test("devices, operations and progress", async () => {
    const seen: number[] = [];
    const { devices, operations, ramBytes } = await survey(small, (done, total) => seen.push(done, total));
    expect(devices).toEqual(["0000:00:01.0", "0000:00:02.0", "4000000.ethernet"]);
    expect(operations).toBe(3 + 12 + 10);
    expect(ramBytes).toBe(512 << 20);
    const size = smallTrace().length;
    expect(seen).toEqual([size, size]);
  });

  test.each([
    [1, 512],
    [4, 1280],
    [14, 3840],
  ])("%i mappings of 128 MiB at a time: %i MiB of RAM", async (count, mib) => {
    const mappings = Array.from({ length: count }, (_, i) => ({ iova: 2 ** 40 + i * 2 ** 28, pa: 2 ** 40, size: 2 ** 27 }));
    const text = mappings.map(mapText).join("") + mappings.map(unmapText).join("") + mappings.map((one) => mapText(one) + unmapText(one)).join("");
    expect((await survey(write("large.ftrace", text))).ramBytes).toBe(mib * 2 ** 20);
  });

  test("attaches alone are nothing to replay", async () => {
    const trace = write("attach.ftrace", attachText("0000:00:01.0") + strayMapText(0x1000));
    await expect(survey(trace)).rejects.toThrow(`${trace}:2: no DMA mapping to replay`);
  });
});

describe("tables", async () => {
  const comparison = await compare(options());

  /** The first `most` architectures in one class, with counts of `value`. */
  function inOneClass(translation: Translation, value: number, most: number = Infinity): Comparison {
    const architectures = comparison.architectures.slice(0, most).map((report) => ({
      ...report,
      result: { ...report.result, dmaOps: value, status: { ...report.result.status, translation } },
    }));
    return { ...comparison, trace: "t".repeat(200), architectures };
  }

  test.each(["strict", "fq", "identity"] as const)("all architectures in class %s fit 80 columns, however large the numbers", (translation) => {
    const text = comparisonTables(inOneClass(translation, 123_456_789));
    expect(text.split("\n").filter((line) => line.length > 80)).toEqual([]);
    expect(text).toContain(" 123,456,789 ");
    const five = comparisonTables(inOneClass(translation, 123_456_789, 5));
    expect(five.split("\n").filter((line) => line.length > 80)).toEqual([]);
    expect(five).toContain(" 123.5M ");
    expect(text.match(new RegExp(`^${translation}: `, "gm"))).toHaveLength(1);
  });

  test("no text is cut, but the name of the trace", () => {
    const lines = comparisonTables(inOneClass("strict", 1)).split("\n");
    expect(lines.filter((line) => line.includes("…"))).toEqual([lines[0]]);
  });
});
