import { expect, test } from "vitest";
// @boundaries-ignore the one file that every README test shares
import { readExample } from "../../../tools/checks/readme.ts";
import { bundleForBrowser } from "../bundle.ts";
import { findChromium, runInChromium } from "../chromium.ts";

const MODEL = `${import.meta.dirname}/../../../packages/smmu-v3-model`;
const chromium = findChromium();

test.skipIf(chromium === undefined)("the README example of the model, in headless Chromium", async () => {
  const { code, expected } = readExample(MODEL);
  const run = await runInChromium(chromium!, await bundleForBrowser(code, MODEL));
  expect(run.errors).toEqual([]);
  expect(run.crossOriginIsolated).toBe(false);
  expect(run.result).toEqual(expected);
});
