// The campaign finds what it is there for: every seeded defect, from fixed seeds.
import { describe, expect, test } from "vitest";
import { bundleText, runCampaign, SEEDED_DEFECTS, TARGETS } from "@smmuv3/smmu-lab";
import type { SeededDefect, TargetName } from "@smmuv3/smmu-lab";

/** Operations and schedules in which each is found. */
const OPS = 100_000;
const SCHEDULES = 5000;

/** Races with a window of a step or two: the explorer meets them, but not within {@link SCHEDULES} of every seed. */
const SELDOM: ReadonlySet<string> = new Set(["unuse-before-tlbi", "domain-lock-missing"]);

/** One architecture in the short form, another one for each defect so that all are used. */
function some({ architectures }: SeededDefect, index: number): TargetName {
  return architectures[index % architectures.length]!;
}

test("names are unique, and every architecture has some", () => {
  expect(new Set(SEEDED_DEFECTS.map(({ name, architectures }) => `${name} ${architectures.join()}`)).size).toBe(SEEDED_DEFECTS.length);
  for (const target of TARGETS.filter((name) => name !== "pkvm-unprotected")) {
    expect(SEEDED_DEFECTS.filter(({ architectures }) => architectures.includes(target)).length, target).toBeGreaterThan(20);
  }
});

test.each(SEEDED_DEFECTS.flatMap((defect) => defect.architectures.map((target) => [defect.name, target, defect] as const)))(
  "%s fits %s",
  async (_name, target, { find, level }) => {
    expect((await bundleText(target, level)).split(find).length - 1).toBe(1);
  },
);

describe("found", () => {
  const often = SEEDED_DEFECTS.filter(({ name }) => !SELDOM.has(name));
  test.each(often.map((defect, index) => [defect.name, some(defect, index), defect] as const))("%s in %s", async (_name, architecture, defect) => {
    const { findings } = await runCampaign({
      ...{ architecture, defects: [defect], seed: 1, firstOnly: true, minimise: false },
      ops: defect.needs === "sequence" ? OPS : 0,
      schedules: defect.needs === "schedule" ? SCHEDULES : 0,
    });
    expect(findings.length).toBe(1);
  });
});
