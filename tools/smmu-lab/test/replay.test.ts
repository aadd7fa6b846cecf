// The judge itself: each kind of wrong DMA is found, and right DMA is not blamed.
import { describe, expect, test } from "vitest";
import { ERRNO, PAGE_SIZE } from "@smmuv3/platform";
import type { MapOperation } from "@smmuv3/dma-workload";
import { PhaseCounters } from "../src/lab/phases.ts";
import { Replay } from "../src/lab/replay.ts";
import { fakes, mapOp, OTHER, unmapOp } from "./fakes.ts";
import type { Fakes } from "./fakes.ts";

interface Bench extends Fakes {
  readonly replay: Replay;
}

function bench(): Bench {
  const all = fakes();
  return { ...all, replay: new Replay(all.board, all.port, new PhaseCounters(all.board.counters)) };
}

const SEGMENTS = [{ pa: 0x4280_0e00, size: 0x200 }, { pa: 0x4290_0000, size: 2 * PAGE_SIZE }];

describe("right DMA", () => {
  test.each<readonly [what: string, op: Partial<MapOperation>, ok: number, faulted: number]>([
    ["both ways", { dir: 0 }, 2, 1],
    ["the device reads", { dir: 1 }, 1, 1],
    ["the device writes", { dir: 2 }, 1, 1],
    ["bytes in the middle of a page", { dir: 0, pa: 0x4280_01f9, size: 17 }, 2, 1],
    ["across pages", { dir: 0, pa: 0x4280_0ffc, size: 2 * PAGE_SIZE }, 2, 1],
    ["scatter list", { dir: 0, api: "sg", segments: SEGMENTS }, 4, 2],
    ["coherent memory", { api: "coherent", size: 6726 }, 2, 1],
    ["doorbell, wherever the trace's machine had it", { api: "doorbell", pa: 0x0802_0000 }, 1, 1],
    ["device that is not on PCI", { device: OTHER }, 2, 1],
  ])("%s", (_, more, ok, faulted) => {
    const { replay, port } = bench();
    const op = mapOp(1, more);
    replay.step(op);
    replay.step(unmapOp(op));
    expect(replay.findings).toEqual([]);
    expect(replay.tally).toEqual({ ok, faulted, wrong: 0 });
    expect(replay.dmaOps).toBe(2);
    expect(port.allocatedBytes).toBe(0);
  });

  test("what is mapped at the end is unmapped and checked; attaches and strangers' unmaps are passed over", () => {
    const { replay, port } = bench();
    replay.step({ kind: "attach", device: OTHER, line: 1 });
    for (const id of [1, 2, 3]) replay.step(mapOp(id));
    replay.step(unmapOp(mapOp(9)));
    expect(replay.live).toBe(3);
    replay.finish();
    expect(replay.live).toBe(0);
    expect(replay.tally).toEqual({ ok: 6, faulted: 3, wrong: 0 });
    expect(port.allocatedBytes).toBe(0);
  });

  test("identity: nothing is expected to be refused", () => {
    const { replay, port, iommu } = bench();
    Object.assign(port.status, { translation: "identity" });
    iommu.open = true;
    replay.step(mapOp(1));
    replay.finish();
    expect(replay.tally).toEqual({ ok: 2, faulted: 0, wrong: 0 });
  });
});

describe("wrong DMA", () => {
  test("one word of the data changes before the device reads it", () => {
    const { replay, port } = bench();
    port.onMap = (pa) => {
      port.store32(pa + 64, port.load32(pa + 64) ^ 1);
    };
    replay.step(mapOp(1, { dir: 1, size: 256 }));
    expect(replay.tally).toEqual({ ok: 0, faulted: 0, wrong: 1 });
    expect(replay.findings).toEqual(["0000:00:01.0: trace line 1: read"]);
  });

  test.each([
    ["beside it in the page", 1024],
    ["of it", 64],
  ])("a word %s changes while the device writes", (_, offset) => {
    const { replay, port } = bench();
    replay.step(mapOp(1, { dir: 2, size: 256 }));
    const pa = port.allocPages(PAGE_SIZE) - PAGE_SIZE;
    port.store32(pa + offset, ~port.load32(pa + offset));
    replay.finish();
    expect(replay.tally).toEqual({ ok: 0, faulted: 1, wrong: 1 });
  });

  test("a device that only reads changes memory", () => {
    const { replay, port } = bench();
    replay.step(mapOp(1, { dir: 1 }));
    const pa = port.allocPages(PAGE_SIZE) - PAGE_SIZE;
    port.store32(pa, 0);
    replay.finish();
    expect(replay.tally).toEqual({ ok: 1, faulted: 1, wrong: 1 });
    expect(replay.findings).toEqual(["0000:00:01.0: trace line 1: memory changed by a read"]);
  });

  test("another page answers", () => {
    const { replay, port, iommu } = bench();
    port.onMap = (pa) => {
      iommu.redirected = pa / PAGE_SIZE;
      iommu.target = pa / PAGE_SIZE + 16;
    };
    replay.step(mapOp(1, { dir: 1 }));
    expect(replay.tally).toEqual({ ok: 0, faulted: 0, wrong: 1 });
  });

  test.each([1, 2] as const)("direction %i: DMA is answered after the unmap, and harms nothing", (dir) => {
    const { replay, port, iommu } = bench();
    iommu.open = true;
    replay.step(mapOp(1, { dir }));
    const pa = port.allocPages(PAGE_SIZE) - PAGE_SIZE;
    replay.step(unmapOp(mapOp(1)));
    expect(replay.tally).toEqual({ ok: 1, faulted: 0, wrong: 1 });
    expect(replay.findings).toEqual(["0000:00:01.0: trace line 101: DMA answered after its unmap"]);
    expect(port.load32(pa)).not.toBe(0);
  });

  test("an IOMMU that refuses everything: no DMA is right", () => {
    const { replay, iommu } = bench();
    iommu.aborts = true;
    replay.step(mapOp(1));
    replay.step(mapOp(2, { api: "coherent" }));
    replay.step(mapOp(3, { api: "sg", segments: SEGMENTS }));
    replay.step(mapOp(4, { api: "doorbell" }));
    replay.finish();
    expect(replay.tally.ok).toBe(0);
    expect(replay.tally.wrong).toBeGreaterThanOrEqual(4);
  });

  test("the kernel does not map; the memory for it goes back", () => {
    const { replay, port } = bench();
    port.mapStatus = -ERRNO.ENOSPC;
    replay.step(mapOp(1));
    replay.step(mapOp(2, { api: "sg", segments: SEGMENTS }));
    expect(replay.tally).toEqual({ ok: 0, faulted: 0, wrong: 2 });
    expect(replay.findings[0]).toBe("0000:00:01.0: trace line 1: mapping failed: ENOSPC");
    expect(port.allocatedBytes).toBe(0);
    expect(replay.live).toBe(0);
  });

  test("the segments do not cover the list", () => {
    const { replay, port } = bench();
    const dmaMapSg = port.dmaMapSg.bind(port);
    port.dmaMapSg = (device, entries) => dmaMapSg(device, entries) - 1;
    replay.step(mapOp(1, { api: "sg", segments: SEGMENTS }));
    expect(replay.findings).toEqual(["0000:00:01.0: trace line 1: mapping failed: EIO"]);
  });

  test("the DMA address loses the offset in the page", () => {
    const { replay, port } = bench();
    const dmaMap = port.dmaMap.bind(port);
    port.dmaMap = (device, pa, size) => dmaMap(device, pa, size) + 2;
    replay.step(mapOp(1, { dir: 1 }));
    expect(replay.tally.wrong).toBe(1);
    expect(replay.findings[0]).toContain("another offset in its page");
  });

  test("a device that no driver has; only the first findings are kept", () => {
    const { replay } = bench();
    for (let id = 1; id <= 50; id++) replay.step(mapOp(id, { device: "0000:00:1f.0" }));
    expect(replay.tally.wrong).toBe(50);
    expect(replay.findings).toHaveLength(10);
    expect(replay.findings[0]).toBe("0000:00:1f.0: not bound by any driver");
  });
});
