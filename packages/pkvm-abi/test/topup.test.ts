import { PAGE_SIZE } from "@smmuv3/platform";
import type { HostCpu } from "@smmuv3/platform";
import { expect, test } from "vitest";
import { frameArg, functionId, hypercallWithTopup, POOL, REQUEST, setFrame, topupPool } from "../src/index.ts";

const BASE = 0x4000_0000;

/** An EL2 that answers a map with the next of `replies` (x1 to x4), and takes memory until it is full. */
function machine(replies: readonly number[][], topup: number = 0) {
  const calls: string[] = [];
  const topups: number[][] = [];
  const freed: number[][] = [];
  let allocated = 0;
  let reply = 0;
  const hvc = (frame: Int32Array): void => {
    const map = frame[0] === functionId("__pkvm_iommu_map_pages");
    calls.push(map ? "map" : "topup");
    if (!map) topups.push([1, 2, 3].map((at) => frameArg(frame, at)));
    const answer = map ? replies[Math.min(reply++, replies.length - 1)]! : [topup];
    setFrame(frame, 0, 0);
    for (let at = 1; at <= 4; at++) setFrame(frame, at, answer[at - 1] ?? 0);
  };
  const memory = {
    alloc: (bytes: number): number => (allocated += bytes) - bytes + BASE,
    free: (pa: number, bytes: number): void => { freed.push([pa, bytes]); },
  };
  return { cpu: { hvc } as unknown as HostCpu, memory, calls, topups, freed };
}

const NEEDS = [REQUEST.memory, POOL.iommu, 1];
const call = ({ cpu, memory }: ReturnType<typeof machine>): number =>
  hypercallWithTopup(cpu, memory, "__pkvm_iommu_map_pages", 2, 0, BASE, PAGE_SIZE, 1, 3);

test.each<[string, number[][], number, string[]]>([
  ["done at once", [[4096]], 4096, ["map"]],
  ["repeated with memory", [[-12, ...NEEDS], [4096]], 4096, ["map", "topup", "map"]],
  ["not repeated when done in part", [[4096, ...NEEDS], [0]], 4096, ["map", "topup"]],
  ["failed for another reason", [[-22]], -22, ["map"]],
  ["without memory and without a request", [[-12]], -12, ["map"]],
  ["in need of something else", [[0, REQUEST.guestPage, 0x8000, 1]], 0, ["map"]],
])("a call that is %s", (_what, replies, result, calls) => {
  const world = machine(replies);
  expect(call(world)).toBe(result);
  expect(world.calls).toEqual(calls);
});

test("memory is a block of at least four pages, for the pool that asked", () => {
  const world = machine([[-12, REQUEST.memory, POOL.hyp, 16], [-12, ...NEEDS], [0]]);
  expect(call(world)).toBe(0);
  expect(world.topups).toEqual([[POOL.hyp, BASE / PAGE_SIZE, 4], [POOL.iommu, BASE / PAGE_SIZE + 16, 2]]);
});

test("an EL2 that never has enough is not fed for ever", () => {
  const world = machine([[-12, ...NEEDS]]);
  expect(call(world)).toBe(-12);
  expect(world.calls.filter((name) => name === "topup").length).toBe(16);
});

test("memory that EL2 refuses goes back, and the call fails with its errno", () => {
  const world = machine([[-12, ...NEEDS]], -16);
  expect(call(world)).toBe(-16);
  expect(world.freed).toEqual([[BASE, 4 * PAGE_SIZE]]);
  expect(world.calls).toEqual(["map", "topup"]);
});

test("a host without memory says so, unless something was done", () => {
  const memory = { alloc: () => -12, free: () => { throw new Error("nothing to free"); } };
  expect(call({ ...machine([[-12, ...NEEDS]]), memory })).toBe(-12);
  expect(call({ ...machine([[4096, ...NEEDS]]), memory })).toBe(4096);
  expect(topupPool(machine([]).cpu, memory, 0, 1)).toBe(-12);
});
