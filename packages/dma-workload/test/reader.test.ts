import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import type { MapOperation, Operation } from "../src/index.ts";
import { readTrace, TraceReader } from "../src/index.ts";
import { alloc, attach, brief, bytes, event, free, gzip, map, mapPage, pieces, read, readLines, expectSummary, unmap, unmapPage } from "./lines.ts";

const NVME = "0000:00:01.0";
const DISK = "0000:00:02.0";
const IOVA = 0xfffdf000;
const PA = 0x42805000;
const excerpt = readFileSync(import.meta.dirname + "/fixtures/boot-excerpt.ftrace", "utf8");

const mapsOf = (operations: readonly Operation[]): MapOperation[] => operations.filter((operation) => operation.kind === "map");

describe("one call", () => {
  test("a page: map, unmap, with the fields of the event", async () => {
    const run = await readLines(map(IOVA, PA), mapPage(IOVA + 0x200, PA + 0x200, 512), unmap(IOVA), unmapPage(IOVA + 0x200, 512));
    const call = { id: 1, device: NVME, api: "page", iova: IOVA + 0x200, size: 512 };
    expect(run.operations).toEqual([
      { kind: "map", ...call, dir: 2, pa: PA + 0x200, segments: undefined, mapLines: 1, line: 2 },
      { kind: "unmap", ...call, line: 4 },
    ]);
    expectSummary(run.summary, { lines: 4, maps: 1, unmaps: 1, skipped: {}, ignored: {}, liveAtEnd: 0, devices: [NVME] });
  });

  test("coherent memory of several map lines; its event comes before the unmap line", async () => {
    const run = await readLines(
      map(IOVA, 0x47e58000),
      map(IOVA + 4096, 0x47e5a000),
      alloc(IOVA, 6726),
      free(IOVA, 6726),
      unmap(IOVA, 8192),
    );
    expect(run.operations).toMatchObject([
      { kind: "map", api: "coherent", dir: 0, pa: 0x47e58000, size: 6726, mapLines: 2 },
      { kind: "unmap", id: 1, api: "coherent" },
    ]);
    expectSummary(run.summary, { maps: 2, unmaps: 1, ignored: {}, liveAtEnd: 0 });
  });

  const list = (printed: string): string =>
    event(`dma_map_sg: 0000:00:05.0 dir=TO_DEVICE ${printed} attrs=`);
  const unlist = event("dma_unmap_sg: 0000:00:05.0 dir=TO_DEVICE phys_addrs={0x41f0a100} attrs=");

  test("a scatter list, as printed", async () => {
    const printed = "nents=2/2 ents=2/2 dma_addrs={0xfff00100,0xfff01000} sizes={0xf00,0x1000} phys_addrs={0x41f0a100,0x51f00000}";
    const run = await readLines(map(0xfff00000, 0x41f0a000), map(0xfff01000, 0x51f00000), list(printed), unlist, unmap(0xfff00000, 8192));
    expect(run.operations).toMatchObject([
      {
        kind: "map",
        api: "sg",
        dir: 1,
        iova: 0xfff00100,
        pa: 0x41f0a100,
        size: 0x1f00,
        mapLines: 2,
        segments: [
          { pa: 0x41f0a100, size: 0xf00 },
          { pa: 0x51f00000, size: 0x1000 },
        ],
      },
      { kind: "unmap", id: 1, api: "sg", size: 0x1f00 },
    ]);
    expectSummary(run.summary, { maps: 2, unmaps: 1, ignored: {} });
  });

  test.each([
    ["the kernel joined its pieces", "nents=2/2 ents=1/1 dma_addrs={0xfff00100} sizes={0x1f00} phys_addrs={0x41f0a100,0x51f00000}", 0x1f00],
    ["the kernel printed half of it", "nents=1/2 ents=1/2 dma_addrs={0xfff00100} sizes={0xf00} phys_addrs={0x41f0a100}", 0x1f00],
    ["a kernel that does not print the numbers", "dma_addrs={0xfff00100} sizes={0x1f00} phys_addrs={0x41f0a100,0x51f00000}", 0x1f00],
  ])("a scatter list: %s", async (_name, printed, size) => {
    const run = await readLines(map(0xfff00000, 0x41f0a000), map(0xfff01000, 0x51f00000), list(printed), unlist, unmap(0xfff00000, 8192));
    const segments = [
      { pa: 0x41f0a100, size: 0xf00 },
      { pa: 0x51f00000, size: 0x1000 },
    ];
    expect(run.operations[0]).toMatchObject({ size, segments, mapLines: 2 });
    expectSummary(run.summary, { maps: 2, unmaps: 1, skipped: {}, ignored: {} });
  });

  test.each(["dma_map_phys", "dma_map_resource"])("%s is read as dma_map_page", async (name) => {
    const run = await readLines(map(IOVA, PA), mapPage(IOVA, PA).replace("dma_map_page", name));
    expect(brief(run)).toEqual([`map 1 page ${NVME}`]);
  });
});

describe("attribution", () => {
  test("equal IOVAs of two devices are two mappings", async () => {
    const run = await readLines(
      map(IOVA, PA), mapPage(IOVA, PA), map(IOVA, PA + 4096), mapPage(IOVA, PA + 4096, 4096, DISK),
      unmap(IOVA), unmapPage(IOVA, 4096, DISK), unmap(IOVA), unmapPage(IOVA),
    );
    expect(brief(run)).toEqual([`map 1 page ${NVME}`, `map 2 page ${DISK}`, `unmap 2 page ${DISK}`, `unmap 1 page ${NVME}`]);
  });

  test("an interrupt between a call's two halves, on the same CPU and in the same task's name", async () => {
    const run = await readLines(
      map(IOVA, PA), map(IOVA, PA + 4096), mapPage(IOVA, PA + 4096, 4096, DISK), unmap(IOVA), unmapPage(IOVA, 4096, DISK), mapPage(IOVA, PA),
    );
    expect(brief(run)).toEqual([`map 1 page ${DISK}`, `unmap 1 page ${DISK}`, `map 2 page ${NVME}`]);
    expect(mapsOf(run.operations).map(({ pa }) => pa)).toEqual([PA + 4096, PA]);
    expect(run.summary.skipped).toEqual({});
  });

  test("two CPUs whose lines alternate, with the same IOVAs", async () => {
    const [zero, one] = [{ pid: 1, cpu: 0 }, { pid: 2, cpu: 1 }];
    const run = await readLines(
      map(IOVA, PA, 4096, zero), map(IOVA, PA + 4096, 4096, one),
      mapPage(IOVA, PA, 4096, NVME, zero), mapPage(IOVA, PA + 4096, 4096, DISK, one),
      unmap(IOVA, 4096, one), unmap(IOVA, 4096, zero),
      unmapPage(IOVA, 4096, NVME, zero), unmapPage(IOVA, 4096, DISK, one),
    );
    expect(brief(run)).toEqual([`map 1 page ${NVME}`, `map 2 page ${DISK}`, `unmap 1 page ${NVME}`, `unmap 2 page ${DISK}`]);
    expect(mapsOf(run.operations).map(({ pa }) => pa)).toEqual([PA, PA + 4096]);
    expectSummary(run.summary, { unmaps: 2, ignored: {} });
  });

  test("two tasks that take turns on one CPU, with the same IOVAs", async () => {
    const [first, second] = [{ pid: 1 }, { pid: 2 }];
    // dma_alloc prints no physical address, so it shows whose line was taken.
    const run = await readLines(
      map(IOVA, PA, 4096, first), map(IOVA, PA + 4096, 4096, second),
      alloc(IOVA, 4096, NVME, first), alloc(IOVA, 4096, DISK, second),
    );
    expect(mapsOf(run.operations).map(({ device, pa }) => [device, pa])).toEqual([[NVME, PA], [DISK, PA + 4096]]);
  });

  test("an older line of the same IOVA, whose event was lost, is not taken with a call's own", async () => {
    const run = await readLines(map(IOVA, PA), map(IOVA + 4096, 0x1000), map(IOVA + 4096, PA + 4096), alloc(IOVA, 8192));
    expect(mapsOf(run.operations)).toMatchObject([{ mapLines: 2, pa: PA }]);
    expectSummary(run.summary, { maps: 2, skipped: { noDmaEvent: 1 }, incompleteMaps: 0 });
  });

  test("a scatter list older than the recording does not end a newer one with the IOVA of an interrupt's page", async () => {
    const list = (text: string): string => event(text.replace("LIST", `${NVME} dir=TO_DEVICE`));
    const run = await readLines(
      map(IOVA, PA, 4096), list(`dma_map_sg: LIST dma_addrs={0x${IOVA.toString(16)}} sizes={0x1000} phys_addrs={0x42805000} attrs=`),
      map(IOVA, 0x1000), mapPage(IOVA, 0x1000, 4096, DISK),
      list("dma_unmap_sg: LIST phys_addrs={0x99999000} attrs="),
      unmap(IOVA), unmapPage(IOVA, 4096, DISK),
    );
    expect(brief(run)).toEqual([`map 1 sg ${NVME}`, `map 2 page ${DISK}`, `unmap 2 page ${DISK}`]);
    expectSummary(run.summary, { unmaps: 1, liveAtEnd: 1 });
  });

  test("a task that moves to another CPU between its two halves", async () => {
    const run = await readLines(
      map(IOVA, PA, 4096, { cpu: 0 }), mapPage(IOVA, PA, 4096, NVME, { cpu: 3 }),
      unmap(IOVA, 4096, { cpu: 1 }), unmapPage(IOVA, 4096, NVME, { cpu: 2 }),
    );
    expectSummary(run.summary, { maps: 1, unmaps: 1, skipped: {}, ignored: {} });
  });

  test("the idle tasks of two CPUs are not one task", async () => {
    const run = await readLines(
      map(IOVA, PA, 4096, { pid: 0, cpu: 0 }), mapPage(IOVA, PA, 4096, NVME, { pid: 0, cpu: 1 }),
    );
    expectSummary(run.summary, { maps: 0, skipped: { noDmaEvent: 1 }, ignored: { dmaMapNoLine: 1 } });
  });

  test("map and unmap lines without an event are counted", async () => {
    const run = await readLines(map(IOVA, PA), unmap(IOVA), map(IOVA + 8192, PA), mapPage(IOVA + 8192, PA));
    expectSummary(run.summary, { maps: 1, unmaps: 0, skipped: { noDmaEvent: 1 }, ignored: { unmapNoDmaEvent: 1 } });
  });

  test("what never gets its event is given up, however long the recording", async () => {
    const lines: string[] = [];
    for (let n = 0; n < 70_000; n++) lines.push(map(0x1000 * (n + 1), PA));
    const run = await readLines(...lines, map(IOVA, PA), mapPage(IOVA, PA));
    expectSummary(run.summary, { maps: 1, skipped: { noDmaEvent: 70_000 } });
  });

  test("a line that waits for thousands of events is given up, one that waits for hundreds is not", async () => {
    const others = (count: number): string[] => Array.from({ length: count }, () => mapPage(0x1000, 0x1000, 4096, DISK));
    const late = await readLines(map(IOVA, PA), ...others(8192), mapPage(IOVA, PA));
    expectSummary(late.summary, { maps: 0, skipped: { noDmaEvent: 1 } });
    const soon = await readLines(map(IOVA, PA), ...others(1024), mapPage(IOVA, PA));
    expectSummary(soon.summary, { maps: 1, skipped: {} });
  });

  test("a device that is not translated has events but no lines", async () => {
    const run = await readLines(mapPage(PA, PA), unmapPage(PA), alloc(PA, 64, "9050000.smmuv3"));
    expect(run.operations).toEqual([]);
    expect(run.summary.ignored).toEqual({ dmaMapNoLine: 1, dmaUnmapNoLine: 1, smmuDriver: 1 });
  });

  test("calls that fail", async () => {
    const run = await readLines(
      map(IOVA, PA), unmap(IOVA),
      event(`dma_map_sg_err: ${NVME} dir=TO_DEVICE dma_addrs={0x42805000} err=-12 attrs=`),
      mapPage(IOVA, PA).replace("dma_addr=fffdf000", "dma_addr=ffffffffffffffff"),
      alloc(0, 64).replace("virt_addr=000000002d7ed464", "virt_addr=0000000000000000"),
    );
    expect(run.operations).toEqual([]);
    expectSummary(run.summary, { maps: 0, skipped: { failedCall: 1 }, ignored: { failedCall: 3, unmapFailedCall: 1 } });
  });
});

describe("doorbells", () => {
  const BELL = 0x08090000;
  const bell = (pid: number): string => map(0xfffff000, BELL, 4096, { pid });
  const [A, B, C] = ["0000:00:01.0", "0000:00:02.0", "0000:00:03.0"];
  const first = (iova: number, device: string, pid: number): string[] => [map(iova, PA, 4096, { pid }), mapPage(iova, PA, 4096, device, { pid })];
  const owners = async (...lines: string[]): Promise<string[]> =>
    mapsOf((await readLines(...lines)).operations).filter(({ api }) => api === "doorbell").map(({ device }) => device);

  test.each([
    ["the task's last attach", [attach(A, { pid: 1 }), attach(B, { pid: 2 }), bell(1), ...first(IOVA, B, 1)], [A]],
    ["the last attach, not the last device named", [attach(A, { pid: 1 }), attach(B, { pid: 1 }), attach(A, { pid: 1 }), bell(1)], [A]],
    ["the task's next event", [attach(A, { pid: 9 }), attach(B, { pid: 9 }), bell(1), ...first(IOVA, C, 2), ...first(IOVA, B, 1)], [B]],
    ["what is left", [attach(A, { pid: 9 }), attach(B, { pid: 9 }), bell(1), bell(2), ...first(IOVA, B, 2)], [B, A]],
    ["the CPU's next event, at the end", [bell(1), ...first(IOVA, C, 2), ...first(IOVA - 4096, A, 3)], [C]],
    ["the same device again after another attach", [attach(A, { pid: 1 }), bell(1), attach(A, { pid: 1 }), bell(1)], [A, A]],
  ])("rule: %s", async (_name, lines, expected) => {
    expect(await owners(...lines)).toEqual(expected);
  });

  test("one that nothing tells is skipped", async () => {
    const run = await readLines(bell(1));
    expectSummary(run.summary, { maps: 0, skipped: { doorbellUnattributed: 1 } });
  });

  test("memory at the doorbell's address, where an event has it", async () => {
    const run = await readLines(bell(1), mapPage(0xfffff000, BELL, 4096, A, { pid: 1 }));
    expect(brief(run)).toEqual([`map 1 page ${A}`]);
    expectSummary(run.summary, { maps: 1, skipped: {} });
  });

  test("other doorbells, by option", async () => {
    const lines = bytes(`${attach(A)}\n${map(0xfffff000, 0xff000000)}\n`);
    const run = await read([lines], { doorbells: [{ base: 0xff000000, size: 4096 }] });
    expect(brief(run)).toEqual([`attach ${A}`, `map 1 doorbell ${A}`]);
    expect((await read([lines])).summary.skipped).toEqual({ noDmaEvent: 1 });
    expect(() => new TraceReader({ doorbells: [{ base: -1, size: 0 }] })).toThrow(RangeError);
  });
});

describe("incomplete recordings", () => {
  test("begun late: unmaps of older mappings", async () => {
    const list = "dma_unmap_sg: 0000:00:05.0 dir=TO_DEVICE phys_addrs={0x41f0a100} attrs=";
    const run = await readLines(unmap(IOVA), unmapPage(IOVA), free(IOVA, 64), unmap(IOVA), event(list), unmap(IOVA), map(IOVA, PA), mapPage(IOVA, PA));
    expect(brief(run)).toEqual([`map 1 page ${NVME}`]);
    expectSummary(run.summary, { maps: 1, unmaps: 0, ignored: { unmapBeforeRecording: 3 }, liveAtEnd: 1 });
  });

  test("cut: a last line without newline that does not parse", async () => {
    const whole = `${map(IOVA, PA)}\n${mapPage(IOVA, PA)}`;
    for (let length = 1; length < whole.length; length++) {
      const { summary } = await read([bytes(`${attach(NVME)}\n${whole.slice(0, length)}`)]);
      const mapLines = summary.events["map"] ?? 0;
      expect(summary.maps + (summary.skipped.noDmaEvent ?? 0)).toBe(mapLines);
    }
    const { summary } = await read([bytes(whole.slice(0, -30))]);
    expectSummary(summary, { maps: 0, skipped: { noDmaEvent: 1 }, ignored: { cutLastLine: 1 } });
    expectSummary((await read([bytes(whole)])).summary, { maps: 1, ignored: {} });
  });

  test("cut in a device's name", async () => {
    const run = await read([bytes(`${attach("0000:00:01.0")}\n${attach("0000:00:0")}`)]);
    expect(brief(run)).toEqual([`attach ${NVME}`]);
    expect(run.summary.ignored).toEqual({ cutLastLine: 1 });
  });

  test("lost events: notes, overwritten entries, an IOVA that is mapped twice, a mapping that lacks a line", async () => {
    const run = await readLines(
      "# entries-in-buffer/entries-written: 10/25   #P:1",
      map(IOVA, PA), mapPage(IOVA, PA),
      "CPU:0 [LOST 23 EVENTS]", "CPU:1 [LOST EVENTS]", "[LINE TOO BIG]",
      map(IOVA, PA + 4096), mapPage(IOVA, PA + 4096),
      map(0xfff01000, PA), alloc(0xfff00000, 8192),
      free(0xfff00000, 8192), unmap(0xfff00000, 8192),
    );
    expect(brief(run)).toEqual([
      `map 1 page ${NVME}`, `unmap 1 page ${NVME}`, `map 2 page ${NVME}`, `map 3 coherent ${NVME}`, `unmap 3 coherent ${NVME}`,
    ]);
    expectSummary(run.summary, {
      maps: 3,
      unmaps: 1,
      impliedUnmaps: 1,
      incompleteMaps: 1,
      lostEvents: 23,
      header: { entriesInBuffer: 10, entriesWritten: 25, lost: 15 },
      ignored: { comment: 1, lostEventsNote: 2, lineTooBig: 1 },
    });
  });

  test("an unmap line that was lost does not keep the mapping", async () => {
    const run = await readLines(map(IOVA, PA), mapPage(IOVA, PA), unmapPage(IOVA));
    expectSummary(run.summary, { operations: { attach: 0, map: 1, unmap: 1 }, unmaps: 0, liveAtEnd: 0, ignored: { dmaUnmapNoLine: 1 } });
  });
});

describe("forms of a line", () => {
  const tasks = [
    "dd", "<idle>", "<...>", "kworker/u4:1", "a b c", "map: IOMMU", "x-1 [000] 1.0: y", "[000]", "- -", "irq/37-nvme0q1", "#comment", "(dd)", "été",
  ];
  test.each(tasks)("task named %s", async (task) => {
    const run = await readLines(map(IOVA, PA, 4096, { task }), mapPage(IOVA, PA, 4096, NVME, { task }));
    expectSummary(run.summary, { maps: 1, skipped: {}, ignored: {} });
  });

  const line = map(IOVA, PA);
  const forms: readonly (readonly [string, string])[] = [
    ["without flags", line.replace("d.h.. ", "")],
    ["with the thread group", line.replace("-207    ", "-207     (    207)")],
    ["with an unknown thread group", line.replace("-207    ", "-207     (-------)")],
    ["with a counting clock", line.replace("8.776852:", "1234:")],
    ["with the padding of trace-cmd report", line.replace("map: ", "map:                  ").replace("d.h.. ", "")],
    ["with the padding trimmed", line.trim()],
    ["with a return before the newline", `${line}\r`],
    ["with fields this package does not know", line.replace(" size=", " new=1 size=")],
    ["on CPU 1023", line.replace("[000]", "[1023]")],
    ["with digits in the flags", line.replace("d.h..", "..s11")],
  ];
  test.each(forms)("%s", async (_name, form) => {
    const run = await readLines(form, mapPage(IOVA, PA, 4096, NVME, { cpu: form.includes("[1023]") ? 1023 : 0 }));
    expectSummary(run.summary, { maps: 1, skipped: {}, ignored: {} });
  });

  test("other lines are counted", async () => {
    const run = await readLines(
      "", "   \t", "# comment", event("sched_switch: prev_comm=dd"), " => iommu_map", event("add_device_to_group: IOMMU: groupID=0 device=x"),
      event(`dma_sync_single_for_cpu: ${NVME} dir=FROM_DEVICE dma_addr=fffdf000 size=64`),
      `# x-1 [000] 1.0: ${map(IOVA, PA)}`,
    );
    expect(run.operations).toEqual([]);
    expect(run.summary.ignored).toEqual({ blank: 2, comment: 2, otherEvent: 1, notAnEvent: 1, noMapping: 2 });
    expect(run.summary.events).toEqual({ add_device_to_group: 1, dma_sync_single_for_cpu: 1 });
  });
});

describe("bytes", () => {
  test("the same operations from text and gzip, in pieces of any size, with any line end", async () => {
    const whole = await read([bytes(excerpt)]);
    expectSummary(whole.summary, { lines: 79, maps: 22, unmaps: 7, attaches: 6, skipped: {}, header: { entriesInBuffer: 1494, entriesWritten: 1494, lost: 0 } });
    for (const data of [bytes(excerpt), gzip(excerpt), bytes(excerpt.replaceAll("\n", "\r\n")), bytes(`\ufeff${excerpt}`)]) {
      for (const size of [1, 7, 100, 4096, 1 << 20]) expect(await read(pieces(data, size))).toEqual(whole);
    }
  });

  test("an asynchronous source", async () => {
    const source = (async function* () {
      for (const piece of pieces(gzip(excerpt), 500)) yield await Promise.resolve(piece);
    })();
    expect(brief(await read(source))).toEqual(brief(await read([bytes(excerpt)])));
  });

  test("readTrace gives the operations alone", async () => {
    const operations: Operation[] = [];
    for await (const operation of readTrace([bytes(excerpt)], { name: "boot" })) operations.push(operation);
    expect(operations).toEqual((await read([bytes(excerpt)])).operations);
  });

  test("the summary can be read on the way", async () => {
    const reader = new TraceReader();
    const lines = [map(IOVA, PA), mapPage(IOVA, PA), map(IOVA - 4096, PA), mapPage(IOVA - 4096, PA)];
    const seen: number[] = [];
    for await (const operation of reader.read(lines.map((line) => bytes(`${line}\n`)))) {
      expect(operation.kind).toBe("map");
      seen.push(reader.summary.maps);
    }
    expect(seen).toEqual([1, 2]);
  });

  test.each([["text", bytes], ["gzip", gzip]] as const)("a consumer that stops closes the source of %s", async (_name, encode) => {
    const data = encode(excerpt.repeat(2000));
    let closed = 0;
    let given = 0;
    const source = function* (): Generator<Uint8Array> {
      try {
        for (const piece of pieces(data, 4096)) {
          given += piece.length;
          yield piece;
        }
      } finally {
        closed++;
      }
    };
    for await (const operation of readTrace(source())) {
      expect(operation.kind).toBe("attach");
      break;
    }
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect(closed).toBe(1);
    expect(given).toBeLessThan(data.length / 2);
  });

  test("errors of the source pass through", async () => {
    const source = function* (): Generator<Uint8Array> {
      yield gzip(excerpt).subarray(0, 100);
      throw new Error("disk gone");
    };
    await expect(read(source())).rejects.toThrow(/^disk gone$/);
  });

  test("memory does not grow with the recording", async () => {
    const block = bytes([map(IOVA, PA), mapPage(IOVA, PA), unmap(IOVA), unmapPage(IOVA)].map((line) => `${line}\n`).join("").repeat(100));
    const blocks = function* (): Generator<Uint8Array> {
      for (let n = 0; n < 1000; n++) yield block;
    };
    const reader = new TraceReader();
    let most = 0;
    for await (const batch of reader.readBatches(blocks())) most = Math.max(most, batch.length);
    expectSummary(reader.summary, { lines: 400_000, maps: 100_000, unmaps: 100_000, liveAtEnd: 0 });
    expect(most).toBeLessThan(1000);
  });
});

describe("the excerpt of a real boot", () => {
  test("devices, doorbells, calls", async () => {
    const run = await read([bytes(excerpt)]);
    expect(run.summary.devices).toEqual(["0000:00:02.0", "0000:00:03.0", "0000:00:06.0", "0000:00:01.0", "0000:00:04.0", "0000:00:05.0"]);
    const bells = mapsOf(run.operations).filter(({ api }) => api === "doorbell");
    expect(bells.map(({ device, line }) => [device, line])).toEqual([
      ["0000:00:02.0", 26], ["0000:00:03.0", 47], ["0000:00:06.0", 46], ["0000:00:01.0", 59], ["0000:00:04.0", 65], ["0000:00:05.0", 67],
    ]);
    expect(run.summary.ignored).toEqual({ comment: 12, smmuDriver: 8, noMapping: 4 });
  });
});
