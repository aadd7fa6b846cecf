// Isolation where EL2 translates for the host: a mapped page cannot be taken; unmapped it can, and is out of reach.
import { describe, expect, test } from "vitest";
import { HARDWARE, loadDefectiveVariant, loadVariant, VARIANTS } from "@smmuv3/smmu-lab";
import type { Defect } from "@smmuv3/smmu-lab";
import { readTraceFile, run } from "./runs.ts";

const trace = await readTraceFile("multi-device");

/** EL2 forgets that a page is in use. */
const NO_REFERENCES: readonly Defect[] = [
  { name: "a map takes no reference", level: "el2", find: "return core.pinPages(pa, size, owner, PAGE_STATE.owned);", replace: "return 0;" },
  { name: "an unmap drops none", level: "el2", find: "function unuseDma({ cpu, states }, pa, size) {", replace: "function unuseDma({ cpu, states }, pa, size) {\n  return;" },
];

describe.each(["single-driver/paging", "three-driver/paging", "single-driver/fq", "three-driver/fq"])("%s", (name) => {
  const variant = VARIANTS.get(name)!;

  test("every page is refused while it is mapped, and out of reach once it was taken", async () => {
    const result = await run(variant.architecture, trace, { built: await loadVariant(variant) });
    const { isolation } = result;
    expect(result.failures).toEqual([]);
    expect(result.dma.wrong).toBe(0);
    expect(isolation?.pagesTaken).toBeGreaterThan(0);
    expect(isolation).toMatchObject({
      reachableBefore: isolation!.pagesTaken,
      donationsRefused: isolation!.pagesTaken,
      dmaLeaked: 0,
      dmaBlocked: isolation!.pagesTaken * trace.summary.devices.length * 2,
    });
  });
});

test.each(["nested", "s2-only"] as const)("without its references EL2 gives away pages that devices reach: %s", async (hardware) => {
  const variant = VARIANTS.get("three-driver/paging")!;
  const built = await loadDefectiveVariant(variant, NO_REFERENCES);
  const { isolation } = await run(variant.architecture, trace, { built, options: { hardware: HARDWARE[hardware] } });
  expect(isolation?.donationsRefused).toBe(0);
  expect(isolation?.dmaLeaked).toBeGreaterThan(0);
});
