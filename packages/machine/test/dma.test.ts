import { ACCESS, TRANSLATION } from "@smmuv3/platform";
import type { Translator } from "@smmuv3/platform";
import { describe, expect, test } from "vitest";
import { MSI_DOORBELL, MsiFrame } from "../src/index.ts";
import type { DmaMaster, Machine } from "../src/index.ts";
import { DEVICE, RAM, RAM_SIZE, rig, Scratch } from "./fixture.ts";

/** Maps IOVA pages to what the table says; anything else aborts. Records its calls. */
class FakeIommu implements Translator {
  paLo = 0;
  paHi = 0;
  readonly calls: number[][] = [];
  readonly pages = new Map<number, number>();
  readonly statuses = new Map<number, number>();

  translate(sid: number, ssid: number, lo: number, hi: number, flags: number): number {
    this.calls.push([sid, ssid, lo, hi, flags]);
    const page = (hi >>> 0) * 2 ** 20 + (lo >>> 12);
    const status = this.statuses.get(page);
    if (status !== undefined) return status;
    const target = this.pages.get(page);
    if (target === undefined) return TRANSLATION.abort;
    const pa = target + (lo & 0xfff);
    this.paLo = pa | 0;
    this.paHi = Math.floor(pa / 2 ** 32);
    return TRANSLATION.ok;
  }
}

const SID = 0x20;
const A = RAM + 0x5000;
const B = RAM + 0x2000;

interface DmaRig {
  readonly machine: Machine;
  readonly iommu: FakeIommu;
  readonly master: DmaMaster;
  readonly device: Scratch;
}

/** IOVA page 0x10 is A, page 0x11 is B, page 0x12 the device. */
function dmaRig(): DmaRig {
  const { machine, device } = rig();
  const iommu = new FakeIommu();
  iommu.pages.set(0x10, A).set(0x11, B).set(0x12, DEVICE).set(0x13, 0x1000).set(0x14, 2 ** 45);
  return { machine, iommu, device, master: machine.dmaMaster("nic", SID, iommu) };
}

const pattern = (words: number): Int32Array => Int32Array.from({ length: words }, (_, i) => i + 1);

describe("pieces", () => {
  test.each([
    { name: "one word", iova: 0x1_0008, words: 1, pieces: [0x1_0008] },
    { name: "up to the end of a page", iova: 0x1_0ff8, words: 2, pieces: [0x1_0ff8] },
    { name: "across a page boundary", iova: 0x1_0ff8, words: 4, pieces: [0x1_0ff8, 0x1_1000] },
    { name: "two whole pages", iova: 0x1_0000, words: 2048, pieces: [0x1_0000, 0x1_1000] },
    { name: "nothing", iova: 0x1_0000, words: 0, pieces: [] },
  ])("$name", ({ iova, words, pieces }) => {
    const { machine, iommu, master } = dmaRig();
    const data = pattern(words);
    expect(master.write(iova, data)).toBe(TRANSLATION.ok);
    expect(master.done).toBe(words);
    expect(iommu.calls).toEqual(pieces.map((lo) => [SID, 0, lo, 0, ACCESS.write]));
    // A lies above B: what follows in IOVA space does not follow in memory.
    data.forEach((value, i) => {
      const at = iova + i * 4;
      expect(machine.memory.load32((at < 0x1_1000 ? A : B) + (at % 4096))).toBe(value);
    });
    const back = new Int32Array(words);
    expect(master.read(iova, back)).toBe(TRANSLATION.ok);
    expect(back).toEqual(data);
    expect(machine.counters.read("dma.words")).toMatchObject({ device: 2 * words, el1: 0, el2: 0 });
    const written = machine.memory.words.reduce((sum, word) => sum + Number(word !== 0), 0);
    expect(written).toBe(words);
  });
});

describe("a piece that fails", () => {
  test.each([
    { name: "abort", status: TRANSLATION.abort, result: TRANSLATION.abort, done: 2, tail: [9, 9] },
    { name: "stall", status: TRANSLATION.stalled, result: TRANSLATION.stalled, done: 2, tail: [9, 9] },
    { name: "RAZ", status: TRANSLATION.raz, result: TRANSLATION.raz, done: 2, tail: [0, 0] },
  ])("$name", ({ status, result, done, tail }) => {
    const { machine, iommu, master } = dmaRig();
    machine.memory.fill(A, 4096, 4);
    machine.memory.fill(B, 4096, 5);
    iommu.statuses.set(0x11, status);
    const out = new Int32Array(4).fill(9);
    expect(master.read(0x1_0ff8, out)).toBe(result);
    expect([...out]).toEqual([4, 4, ...tail]);
    expect(master.done).toBe(done);
    expect(master.write(0x1_0ff8, pattern(4))).toBe(result);
    expect(machine.memory.load32(B)).toBe(5);
    expect(machine.memory.load32(A + 0xffc)).toBe(2);
  });

  test("the pieces after a RAZ one are transferred", () => {
    const { machine, iommu, master } = dmaRig();
    iommu.statuses.set(0x10, TRANSLATION.raz);
    expect(master.write(0x1_0ff8, pattern(4))).toBe(TRANSLATION.raz);
    expect([master.done, machine.memory.load32(B)]).toEqual([2, 3]);
  });
});

describe("targets", () => {
  test("a 4-byte access reaches a device, a longer one does not", () => {
    const { device, master } = dmaRig();
    expect(master.write(0x1_2010, pattern(1))).toBe(TRANSLATION.ok);
    const out = new Int32Array(1);
    expect(master.read(0x1_2010, out)).toBe(TRANSLATION.ok);
    expect(out[0]).toBe(1);
    expect(master.write(0x1_2010, pattern(2))).toBe(TRANSLATION.abort);
    expect(master.done).toBe(0);
    expect(device.log).toEqual(["w32 10=1", "r32 10"]);
  });

  test.each([0x1_3000, 0x1_4000])("nothing answers at the output of %i", (iova) => {
    const { master } = dmaRig();
    expect(master.read(iova, new Int32Array(1))).toBe(TRANSLATION.abort);
    expect(master.write(iova, new Int32Array(8))).toBe(TRANSLATION.abort);
    expect(master.done).toBe(0);
  });

  test("no IOMMU: the address is physical", () => {
    const { machine } = rig();
    const master = machine.dmaMaster("raw", 0, undefined);
    expect(master.write(RAM + RAM_SIZE - 8, pattern(2))).toBe(TRANSLATION.ok);
    expect(machine.memory.load32(RAM + RAM_SIZE - 4)).toBe(2);
    expect(master.write(RAM + RAM_SIZE - 4, pattern(2))).toBe(TRANSLATION.abort);
    expect(master.done).toBe(1);
    expect(master.probe(0x12_3456_7890, true)).toBe(TRANSLATION.ok);
    expect([master.paHi, master.paLo]).toEqual([0x12, 0x3456_7890]);
  });

  test("DMA is not subject to the CPU's stage 2", () => {
    const { machine, tables } = rig();
    machine.hyp.setHostStage2(tables.regime);
    expect(machine.dmaMaster("raw", 0, undefined).write(A, pattern(1))).toBe(TRANSLATION.ok);
    expect(machine.counters.read("traps.stage2").total).toBe(0);
  });
});

test.each([
  { name: "plain", set: {}, ssid: 0, flags: 0 },
  { name: "SSID 0", set: { ssid: 0 }, ssid: 0, flags: ACCESS.ssidValid },
  { name: "SSID 5", set: { ssid: 5 }, ssid: 5, flags: ACCESS.ssidValid },
  { name: "no SSID", set: { ssid: -1 }, ssid: 0, flags: 0 },
  { name: "privileged", set: { privileged: true }, ssid: 0, flags: ACCESS.privileged },
  { name: "instruction", set: { instruction: true }, ssid: 0, flags: ACCESS.instruction },
])("attributes: $name", ({ set, ssid, flags }) => {
  const { iommu, master } = dmaRig();
  Object.assign(master, set);
  master.read(0x1_0000, new Int32Array(1));
  master.probe(0x1_0004, true);
  expect(iommu.calls).toEqual([
    [SID, ssid, 0x1_0000, 0, flags],
    [SID, ssid, 0x1_0004, 0, flags | ACCESS.write],
  ]);
});

test("probe translates and touches nothing", () => {
  const { machine, iommu, master } = dmaRig();
  expect(master.probe(0x1_1040, true)).toBe(TRANSLATION.ok);
  expect([master.paLo >>> 0, master.paHi]).toEqual([B + 0x40, 0]);
  expect(master.probe(0x9_0000, false)).toBe(TRANSLATION.abort);
  expect(iommu.calls).toHaveLength(2);
  expect(machine.memory.words.every((word) => word === 0)).toBe(true);
  expect(machine.counters.read("dma.words").total).toBe(0);
});

test("IOVAs keep all 64 bits", () => {
  const { iommu, master } = dmaRig();
  for (const iova of [0xffff_8000_1000, 2 ** 64 - 4096, 0x8000_0000]) master.probe(iova, false);
  expect(iommu.calls.map(([, , lo, hi]) => [lo! >>> 0, hi! >>> 0])).toEqual([
    [0x8000_1000, 0xffff],
    [0xffff_f000, 0xffff_ffff],
    [0x8000_0000, 0],
  ]);
  for (const iova of [2, -4, Number.NaN]) expect(() => master.read(iova, new Int32Array(1))).toThrow(RangeError);
});

describe("MSI", () => {
  test.each([
    { name: "doorbell", pa: 0x2000 + MSI_DOORBELL, answered: true, pending: true },
    { name: "doorbell, low address bits ignored", pa: 0x2000 + MSI_DOORBELL + 3, answered: true, pending: true },
    { name: "another register of the frame", pa: 0x2000, answered: true, pending: false },
    { name: "RAM", pa: A, answered: true, pending: false },
    { name: "nothing", pa: 0x7000, answered: false, pending: false },
    { name: "beyond what is addressable", pa: 2 ** 45, answered: false, pending: false },
  ])("$name", ({ pa, answered, pending }) => {
    const { machine } = rig();
    machine.addDevice("msi", 0x2000, 0x1000, new MsiFrame(machine));
    expect(machine.msi(pa | 0, Math.floor(pa / 2 ** 32), 40)).toBe(answered);
    expect(machine.pending(40)).toBe(pending);
    expect(machine.memory.load32(A)).toBe(pa === A ? 40 : 0);
  });

  test("a device's MSI through the IOMMU, and a message that names no interrupt", () => {
    const { machine, iommu, master } = dmaRig();
    const msi = new MsiFrame(machine);
    machine.addDevice("msi", 0x2000, 0x1000, msi);
    iommu.pages.set(0x20, 0x2000);
    expect(master.write(0x2_0000 + MSI_DOORBELL, Int32Array.of(33))).toBe(TRANSLATION.ok);
    expect(machine.pending(33)).toBe(true);
    for (const bad of [-1, 1024]) expect(master.write(0x2_0040, Int32Array.of(bad))).toBe(TRANSLATION.ok);
    msi.write64();
    expect([msi.read32(), msi.read64(), msi.hi]).toEqual([0, 0, 0]);
    let taken = 0;
    machine.host.requestIrq(33, () => taken++);
    machine.host.relax();
    expect([taken, machine.counters.read("interrupts").el1]).toEqual([1, 1]);
  });
});
