import { describe, expect, test } from "vitest";
import { Counters, LEVEL } from "../src/index.ts";

describe("Counters", () => {
  test("a name has one id", () => {
    const counters = new Counters();
    const mmio = counters.id("mmio");
    const syncs = counters.id("syncs");
    expect(counters.id("mmio")).toBe(mmio);
    expect(syncs).not.toBe(mmio);
    expect(counters.names()).toEqual(["mmio", "syncs"]);
  });

  test("levels of a counter are separate, and do not reach into the next counter", () => {
    const counters = new Counters();
    const first = counters.id("first");
    const second = counters.id("second");
    counters.add(first + LEVEL.el1, 1);
    counters.add(first + LEVEL.el2, 20);
    counters.add(first + LEVEL.device, 300);
    counters.add(first + LEVEL.device, 4000);
    counters.add(second + LEVEL.el1, 5);
    expect(counters.read("first")).toEqual({ el1: 1, el2: 20, device: 4300, total: 4321 });
    expect(counters.read("second")).toEqual({ el1: 5, el2: 0, device: 0, total: 5 });
  });

  test("an id without a level counts for EL1; hot paths may add to the array themselves", () => {
    const counters = new Counters();
    const id = counters.id("commands");
    counters.add(id, 2);
    counters.values[id + LEVEL.el2]! += 3;
    expect(counters.read("commands")).toMatchObject({ el1: 2, el2: 3, total: 5 });
  });

  test("reading a name does not register it", () => {
    const counters = new Counters(1);
    expect(counters.read("nobody")).toEqual({ el1: 0, el2: 0, device: 0, total: 0 });
    expect(counters.names()).toEqual([]);
    counters.id("only");
    expect(counters.read("nobody").total).toBe(0);
  });

  test("a full table refuses new names and keeps the old", () => {
    const counters = new Counters(2);
    const one = counters.id("one");
    counters.id("two");
    expect(() => counters.id("three")).toThrow(new RangeError('Counters: no room for "three"'));
    expect(counters.id("one")).toBe(one);
    expect(counters.names()).toEqual(["one", "two"]);
  });

  test("reset clears values and keeps names and ids", () => {
    const counters = new Counters();
    const id = counters.id("mmio");
    counters.add(id + LEVEL.el2, 7);
    counters.reset();
    expect(counters.read("mmio").total).toBe(0);
    expect(counters.id("mmio")).toBe(id);
    expect(counters.names()).toEqual(["mmio"]);
  });

  test("counts beyond 2^32", () => {
    const counters = new Counters();
    const id = counters.id("bytes");
    counters.add(id, 2 ** 40);
    counters.add(id, 1);
    expect(counters.read("bytes").total).toBe(2 ** 40 + 1);
  });
});
