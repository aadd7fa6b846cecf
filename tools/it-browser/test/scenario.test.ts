import { describe, expect, test } from "vitest";
import { bundleForBrowser } from "../bundle.ts";
import { findChromium, NOT_RUN, runInChromium } from "../chromium.ts";
import { runScenario } from "../scenario.ts";

const ROUNDS = 16;
const chromium = findChromium();
if (chromium === undefined) console.warn(NOT_RUN);

test("CI has a browser", () => {
  expect(chromium !== undefined || process.env["BROWSER_TEST"] !== "required", NOT_RUN).toBe(true);
});

test("the scenario has what it is for", () => {
  const { accesses, outcomes, events, counters, stale, stateBytes, explanation } = runScenario(ROUNDS);
  expect(accesses).toBe(4 * 64 * ROUNDS);
  expect(outcomes["ok"]).toBeGreaterThan(1000);
  expect(Object.keys(events).sort()).toEqual(["F_PERMISSION", "F_TRANSLATION"]);
  expect(counters["tlb.hits"]).toBeGreaterThan(1000);
  expect(stale[0]).toMatch(/^CMD_TLBI_NH_VA .*ASID=0x1/);
  expect(stateBytes).toBeGreaterThan(1000);
  expect(explanation.join("\n")).toContain("stage 2");
});

test("a bundle for the browser has no Node module in it", async () => {
  await expect(bundleForBrowser(`import { readFileSync } from "node:fs"; export const result = readFileSync;`, import.meta.dirname)).rejects
    .toThrow(/Could not resolve "node:fs"/);
});

describe.skipIf(chromium === undefined)("in headless Chromium, without cross-origin isolation", () => {
  test("the scenario gives what it gives in Node", async () => {
    const entry = `import { runScenario } from "./scenario.ts"; export const result = runScenario(${ROUNDS});`;
    const run = await runInChromium(chromium!, await bundleForBrowser(entry, `${import.meta.dirname}/..`));
    expect(run.errors).toEqual([]);
    expect([run.crossOriginIsolated, run.sharedArrayBuffer]).toEqual([false, "undefined"]);
    expect(run.result).toEqual(JSON.parse(JSON.stringify(runScenario(ROUNDS))));
  });

  test("an error of a module is one", async () => {
    const run = await runInChromium(chromium!, `throw new Error("planted");`);
    expect(run.errors.join()).toContain("planted");
    expect(run.result).toBeUndefined();
  });
});
