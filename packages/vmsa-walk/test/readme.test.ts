import { expect, test } from "vitest";
import { runReadmeExample } from "../../../tools/checks/readme.ts";

test("README example", async () => {
  const { result, expected } = await runReadmeExample(import.meta.dirname + "/..");
  expect(result).toEqual(expected);
});
