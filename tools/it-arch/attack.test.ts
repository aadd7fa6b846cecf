// The attack campaign itself: what is protected is not breached, what is not is, and a report can be trusted.
import { describe, expect, test } from "vitest";
import { attackJson, loadTarget, mergeReports, replayAttack, reportOf, runCampaign, TARGETS } from "@smmuv3/smmu-lab";
import type { CampaignReport, TargetName } from "@smmuv3/smmu-lab";

const SEED = 1;
const UNPROTECTED = "pkvm-unprotected";
const OPS = 12_000;
const SCHEDULES = 400;

const protectedTargets = TARGETS.filter((name) => name !== UNPROTECTED);

/** What two runs of the same campaign have in common: everything but how long they took. */
function comparable(report: CampaignReport): unknown {
  return JSON.parse(JSON.stringify(attackJson(report)));
}

describe("a short campaign", () => {
  test.each(protectedTargets)("%s: nothing is found, and every class has hit something", async (architecture) => {
    const report = await runCampaign({ architecture, ops: OPS, schedules: SCHEDULES, seed: SEED });
    expect(report.findings).toEqual([]);
    expect([report.operations >= OPS, report.schedules]).toEqual([true, SCHEDULES]);
    for (let i = 1; i <= 22; i++) expect(report.coverage[`a${i}`]?.attempted, `a${i}`).toBeGreaterThan(0);
    expect(report.coverage["traffic"]?.accepted).toBeGreaterThan(OPS / 50);
  });

  test(`${UNPROTECTED} is breached`, async () => {
    const { findings } = await runCampaign({ architecture: UNPROTECTED, ops: 2000, schedules: 0, seed: SEED });
    expect(findings.map(({ kind, invariant }) => `${kind} ${invariant}`)).toContain("breach I1");
  });
});

describe("a finding", () => {
  test("its script is short, and leads there again", async () => {
    const { findings } = await runCampaign({ architecture: UNPROTECTED, ops: 1000, schedules: 0, seed: SEED });
    const [{ script, kind, invariant, text }] = findings as [(typeof findings)[number]];
    expect(script.length).toBeLessThan(6);
    expect(replayAttack(await loadTarget(UNPROTECTED), script)).toMatchObject({ kind, invariant, text });
  });
});

describe("shards", () => {
  test.each<readonly [TargetName, number, number]>([
    [UNPROTECTED, 4500, 150],
    ["single-driver", 4500, 150],
  ])("%s: joined, they are the whole campaign", async (architecture, ops, schedules) => {
    const campaign = { architecture, ops, schedules, seed: SEED };
    const whole = await runCampaign(campaign);
    const parts: CampaignReport[] = [];
    for (const index of [3, 1, 2]) parts.push(await runCampaign({ ...campaign, shard: { index, count: 3 } }));
    expect(comparable(mergeReports(parts))).toEqual(comparable(whole));
    const read = parts.map((part) => reportOf(comparable(part))!);
    expect(comparable(mergeReports(read))).toEqual(comparable(whole));
  });

  test("parts of different campaigns, or one part twice, are refused", async () => {
    const run = (seed: number): Promise<CampaignReport> =>
      runCampaign({ architecture: "single-driver", ops: 10, schedules: 0, seed, shard: { index: 1, count: 2 } });
    const one = await run(1);
    expect(() => mergeReports([one, one])).toThrow("shard 1/2 is there twice");
    const other = await run(2);
    expect(() => mergeReports([one, other])).toThrow("different campaigns");
    expect(() => mergeReports([])).toThrow("nothing to merge");
  });
});

test("another seed is another campaign; the same seed is the same one", async () => {
  const run = async (seed: number): Promise<unknown> =>
    comparable(await runCampaign({ architecture: "trap-emulate", ops: 1500, schedules: 50, seed }));
  const [a, b, c] = [await run(7), await run(7), await run(8)];
  expect(a).toEqual(b);
  expect(a).not.toEqual(c);
});
