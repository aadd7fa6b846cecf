// The small parts: phases, costs, StreamIDs, trusted base.
import { describe, expect, test } from "vitest";
import { Counters, LEVEL } from "@smmuv3/platform";
import { PhaseCounters } from "../src/lab/phases.ts";
import {
  applyDefect,
  assignStreams,
  createBoard,
  DEFAULT_COSTS,
  DefectError,
  isArchitecture,
  parseCosts,
  simulatedTime,
  trustedBase,
} from "../src/index.ts";
import type { BuiltArchitecture, BundleStats } from "../src/index.ts";

describe("phases", () => {
  test("each count belongs to the phase in which it was made, by level", () => {
    const counters = new Counters();
    const phases = new PhaseCounters(counters);
    const mmio = counters.id("mmio");
    counters.add(mmio + LEVEL.el1, 5);
    phases.enter("replay");
    counters.add(mmio + LEVEL.el2, 2);
    phases.enter("check");
    // Registered late: it was zero before.
    counters.add(counters.id("late") + LEVEL.device, 7);
    phases.enter("replay");
    counters.add(mmio + LEVEL.el2, 1);
    phases.enter("teardown");
    expect(phases.read("boot")["mmio"]).toEqual({ el1: 5, el2: 0, device: 0, total: 5 });
    expect(phases.read("replay")["mmio"]).toEqual({ el1: 0, el2: 3, device: 0, total: 3 });
    expect(phases.read("check")["late"]).toEqual({ el1: 0, el2: 0, device: 7, total: 7 });
    expect(phases.read("isolation")["mmio"]!.total).toBe(0);
  });
});

describe("costs", () => {
  const reading = (total: number) => ({ el1: total, el2: 0, device: 0, total });

  test("a table replaces what it names", () => {
    expect(parseCosts('{ "mmio": 1, "hypercalls.iommu": 0 }', "f")).toEqual({ ...DEFAULT_COSTS, mmio: 1, "hypercalls.iommu": 0 });
    expect(parseCosts("{}", "f")).toEqual(DEFAULT_COSTS);
  });

  test.each(['{ "mmio": 1e10 }', '{ "mmio": null }', '{ "mmio": [] }', '{ "__proto__": 1 }', "null", "1", "", '{ "MMIO": 1 }'])(
    "%s is none",
    (text) => {
      expect(() => parseCosts(text, "costs.json")).toThrow(/^costs\.json: /);
    },
  );

  test("time is the sum of counts times costs; what is not counted costs nothing", () => {
    const counts = { mmio: reading(10), commands: reading(3), "dma.words": reading(1e6) };
    expect(simulatedTime(counts, { mmio: 150, commands: 40, syncs: 200 })).toBe(1620);
    expect(simulatedTime({}, DEFAULT_COSTS)).toBe(0);
  });
});

describe("StreamIDs", () => {
  test("PCI functions have their RequesterID, others the next free number", () => {
    const devices = ["0000:00:01.0", "0000:01:00.1", "0001:00:01.0", "4000000.ethernet", "0000:01:00.2"];
    expect(assignStreams(devices)).toEqual([
      { device: "0000:00:01.0", streamId: 0x8, node: "0000:00:01.0" },
      { device: "0000:01:00.1", streamId: 0x101, node: "0000:01:00.1" },
      { device: "0001:00:01.0", streamId: 0x103, node: "0000:01:00.3" },
      { device: "4000000.ethernet", streamId: 0x104, node: "0000:01:00.4" },
      { device: "0000:01:00.2", streamId: 0x102, node: "0000:01:00.2" },
    ]);
  });

  test("they go on from 0 behind the last one", () => {
    const ids = assignStreams(["0000:ff:1f.7", "0000:00:00.0", "a", "b"]).map(({ streamId }) => streamId);
    expect(ids).toEqual([0xffff, 0, 1, 2]);
  });

  test("each is one of a kind up to the last, then there are none", () => {
    const devices = Array.from({ length: 65536 }, (_, i) => (i % 2 === 0 ? `dev${i}` : `0000:${(i >> 8).toString(16).padStart(2, "0")}:00.1`));
    const unique = [...new Set(devices)];
    const ids = new Set(assignStreams(unique).map(({ streamId }) => streamId));
    expect(ids.size).toBe(unique.length);
    const tooMany = Array.from({ length: 65537 }, (_, i) => `dev${i}`);
    expect(() => assignStreams(tooMany)).toThrow("65537 devices");
  });

  test("the board's masters send them, by the name of the trace", () => {
    const { masters, deviceNames, firmware } = createBoard({ devices: ["0000:00:02.0", "soc:dma"], profile: "lazy", ramBytes: 2 << 20 });
    expect(masters.get("soc:dma")?.streamId).toBe(0x11);
    expect(deviceNames.get("0000:00:02.1")).toBe("soc:dma");
    expect(firmware.nodes.slice(1).map(({ name, iommus }) => [name, iommus[0]?.id])).toEqual([
      ["0000:00:02.0", 0x10],
      ["0000:00:02.1", 0x11],
    ]);
  });
});

function stats(modules: readonly (readonly [name: string, lines: number])[]): BundleStats {
  const lines = modules.reduce((sum, [, count]) => sum + count, 0);
  const sizes = { lines, statements: lines / 2, bytes: lines * 30, minifiedBytes: lines * 10 };
  return {
    ...sizes,
    exports: [],
    modules: modules.map(([name, count]) => ({ package: name, file: "f.ts", bytesInOutput: count * 30, lines: count, statements: count / 2 })),
  };
}

describe("trusted base", () => {
  const baseline = stats([["@x/hyp", 100], ["@x/arch-a", 10]]);
  const built = (el2Stats?: BundleStats): BuiltArchitecture => ({
    architecture: { name: "b", title: "", posted: true, el1: [], el2: [] },
    bootKernel: () => {
      throw new Error("not booted");
    },
    el1Stats: stats([["@x/table", 50], ["@x/kernel", 500]]),
    ...(el2Stats === undefined ? {} : { el2Stats }),
  });

  test("growth, packages, what is shared and what is new", () => {
    const el2 = stats([["@x/hyp", 120], ["@x/table", 40], ["@x/table", 4], ["@x/arch-b", 10]]);
    expect(trustedBase(built(el2), baseline)).toEqual({
      lines: 174,
      statements: 87,
      bytes: 5220,
      minifiedBytes: 1740,
      growth: { lines: 64, statements: 32, bytes: 1920, minifiedBytes: 640 },
      packages: { "@x/hyp": 120, "@x/table": 44, "@x/arch-b": 10 },
      shared: ["@x/table"],
      added: ["@x/table"],
    });
  });

  test("there is none without EL2, and no growth over itself", () => {
    expect(trustedBase(built(), baseline)).toBeUndefined();
    expect(trustedBase(built(baseline), baseline)).toMatchObject({ growth: { lines: 0 }, added: [] });
  });
});

test("architectures are found by their own names only", () => {
  expect(["native", "trap-emulate", "toString", "Native", ""].map(isArchitecture)).toEqual([true, true, false, false, false]);
});

test("a defect must fit the bundle exactly once", () => {
  const defect = { name: "d", level: "el1", find: "a", replace: "$&c" } as const;
  expect(applyDefect("bab", defect)).toBe("b$&cb");
  expect(() => applyDefect("aba", defect)).toThrow(DefectError);
  expect(() => applyDefect("b", defect)).toThrow("occurs 0 times");
});
