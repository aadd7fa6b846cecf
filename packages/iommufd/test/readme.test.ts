import { expect, test } from "vitest";
// @boundaries-ignore the one file that every README test shares
import { runReadmeExample } from "../../../tools/checks/readme.ts";

test("README example", async () => {
  const { result, expected } = await runReadmeExample(`${import.meta.dirname}/..`);
  expect(result).toEqual(expected);
});
