// Variants, hardware, the ratio at which designs change places, and the benchmark.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { Ajv2020 } from "ajv/dist/2020.js";
import { describe, expect, test } from "vitest";
import { lintIdr } from "@smmuv3/smmu-v3-model";
import {
  ARCHITECTURES,
  benchmark,
  benchmarkJson,
  benchmarkText,
  CALIBRATION,
  chooseVariants,
  DEFAULT_COSTS,
  flips,
  HARDWARE,
  HARDWARE_NAMES,
  loadVariant,
  namedVariants,
  VARIANTS,
} from "../src/index.ts";
import type { BenchResult } from "../src/index.ts";

const names = (variants: readonly { readonly name: string }[] | undefined): string[] => variants?.map(({ name }) => name) ?? [];

describe("variants", () => {
  test.each([
    ["identity", ["single-driver", "kvm-driver", "native"]],
    ["paging", ["single-driver/paging", "kvm-driver", "native"]],
    ["both", ["single-driver", "single-driver/paging", "kvm-driver", "native"]],
    ["strict", ["single-driver/paging", "native"]],
    ["fq", ["single-driver/fq", "native/fq"]],
    ["all", ["single-driver", "single-driver/paging", "single-driver/fq", "kvm-driver", "native", "native/identity", "native/fq"]],
  ] as const)("%s", (choice, expected) => {
    expect(names(chooseVariants(["single-driver", "kvm-driver", "native", "native"], choice))).toEqual(expected);
  });

  test("by name: an architecture stands for its variants", () => {
    expect(names(namedVariants("three-driver", "both"))).toEqual(["three-driver", "three-driver/paging"]);
    expect(names(namedVariants("three-driver/fq", "identity"))).toEqual(["three-driver/fq"]);
    expect(["kvm-driver/paging", "toString", ""].map((name) => namedVariants(name, "all"))).toEqual([undefined, undefined, undefined]);
  });

  test("names are unique", () => {
    expect(VARIANTS.size).toBe(chooseVariants(ARCHITECTURES, "all").length);
  });

  test("paging has an EL2 of its own, which is larger", async () => {
    const [plain, paging] = [await loadVariant(VARIANTS.get("three-driver")!), await loadVariant(VARIANTS.get("three-driver/paging")!)];
    expect(paging.el2Stats!.lines).toBeGreaterThan(plain.el2Stats!.lines);
    expect(paging.startHypervisor).not.toBe(plain.startHypervisor);
  });
});

test.each(HARDWARE_NAMES)("hardware %s: its ID registers are consistent", (name) => {
  expect(lintIdr(HARDWARE[name].id)).toEqual([]);
});

describe("the ratio at which two designs cost the same", () => {
  const reading = (total: number) => ({ el1: total, el2: 0, device: 0, total });
  const calls = { name: "calls", translation: "strict", counts: { "hypercalls.iommu": reading(2), mmio: reading(1) } } as const;
  const traps = { name: "traps", translation: "strict", counts: { "traps.mmio": reading(1), commands: reading(5) } } as const;
  const costs = { ...DEFAULT_COSTS, "hypercalls.iommu": 100, "traps.mmio": 400, mmio: 50, commands: 10 };

  test("is where both sums are equal", () => {
    // 2 * 100 + 50 = 5 * 10 + 1 * r * 100
    expect(flips([calls, traps], costs)).toEqual([{ translation: "strict", cheaper: "calls", other: "traps", ratio: 2, now: 4 }]);
    expect(flips([calls, traps], { ...costs, "traps.mmio": 100 })[0]).toMatchObject({ cheaper: "traps", other: "calls", ratio: 2, now: 1 });
  });

  test("is nowhere when one is cheaper without its traps too; and not asked across classes, or without traps", () => {
    expect(flips([calls, traps], { ...costs, commands: 100 })[0]).toMatchObject({ cheaper: "calls", ratio: null });
    expect(flips([calls, { ...traps, translation: "fq" }], costs)).toEqual([]);
    expect(flips([calls, { ...calls, name: "twin" }], costs)).toEqual([]);
  });
});

describe("dma_map_benchmark", async () => {
  const variants = ["native", "three-driver", "trap-emulate"].flatMap((name) => namedVariants(name, "both") ?? []);
  const report = await benchmark({ workload: "dma_map_benchmark", variants, costs: DEFAULT_COSTS });
  const at = (variant: string, name: string): BenchResult => report.results.find((one) => one.variant === variant && one.case === name)!;

  test("it is what the schema says", () => {
    const schema = JSON.parse(readFileSync(join(import.meta.dirname, "../schema/benchmark.schema.json"), "utf8")) as object;
    const validate = new Ajv2020({ allErrors: true, strict: true, strictTypes: false, strictRequired: false, allowUnionTypes: true }).compile(schema);
    validate(JSON.parse(JSON.stringify(benchmarkJson(report))));
    expect(validate.errors).toBeNull();
  });

  test("the calibration comes out as published, and only what it is taken from", () => {
    const published = report.published.find((one) => one.case === CALIBRATION)!;
    const [stock, pkvm] = [at("native", CALIBRATION), at("three-driver/paging", CALIBRATION)];
    expect([stock.mapNs, stock.unmapNs, pkvm.mapNs]).toEqual([...published.stockUs, published.pkvmUs[0]].map((us) => expect.closeTo(us * 1000, 6) as number));
    expect(pkvm.mapRatio).toBeCloseTo(published.mapRatio);
  });

  test("a hypercall for each map and unmap, two traps for each unmap, a command for each page without range invalidation", () => {
    const paging = at("three-driver/paging", "4K, 1 thread");
    expect([paging.map["hypercalls.iommu"]?.total, paging.unmap["hypercalls.iommu"]?.total]).toEqual([1, 1]);
    expect(at("trap-emulate", "4K, 4 threads").unmap["traps.mmio"]?.total).toBe(2);
    expect(at("native", "1M, 1 thread").unmap["commands"]?.total).toBe(257);
    expect(at("three-driver", "1M, 4 threads").unmap["commands"]).toBeUndefined();
  });

  test("the ratio that decides between the designs is told for each case", () => {
    const pairs = report.flips.filter(({ cheaper, other }) => [cheaper, other].includes("trap-emulate") && [cheaper, other].includes("three-driver/paging"));
    expect(pairs).toHaveLength(4);
    // Of small mappings it depends on the costs; of large ones emulation sends more commands in any case.
    for (const { case: name, ratio } of pairs) {
      if (name.startsWith("4K")) expect(ratio).toBeGreaterThan(0);
      else expect(ratio).toBeNull();
    }
  });

  test("text: 80 columns", () => {
    expect(benchmarkText(report).split("\n").filter((line) => line.length > 80)).toEqual([]);
  });

  test("hardware that a design cannot have is a result", async () => {
    const { results, doesNotProbe } = await benchmark({ workload: "dma_map_benchmark", variants, costs: DEFAULT_COSTS, hardware: "s2-only" });
    expect(doesNotProbe.map(({ name }) => name)).toEqual(["trap-emulate"]);
    expect(new Set(results.map(({ variant }) => variant))).toEqual(new Set(["native", "three-driver", "three-driver/paging"]));
  });
});
