import { FRAME_WORDS, Memory } from "@smmuv3/platform";
import type { HostCpu } from "@smmuv3/platform";
import { describe, expect, test } from "vitest";
import {
  abiHash,
  frameArg,
  frameResult,
  functionId,
  HANDOFF_FIELDS,
  hypercall,
  HYPERCALLS,
  hypercallName,
  poolPages,
  readHandoff,
  setFrame,
  writeHandoff,
} from "../src/index.ts";
import type { HypercallName, IommuHandoff } from "../src/index.ts";

const NAMES = Object.keys(HYPERCALLS) as HypercallName[];

describe("hypercalls", () => {
  test("numbers are unique, and names come back from their ids", () => {
    expect(new Set(NAMES.map((name) => HYPERCALLS[name].number)).size).toBe(NAMES.length);
    for (const name of NAMES) expect(hypercallName(functionId(name))).toBe(name);
  });

  test("ids are SMCCC vendor-specific hypervisor fast calls", () => {
    for (const name of NAMES) expect(functionId(name) >>> 16).toBe(0xc600);
    expect(hypercallName(1)).toBeUndefined();
    expect(hypercallName(functionId("__pkvm_init") + 999)).toBeUndefined();
  });

  test("arguments fit the registers", () => {
    for (const name of NAMES) expect(HYPERCALLS[name].args.length).toBeLessThanOrEqual(6);
  });
});

describe("marshalling", () => {
  test.each([0, 1, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, 2 ** 32, 2 ** 48 + 0x1000, 2 ** 53 - 1])("%i travels", (value) => {
    const frame = new Int32Array(FRAME_WORDS);
    setFrame(frame, 3, value);
    expect(frameArg(frame, 3)).toBe(value);
  });

  test.each([0, 5, 2 ** 40, -1, -22, -517])("result %i comes back with its sign", (value) => {
    const frame = new Int32Array(FRAME_WORDS);
    setFrame(frame, 1, value);
    expect(frameResult(frame)).toBe(value);
  });

  test("a call puts its id and arguments where EL2 looks", () => {
    const frames: Int32Array[] = [];
    const cpu = { hvc: (frame: Int32Array) => { frames.push(frame.slice()); frame[0] = 0; setFrame(frame, 1, 7); } };
    expect(hypercall(cpu as unknown as HostCpu, "__pkvm_iommu_set_state", 1, 2, 3, 4)).toBe(7);
    expect(frames[0]![0]).toBe(functionId("__pkvm_iommu_set_state"));
    expect([1, 2, 3, 4].map((at) => frameArg(frames[0]!, at))).toEqual([1, 2, 3, 4]);
  });

  test("without EL2 a call is -ENOSYS", () => {
    const cpu = { hvc: (frame: Int32Array) => { frame[0] = -1; } };
    expect(hypercall(cpu as unknown as HostCpu, "__pkvm_init")).toBe(-38);
  });
});

test("a handoff page is read as it was written, whatever was there before", () => {
  const memory = Memory.allocate({ base: 0x4000_0000, size: 0x2000 });
  memory.fill(0x4000_1000, 0x1000, -1);
  const handoff: IommuHandoff = {
    mmioBase: 0x9_0905_0000,
    mmioSize: 0x2_0000,
    cmdqBase: 0x4800_0000,
    cmdqLog2: 12,
    strtabBase: 0x4810_0000,
    strtabBytes: 0x10_0000,
    flags: 1,
  };
  writeHandoff(memory, 0x4000_1000, handoff);
  expect(readHandoff(memory, 0x4000_1000)).toEqual(handoff);
  expect(memory.load32(0x4000_1000 + HANDOFF_FIELDS.length * 8)).toBe(0);
});

test("the hash is stable, and 32 bits", () => {
  expect(abiHash()).toBe(abiHash());
  expect(Number.isInteger(abiHash()) && abiHash() >= 0 && abiHash() < 2 ** 32).toBe(true);
});

test.each([16 * 2 ** 20, 2 ** 31, 7 * 2 ** 30])("a pool for %i bytes of RAM holds page state and last-level tables", (ram) => {
  const pages = ram / 4096;
  const tables = pages / 512;
  expect(poolPages(ram, false) * 4096).toBeGreaterThan(pages * 4 + tables * 4096);
  expect(poolPages(ram, true)).toBeGreaterThanOrEqual(poolPages(ram, false) + tables + 500);
});
