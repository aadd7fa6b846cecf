// The three recordings of a real machine, read in full and counted a second time by a naive reader.
import { createReadStream, readFileSync } from "node:fs";
import { gunzipSync } from "node:zlib";
import { describe, expect, test } from "vitest";
import type { MapOperation, Operation } from "@smmuv3/dma-workload";
import { extendTrace, streamId, TraceReader } from "@smmuv3/dma-workload";

const TRACES = `${import.meta.dirname}/../data/traces`;
const DEVICES = [1, 2, 3, 4, 5, 6].map((slot) => `0000:00:0${slot}.0`);
const PAGE = 4096;

interface Expected {
  readonly map: number;
  readonly unmap: number;
  readonly attaches: number;
  readonly unmapBeforeRecording: number;
  readonly devices: readonly string[];
}

const CASES: readonly (readonly [string, Expected])[] = [
  ["boot", { map: 740, unmap: 68, attaches: 6, unmapBeforeRecording: 0, devices: DEVICES }],
  ["nvme-4k-read", { map: 6005, unmap: 6005, attaches: 0, unmapBeforeRecording: 1, devices: ["0000:00:01.0", "0000:00:04.0"] }],
  [
    "multi-device",
    { map: 5829, unmap: 5813, attaches: 0, unmapBeforeRecording: 232, devices: [1, 2, 3, 5].map((slot) => `0000:00:0${slot}.0`) },
  ],
];

interface Run {
  readonly lines: readonly string[];
  readonly operations: readonly Operation[];
  readonly reader: TraceReader;
}

async function load(name: string): Promise<Run> {
  const file = `${TRACES}/${name}.ftrace.gz`;
  const lines = gunzipSync(readFileSync(file)).toString("latin1").trimEnd().split("\n");
  const reader = new TraceReader({ name: file });
  const operations: Operation[] = [];
  for await (const batch of reader.readBatches(createReadStream(file))) operations.push(...batch);
  return { lines, operations, reader };
}

/** Lines of `lines` that hold the event `name`. */
const grep = (lines: readonly string[], name: string): string[] => lines.filter((line) => line.includes(`: ${name}: `));

const sum = (counts: Readonly<Record<string, number>>): number => Object.values(counts).reduce((total, count) => total + count, 0);

const isMap = (operation: Operation): operation is MapOperation => operation.kind === "map";

/** One of the device's IOVA pages, as text. */
const pageOf = (device: string, iova: number): string => `${device} ${Math.floor(iova / PAGE)}`;

describe.each(CASES)("%s", (name, expected) => {
  const loaded = load(name);

  test("every map and unmap line is accounted for", async () => {
    const { lines, reader } = await loaded;
    const { summary } = reader;
    expect(grep(lines, "map")).toHaveLength(expected.map);
    expect(grep(lines, "unmap")).toHaveLength(expected.unmap);
    expect(summary.lines).toBe(lines.length);
    expect(summary.skipped).toEqual({});
    expect(summary.maps + sum(summary.skipped)).toBe(expected.map);
    expect(summary.ignored.unmapBeforeRecording ?? 0).toBe(expected.unmapBeforeRecording);
    expect(summary.unmaps).toBe(expected.unmap - expected.unmapBeforeRecording);
    expect(summary.attaches).toBe(expected.attaches);
    expect(summary.devices.toSorted()).toEqual(expected.devices);
    expect(summary).toMatchObject({ impliedUnmaps: 0, incompleteMaps: 0, lostEvents: 0, header: { lost: 0 } });
    expect(summary.events).toMatchObject({ map: expected.map, unmap: expected.unmap });
  });

  test("one operation for each call of the DMA API, with the call's fields", async () => {
    const { lines, operations } = await loaded;
    const calls = operations.filter(isMap).filter(({ api }) => api !== "doorbell");
    const events = lines.filter((line) => /: dma_(map_page|map_sg|alloc): (?!9050000\.smmuv3)/.test(line));
    expect(calls).toHaveLength(events.length);
    calls.forEach((call, i) => {
      const event = events[i]!;
      expect(lines[call.line - 1]).toBe(event);
      expect(event).toContain(`: ${call.device} dir=`);
      expect(event).toMatch(new RegExp(`dma_addr(=|s=\\{0x)${call.iova.toString(16)}[ }]`));
      expect(event).toMatch(call.api === "sg" ? `sizes={0x${call.size.toString(16)}}` : ` size=${call.size} `);
    });
    expect(calls.reduce((count, { mapLines }) => count + mapLines, 0)).toBe(expected.map - (name === "boot" ? 6 : 0));
  });

  test("a device's page is mapped once at a time, and what is unmapped is what was mapped", async () => {
    const { operations, reader } = await loaded;
    const owners = new Map<string, number>();
    const live = new Map<number, MapOperation>();
    for (const operation of operations) {
      if (operation.kind === "attach") continue;
      if (operation.kind === "map") {
        live.set(operation.id, operation);
        for (let at = operation.iova - (operation.iova % PAGE); at < operation.iova + operation.size; at += PAGE) {
          const page = pageOf(operation.device, at);
          expect(owners.get(page)).toBeUndefined();
          owners.set(page, operation.id);
        }
        continue;
      }
      const { id, device, api, iova, size } = operation;
      expect(live.get(id)).toMatchObject({ device, api, iova, size });
      live.delete(id);
      for (let at = iova - (iova % PAGE); at < iova + size; at += PAGE) {
        const page = pageOf(device, at);
        expect(owners.get(page)).toBe(id);
        owners.delete(page);
      }
    }
    expect(live.size).toBe(reader.summary.liveAtEnd);
  });

  test("devices have StreamIDs", async () => {
    const { operations } = await loaded;
    for (const device of new Set(operations.map((operation) => operation.device))) {
      expect(streamId(device)).toBe(Number(device.slice(9, 10)) << 3);
    }
  });
});

test("boot: each device gets one doorbell, by the rule", async () => {
  const { lines, operations } = await load("boot");
  const doorbells = operations.filter(isMap).filter(({ api }) => api === "doorbell");
  expect(doorbells.map(({ device }) => device).toSorted()).toEqual(DEVICES);
  for (const { line } of doorbells) expect(lines[line - 1]).toContain("paddr=0x0000000008090000");
});

test("multi-device, ten times over: a tenfold workload with the working set of one", async () => {
  const { operations } = await load("multi-device");
  const live = new Set<number>();
  let most = 0;
  let maps = 0;
  for (const operation of extendTrace(operations, { times: 10 })) {
    if (operation.kind === "map") {
      live.add(operation.id);
      maps++;
    } else if (operation.kind === "unmap") expect(live.delete(operation.id)).toBe(true);
    most = Math.max(most, live.size);
  }
  expect(maps).toBe(58290);
  expect(most).toBeLessThan(400);
});
