import { describe, expect, test } from "vitest";
import type { MapOperation, Operation } from "../src/index.ts";
import { extendTrace, streamId, synthesize } from "../src/index.ts";
import { alloc, attach, bytes, map, mapPage, read, unmap, unmapPage } from "./lines.ts";

/** Replays; fails where an id is used twice, unmapped twice, or an IOVA of a device mapped twice. */
function replay(operations: Iterable<Operation>): { readonly most: number; readonly left: MapOperation[] } {
  const live = new Map<number, MapOperation>();
  const pages = new Set<string>();
  const ids = new Set<number>();
  let most = 0;
  for (const operation of operations) {
    if (operation.kind === "attach") continue;
    const key = `${operation.device} ${operation.iova - (operation.iova % 4096)}`;
    if (operation.kind === "map") {
      expect(ids.has(operation.id)).toBe(false);
      expect(pages.has(key)).toBe(false);
      ids.add(operation.id);
      pages.add(key);
      live.set(operation.id, operation);
      most = Math.max(most, live.size);
    } else {
      expect(live.delete(operation.id)).toBe(true);
      expect(pages.delete(key)).toBe(true);
    }
  }
  return { most, left: [...live.values()] };
}

describe("synthesize", () => {
  test("the same seed gives the same operations, another one does not", () => {
    const options = { devices: ["0000:00:01.0", "0000:00:02.0"], operations: 500, sizes: [4096, 16384], live: 8 };
    expect([...synthesize(options)]).toEqual([...synthesize({ ...options, seed: 12345 })]);
    expect([...synthesize(options)]).not.toEqual([...synthesize({ ...options, seed: 1 })]);
  });

  test("keeps to its working set, and makes what was asked for", () => {
    const operations = [...synthesize({ devices: ["0000:00:01.0", "0000:00:02.0"], operations: 5000, sizes: [4096, 65536], live: 16 })];
    expect(operations.filter(({ kind }) => kind === "attach")).toHaveLength(2);
    expect(operations).toHaveLength(5002);
    const { most } = replay(operations);
    expect(most).toBe(32);
    const sizes = new Set(operations.filter((operation) => operation.kind === "map").map(({ size }) => size));
    expect(sizes).toEqual(new Set([4096, 65536]));
  });

  test.each([
    [{ operations: -1 }, "operations: expected an integer of at least 0, got -1"],
    [{ live: 0 }, "live: expected an integer of at least 1, got 0"],
    [{ devices: [] }, "devices: expected at least one, got none"],
    [{ sizes: [] }, "sizes: expected at least one, got none"],
    [{ sizes: [0] }, "sizes: expected an integer of at least 1, got 0"],
    [{ seed: 0 }, "seed: expected an integer of at least 1, got 0"],
    [{ seed: 2 ** 32 }, "seed: expected 32 bits, got 4294967296"],
    [{ live: 2 ** 21 }, "live: 2097152 mappings of 4096 bytes do not fit below 4 GiB"],
  ])("options %j", (options, message) => {
    expect(() => [...synthesize(options)]).toThrow(new RangeError(message));
  });
});

describe("extendTrace", () => {
  const lines = [
    attach("0000:00:01.0"),
    map(0xfffff000, 0x08090000),
    map(0xffffe000, 0x47eda000), alloc(0xffffe000, 512),
    map(0xffffd000, 0x47edb000), mapPage(0xffffd000, 0x47edb000),
    unmap(0xffffd000), unmapPage(0xffffd000),
  ];

  test("rounds begin with nothing mapped, ids and IOVAs are new", async () => {
    const { operations } = await read([bytes(lines.map((line) => `${line}\n`).join(""))]);
    const long = [...extendTrace(operations, { times: 3 })];
    expect(long.filter(({ kind }) => kind === "attach")).toHaveLength(1);
    const maps = long.filter((operation) => operation.kind === "map");
    expect(maps.map(({ id, api }) => `${id} ${api}`)).toEqual(["1 doorbell", "2 coherent", "3 page", "5 coherent", "6 page", "8 coherent", "9 page"]);
    expect(maps.map(({ iova }) => iova)).toEqual([
      0xfffff000, 0xffffe000, 0xffffd000, 0x1ffffe000, 0x1ffffd000, 0x2ffffe000, 0x2ffffd000,
    ]);
    expect(replay(long)).toMatchObject({ most: 3, left: [{ id: 1 }, { id: 8 }] });
    expect([...extendTrace(operations, { times: 1 })]).toEqual(operations);
  });

  test("IOVAs stay below 48 bits", () => {
    const high = [...synthesize({ operations: 1 })].map((operation) => (operation.kind === "map" ? { ...operation, iova: 2 ** 46 } : operation));
    const iovas = [...extendTrace(high, { times: 5 })].filter((operation) => operation.kind === "map").map(({ iova }) => iova);
    expect(iovas).toEqual([0, 1, 0, 1, 0].map((half) => 2 ** 46 + half * 2 ** 47));
  });

  test("times must be at least 1", () => {
    expect(() => [...extendTrace([], { times: 0 })]).toThrow(RangeError);
  });
});

describe("streamId", () => {
  test.each([["0000:00:01.0", 0x08], ["0000:00:1f.7", 0xff], ["0001:3a:02.1", 0x3a11]])("%s", (device, id) => {
    expect(streamId(device)).toBe(id);
  });

  test.each(["9050000.smmuv3", "", "00:01.0", "0000:00:20.0", "0000:00:01.8", "0000:00:01.0 "])("not %j", (device) => {
    expect(() => streamId(device)).toThrow(new RangeError(`device: expected a PCI name such as 0000:00:01.0, got "${device}"`));
  });
});
