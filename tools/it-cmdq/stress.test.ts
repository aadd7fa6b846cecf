import { expect, test } from "vitest";
import { runStress } from "./run.ts";

test.each([
  { producers: 4, seed: 1, log2: 8 },
  { producers: 3, seed: 2, log2: 7 },
  { producers: 1, seed: 3, log2: 9 },
])("$producers producers in threads, seed $seed: nothing lost, duplicated or reordered", async ({ producers, seed, log2 }) => {
  const commands = 100_000;
  const shown: number[] = [];
  const { hardware, producers: reports } = await runStress({
    commands, producers, seed, log2, onProgress: (done) => shown.push(done),
  });
  const sum = (name: "lists" | "syncs" | "illegal" | "full" | "fullTimeouts" | "syncTimeouts" | "owned" | "gathered"): number =>
    reports.reduce((total, report) => total + report[name], 0);
  expect([hardware.commands, hardware.lists, hardware.syncs, hardware.illegal]).toEqual([
    commands, sum("lists"), sum("syncs"), sum("illegal"),
  ]);
  expect(sum("owned") + sum("gathered")).toBe(sum("lists"));
  expect(Math.min(hardware.wraps, hardware.illegal, hardware.aborts, hardware.atcTimeouts, hardware.freezes, sum("full"))).toBeGreaterThan(0);
  expect(sum("syncTimeouts")).toBeGreaterThan(0);
  // One producer alone waits for its SYNC, and cannot fill the queue meanwhile.
  if (producers > 1) expect(sum("fullTimeouts")).toBeGreaterThan(0);
  expect(shown.at(-1)).toBe(commands);
});

test("a producer that fails ends the run", async () => {
  await expect(runStress({ commands: 1000, producers: 2, seed: 1, log2: 5 })).rejects.toThrow("issue: -22");
});
