// Every architecture on every shipped trace: data, isolation, and what may and may not be counted.
import { describe, expect, test } from "vitest";
import { ARCHITECTURES } from "@smmuv3/smmu-lab";
import type { RunResult } from "@smmuv3/smmu-lab";
import { PROTECTED, readTraceFile, run, TRACES } from "./runs.ts";

const TRANSLATION = {
  native: "strict",
  "pkvm-unprotected": "strict",
  "single-driver": "identity",
  "three-driver": "identity",
  "kvm-driver": "identity",
  "trap-emulate": "strict",
} as const;

const DRIVER = {
  native: ["arm-smmu-v3"],
  "pkvm-unprotected": ["arm-smmu-v3"],
  "single-driver": ["arm-smmu-v3"],
  "three-driver": ["pkvm-iommu"],
  "kvm-driver": ["kvm-arm-smmu-v3"],
  "trap-emulate": ["arm-smmu-v3.aux"],
} as const;

const afterBoot = (result: RunResult, counter: string): number =>
  (["replay", "check", "isolation", "teardown"] as const).reduce(
    (sum, phase) => sum + (result.counters[phase][counter]?.total ?? 0),
    0,
  );

describe.each(TRACES)("%s", async (traceName) => {
  const trace = await readTraceFile(traceName);

  describe.each(ARCHITECTURES)("%s", async (name) => {
    const [lazy, eager] = await Promise.all([run(name, trace), run(name, trace, { profile: "eager" })]);
    const isProtected = (PROTECTED as readonly string[]).includes(name);

    test("every DMA is right, with caches that keep everything and with none", () => {
      expect(lazy.findings.filter((text) => !text.includes("the VM's page"))).toEqual([]);
      expect(lazy.dma.wrong).toBe(0);
      expect(lazy.dma.ok).toBeGreaterThan(0);
      expect(eager.dma).toEqual(lazy.dma);
      expect(eager.isolation).toEqual(lazy.isolation);
    });

    test("the lazy TLB is used, the eager one never hits", () => {
      expect(lazy.counters.replay["tlb.hits"]?.total).toBeGreaterThan(0);
      expect(eager.counters.replay["tlb.hits"]?.total ?? 0).toBe(0);
    });

    test("its translation class and the driver that registered", () => {
      expect(lazy.status.translation).toBe(TRANSLATION[name]);
      expect(lazy.status.iommus.map(({ driver }) => driver)).toEqual(DRIVER[name]);
      expect(lazy.status.iommuAtEl2).toBe(isProtected);
      expect(lazy.status.warnings).toEqual([]);
    });

    test("after an unmap DMA is refused where the host translates", () => {
      const { faulted } = lazy.dma;
      if (TRANSLATION[name] === "strict") expect(faulted).toBeGreaterThan(0);
      else expect(faulted).toBe(0);
    });

    test("taken pages were reachable, and are out of reach exactly where EL2 owns the SMMU", () => {
      if (name === "native") {
        expect(lazy.isolation).toBeUndefined();
        return;
      }
      const { isolation } = lazy;
      expect(isolation?.pagesTaken).toBeGreaterThan(0);
      expect(isolation?.reachableBefore).toBe(isolation?.pagesTaken);
      if (isProtected) {
        expect(isolation?.dmaLeaked).toBe(0);
        const probes = isolation!.pagesTaken * trace.summary.devices.length * 2;
        expect(isolation?.dmaBlocked).toBe(probes);
        expect(isolation?.stage2Faults).toBe(probes);
      } else expect(isolation?.dmaLeaked).toBeGreaterThan(0);
    });

    test("hypercall designs trap no register access, trap-and-emulate makes no IOMMU hypercall", () => {
      if (name !== "trap-emulate") expect(afterBoot(lazy, "traps.mmio")).toBe(0);
      if (name === "trap-emulate") {
        expect(afterBoot(lazy, "hypercalls.iommu") + (lazy.counters.boot["hypercalls.iommu"]?.total ?? 0)).toBe(0);
        expect(afterBoot(lazy, "traps.mmio")).toBeGreaterThan(0);
      }
    });

    test("nothing panicked and EL1 took no abort", () => {
      expect(lazy.panics).toBe(0);
      expect(lazy.aborts).toBe(0);
    });
  });
});
