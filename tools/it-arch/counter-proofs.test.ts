// Each number of a comparison can change: a seeded mistake moves the one that it should.
import { describe, expect, test } from "vitest";
import { TRANSLATION } from "@smmuv3/platform";
import { applyDefect, ARCHITECTURES, DefectError, loadDefective } from "@smmuv3/smmu-lab";
import type { Defect } from "@smmuv3/smmu-lab";
import { PROTECTED, readTraceFile, run } from "./runs.ts";

const trace = await readTraceFile("boot");

const MISSING_TLBI: Defect = {
  name: "unmap without TLBI",
  level: "el1",
  find: "domain.ops.iotlbSync?.(domain, this);",
  replace: "",
};

const NO_DONATION_UNMAP: Defect = {
  name: "donation leaves the identity map alone",
  level: "el2",
  find: "return this.#tracked?.revoke(pa, pa + size, prot) ?? 0;",
  replace: "return 0;",
};

describe("an SMMU that always aborts", () => {
  test.each(ARCHITECTURES)("%s: no good DMA", async (name) => {
    const aborting = { paLo: 0, paHi: 0, translate: () => TRANSLATION.abort };
    const { dma, isolation } = await run(name, trace, { options: { translator: () => aborting } });
    expect(dma.ok).toBe(0);
    expect(dma.wrong).toBeGreaterThan(0);
    expect(isolation?.reachableBefore ?? 0).toBe(0);
  });
});

describe("an unmap without TLBI", () => {
  test.each(["native", "pkvm-unprotected", "trap-emulate"] as const)("%s: stale DMA where caches keep it", async (name) => {
    const built = await loadDefective(name, [MISSING_TLBI]);
    const lazy = await run(name, trace, { built });
    const eager = await run(name, trace, { built, profile: "eager" });
    expect(lazy.dma.wrong).toBeGreaterThan(0);
    expect(eager.dma.wrong).toBe(0);
  });
});

describe("a donation that skips the SMMU unmap", () => {
  test.each(PROTECTED)("%s: the VM's pages leak", async (name) => {
    const built = await loadDefective(name, [NO_DONATION_UNMAP]);
    const { isolation } = await run(name, trace, { built });
    expect(isolation?.dmaLeaked).toBeGreaterThan(0);
    expect(isolation?.dmaBlocked).toBe(0);
  });
});

describe("defects", () => {
  test("one that does not fit proves nothing, and says so", () => {
    expect(() => applyDefect("a b a", { name: "x", level: "el1", find: "a", replace: "c" })).toThrow(DefectError);
    expect(() => applyDefect("b", { name: "x", level: "el1", find: "a", replace: "c" })).toThrow("occurs 0 times");
  });
});
