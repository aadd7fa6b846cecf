// The hypercall designs with domains that EL2 keeps, on recorded DMA.
import { describe, expect, test } from "vitest";
import { startHypervisor as singlePaging } from "@smmuv3/arch-single-driver/el2-paging";
import { startHypervisor as threePaging } from "@smmuv3/arch-three-driver/el2-paging";
import type { BootOptions } from "@smmuv3/arch-common";
import { loadArchitecture } from "@smmuv3/smmu-lab";
import type { BuiltArchitecture, RunResult } from "@smmuv3/smmu-lab";
import { readTraceFile, run } from "./runs.ts";
import type { Setup } from "./runs.ts";

const PAGING = { "single-driver": singlePaging, "three-driver": threePaging } as const;
type Name = keyof typeof PAGING;

async function variant(name: Name, options: BootOptions, paging: boolean = true): Promise<BuiltArchitecture> {
  const built = await loadArchitecture(name);
  return {
    ...built,
    bootKernel: (cpu, firmware) => built.bootKernel(cpu, firmware, options),
    ...(paging ? { startHypervisor: PAGING[name] } : {}),
  };
}

async function replay(name: Name, options: BootOptions, setup: Setup = {}, paging?: boolean): Promise<RunResult> {
  const built = await variant(name, options, paging);
  return run(name, await readTraceFile("multi-device"), { built, options: { pagesToTake: 0 }, ...setup });
}

const calls = (result: RunResult): number => result.counters.replay["hypercalls.iommu"]?.total ?? 0;

describe.each(["single-driver", "three-driver"] as const)("%s", (name) => {
  test.each(["strict", "fq"] as const)("%s: every DMA is right, in both cache profiles", async (translation) => {
    const options = { translation, paging: true };
    const [lazy, eager] = [await replay(name, options), await replay(name, options, { profile: "eager" })];
    expect(lazy.status.translation).toBe(translation);
    expect(lazy.status.warnings).toEqual([]);
    expect([lazy.failures, lazy.dma.wrong, lazy.panics, lazy.aborts]).toEqual([[], 0, 0, 0]);
    expect(lazy.dma.ok).toBeGreaterThan(0);
    if (translation === "strict") expect(lazy.dma.faulted).toBe(lazy.dma.ok);
    expect(eager.dma).toEqual(lazy.dma);
    expect(calls(lazy)).toBeGreaterThan(lazy.dma.ok);
    expect(lazy.counters.boot["steBreaks"]?.total ?? 0).toBe(0);
  });

  test.each<[string, BootOptions, boolean]>([
    ["translation is not asked for", { translation: "identity", paging: true }, true],
    ["paging is not asked for", {}, true],
    ["EL2 has no paging", { paging: true }, false],
  ])("identity when %s", async (_why, options, paging) => {
    const result = await replay(name, options, {}, paging);
    expect(result.status.translation).toBe("identity");
    expect(result.status.warnings).toEqual([]);
    expect([result.failures, result.dma.wrong, calls(result)]).toEqual([[], 0, 0]);
  });
});
