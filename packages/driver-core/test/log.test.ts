import { expect, test } from "vitest";
import { KernelLog } from "../src/index.ts";

test("messages carry time and level; the oldest are dropped", () => {
  let time = 0;
  const log = new KernelLog(() => time, 3);
  log.info("a");
  time = 10;
  log.err("b");
  log.warn("c");
  expect(log.entries()).toEqual([
    { time: 0, level: "info", text: "a" },
    { time: 10, level: "err", text: "b" },
    { time: 10, level: "warn", text: "c" },
  ]);
  log.debug("d");
  log.err("e");
  expect(log.lines()).toEqual(["c", "d", "e"]);
  expect(log.lines("err")).toEqual(["e"]);
  expect(log.dropped).toBe(2);
  expect(() => new KernelLog(() => 0, 0)).toThrow(RangeError);
});
