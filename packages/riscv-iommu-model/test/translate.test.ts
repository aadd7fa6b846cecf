import { ACCESS } from "@smmuv3/platform";
import {
  RV_ATP_MODE, RV_CAUSE, RV_CQCSR, RV_DC, RV_DDTP_MODE, RV_FQCSR, RV_IPSR, RV_PTE, RV_REG, RV_TC, rvIodirInvalDdt, rvIofence,
  rvIotinvalGvma, rvPpnField,
} from "@smmuv3/riscv-iommu-defs";
import { describe, expect, test } from "vitest";
import { Board, RAM, RW, USER } from "./board.ts";

const BARE = [RV_ATP_MODE.bare, 0] as const;
const TARGET = RAM + 0x40_0000;

function words(encode: (out: Int32Array, at: number) => void): number[] {
  const out = new Int32Array(4);
  encode(out, 0);
  return [...out];
}

describe.each(["lazy", "eager"] as const)("%s", (profile) => {
  test.each([
    ["Sv39x4, page", RV_ATP_MODE.sv39, 3, 0x1_2345_6000, 4096],
    ["Sv39x4, top of the 41-bit space", RV_ATP_MODE.sv39, 3, 2 ** 41 - 4096, 4096],
    ["Sv48x4, page", RV_ATP_MODE.sv48, 4, 0x1234_5678_9000, 4096],
    ["Sv48x4, 2M leaf", RV_ATP_MODE.sv48, 4, 0x4020_0000, 0x20_0000],
  ] as const)("second stage: %s", (_name, mode, levels, gpa, size) => {
    const board = new Board(profile);
    const root = board.pages(4);
    board.context(5, BARE, [mode, root]);
    board.map(root, levels, gpa, TARGET, RW, size);
    expect(board.go(5, gpa + 0x123)).toBe(TARGET + 0x123);
    expect(board.go(5, gpa + 0x124, ACCESS.write)).toBe(TARGET + 0x124);
    expect(board.iommu.hits).toBe(profile === "lazy" ? 1 : 0);
    expect(board.go(5, gpa - 4096)).toBeUndefined();
    expect(board.faults()).toMatchObject([{ cause: RV_CAUSE.readGuestPageFault, did: 5, ttyp: 2, iotval: gpa - 4096 }]);
  });

  test("nested: tables and output of the first stage go through the second", () => {
    const board = new Board(profile);
    const [first, second] = [board.pages(4), board.pages(4)];
    const s1Gpa = 0x10_0000;
    board.context(1, [RV_ATP_MODE.sv39, s1Gpa], [RV_ATP_MODE.sv48, second]);
    board.map(second, 4, s1Gpa, first, RW);
    // The first stage lies one to one behind its root, except the root itself.
    board.map(first, 3, 0x7000, 0x20_0000, RW);
    for (let pa = first; pa < first + 0x10000; pa += 4096) board.map(second, 4, pa, pa, RW);
    const leaf = board.map(second, 4, 0x20_0000, TARGET, RW & ~RV_PTE.w);
    expect(board.go(1, 0x7010)).toBe(TARGET + 0x10);
    expect(board.go(1, 0x7010, ACCESS.write)).toBeUndefined();
    board.memory.store64(leaf, 0, 0);
    board.command(words((out, at) => { rvIotinvalGvma(out, at, 7); }));
    expect(board.go(1, 0x7010)).toBeUndefined();
    expect(board.faults().map(({ cause, iotval2 }) => [cause, iotval2])).toEqual([
      [RV_CAUSE.writeGuestPageFault, 0x20_0010], [RV_CAUSE.readGuestPageFault, 0x20_0010],
    ]);
  });

  test("an implicit access that the second stage refuses says so", () => {
    const board = new Board(profile);
    board.context(1, [RV_ATP_MODE.sv39, 0x5000], [RV_ATP_MODE.sv48, board.pages(4)]);
    expect(board.go(1, 0x4000_0000)).toBeUndefined();
    expect(board.faults()).toMatchObject([{ cause: RV_CAUSE.readGuestPageFault, iotval: 0x4000_0000, iotval2: 0x5008 + 1 }]);
  });

  test.each([
    ["not valid", RW & ~RV_PTE.v],
    ["W without R", USER | RV_PTE.w | RV_PTE.d],
    ["not for users", RW & ~RV_PTE.u],
    ["never accessed: A is not set by hardware", RW & ~RV_PTE.a],
    ["write to a clean page: D is not set by hardware", RW & ~RV_PTE.d],
    ["write to a page without W", RW & ~RV_PTE.w],
  ])("leaf: %s", (_name, flags) => {
    const board = new Board(profile);
    const root = board.pages(1);
    board.context(0, [RV_ATP_MODE.sv39, root], BARE);
    board.map(root, 3, 0x1000, TARGET, flags);
    expect(board.go(0, 0x1000, ACCESS.write)).toBeUndefined();
    expect(board.faults()).toMatchObject([{ cause: RV_CAUSE.writePageFault, ttyp: 3 }]);
  });

  test("Svnapot: 16 pages by one entry", () => {
    const board = new Board(profile);
    const root = board.pages(1);
    board.context(0, [RV_ATP_MODE.sv39, root], BARE);
    const at = board.map(root, 3, 0x1_3000, 0, 0);
    const [lo, hi] = rvPpnField(TARGET + 0x8000);
    board.memory.store64(at, lo | RW, hi | (1 << 31));
    expect(board.go(0, 0x1_3008)).toBe(TARGET + 0x3008);
  });

  test("a misaligned superpage faults", () => {
    const board = new Board(profile);
    const root = board.pages(1);
    board.context(0, [RV_ATP_MODE.sv39, root], BARE);
    board.map(root, 3, 0x20_0000, TARGET + 0x1000, RW, 0x20_0000);
    expect(board.go(0, 0x20_0000)).toBeUndefined();
    expect(board.faults()).toMatchObject([{ cause: RV_CAUSE.readPageFault }]);
  });

  test.each([
    ["directory off", 0, 0, RV_DDTP_MODE.off, RV_CAUSE.allDisallowed],
    ["device_id too wide", 128, 0, RV_DDTP_MODE.level1, RV_CAUSE.typeDisallowed],
    ["no context", 9, 0, RV_DDTP_MODE.level1, RV_CAUSE.ddtNotValid],
    ["a process_id without a process directory", 5, ACCESS.ssidValid, RV_DDTP_MODE.level1, RV_CAUSE.typeDisallowed],
  ])("%s", (_name, did, flags, mode, cause) => {
    const board = new Board(profile);
    board.context(5, BARE, BARE);
    board.base(RV_REG.ddtp, RAM, mode);
    expect(board.go(did, 0x1000, flags)).toBeUndefined();
    expect(board.faults()).toMatchObject([{ cause, did }]);
  });

  test.each([
    ["EN_ATS without ATS", RV_DC.tc, 2],
    ["PDTV without process directories", RV_DC.tc, RV_TC.pdtv],
    ["a second stage that is not there", RV_DC.iohgatp + 1, 10 << 28],
    ["a root off its 16 KiB", RV_DC.iohgatp, 1],
    ["a first stage that is not there", RV_DC.fsc + 1, 1 << 28],
    ["an identifier in iosatp", RV_DC.fsc + 1, 1 << 12],
    ["reserved bits of ta", RV_DC.ta, 1],
  ])("DDT entry misconfigured: %s", (_name, word, bits) => {
    const board = new Board(profile);
    const dc = board.context(3, BARE, [RV_ATP_MODE.sv48, board.pages(4)]);
    dc[word]! |= bits;
    board.putContext(3, dc);
    expect(board.go(3, 0)).toBeUndefined();
    expect(board.faults()).toMatchObject([{ cause: RV_CAUSE.ddtMisconfigured }]);
  });

  test("DTF keeps quiet about what is not the context's own fault", () => {
    const board = new Board(profile);
    const dc = board.context(3, BARE, [RV_ATP_MODE.sv48, board.pages(4)]);
    dc[RV_DC.tc]! |= RV_TC.dtf;
    board.putContext(3, dc);
    expect(board.go(3, 0x1000)).toBeUndefined();
    expect(board.faults()).toEqual([]);
  });

  test("three levels of directory", () => {
    const board = new Board(profile);
    const [top, middle, leaf] = [board.pages(1), board.pages(1), board.pages(1)];
    const did = (3 << 16) | (5 << 7) | 9;
    for (const [at, next] of [[top + 3 * 8, middle], [middle + 5 * 8, leaf]] as const) {
      const [lo, hi] = rvPpnField(next);
      board.memory.store64(at, lo | 1, hi);
    }
    board.memory.store32(leaf + 9 * 32, RV_TC.v);
    board.base(RV_REG.ddtp, top, RV_DDTP_MODE.level3);
    expect(board.go(did, 0x1234)).toBe(0x1234);
    expect(board.go(did + 1, 0x1234)).toBeUndefined();
    expect(board.faults()).toMatchObject([{ cause: RV_CAUSE.ddtNotValid, did: did + 1 }]);
  });

  test.each([[0x4000_0000, 0xffff_ffc0], [0, 0x40], [0, 0xffff_ff80]])("Sv39 address %d with upper word %d is not canonical or is", (lo, hi) => {
    const board = new Board(profile);
    const root = board.pages(1);
    board.context(0, [RV_ATP_MODE.sv39, root], BARE);
    const high = hi === 0xffff_ffc0;
    if (high) board.map(root, 3, 2 ** 38 + lo, TARGET, RW);
    expect(board.iommu.translate(0, 0, lo, hi | 0, ACCESS.read)).toBe(high ? 0 : 1);
  });
});

describe("caches", () => {
  test.each([
    ["IOTINVAL.GVMA of the page", words((out, at) => { rvIotinvalGvma(out, at, 7, 0x5000); }), true],
    ["IOTINVAL.GVMA of another page", words((out, at) => { rvIotinvalGvma(out, at, 7, 0x6000); }), false],
    ["IOTINVAL.GVMA of another guest", words((out, at) => { rvIotinvalGvma(out, at, 8); }), false],
    ["IOTINVAL.GVMA of all", [0x81, 0, 0, 0], true],
    ["IOTINVAL.VMA of the host", [1, 0, 0, 0], false],
    ["IOFENCE.C", words(rvIofence), false],
    ["IODIR.INVAL_DDT", words((out, at) => { rvIodirInvalDdt(out, at, 5); }), false],
  ])("a leaf that changed is seen after %s: %#", (_name, command, seen) => {
    const board = new Board("lazy");
    const root = board.pages(4);
    board.context(5, BARE, [RV_ATP_MODE.sv48, root]);
    const leaf = board.map(root, 4, 0x5000, TARGET, RW);
    board.map(root, 4, 0x6000, TARGET, RW);
    expect(board.go(5, 0x5000)).toBe(TARGET);
    board.memory.store64(leaf, 0, 0);
    board.command(command);
    expect(board.go(5, 0x5000)).toBe(seen ? undefined : TARGET);
  });

  test.each([
    ["IODIR.INVAL_DDT of the device", words((out, at) => { rvIodirInvalDdt(out, at, 5); }), true],
    ["IODIR.INVAL_DDT of all", [3, 0, 0, 0], true],
    ["IODIR.INVAL_DDT of another", words((out, at) => { rvIodirInvalDdt(out, at, 6); }), false],
  ])("a context that changed is seen after %s", (_name, command, seen) => {
    const board = new Board("lazy");
    board.context(5, BARE, BARE);
    expect(board.go(5, 0x1000)).toBe(0x1000);
    board.putContext(5, new Int32Array(8));
    board.command(command);
    expect(board.go(5, 0x1000)).toBe(seen ? undefined : 0x1000);
  });
});

describe("queues", () => {
  test.each([
    ["an opcode that is not there", [9, 0, 0, 0]],
    ["PSCV with GVMA", [0x81, 1, 0, 0]],
    ["a reserved bit", [2 | (1 << 20), 0, 0, 0]],
    ["INVAL_PDT without process directories", [3 | 0x80, 2, 0, 0]],
    ["a device_id that the directory cannot hold", words((out, at) => { rvIodirInvalDdt(out, at, 200); })],
  ])("cmd_ill: %s", (_name, command) => {
    const board = new Board("lazy");
    board.command([...words(rvIofence), ...command]);
    expect(board.iommu.read32(RV_REG.cqcsr) & RV_CQCSR.errors).toBe(RV_CQCSR.cmdIll);
    expect(board.iommu.read32(RV_REG.cqh)).toBe(1);
    expect(board.wires).toEqual([1]);
    // Clearing the bit tries the same command again.
    board.iommu.write32(RV_REG.cqcsr, RV_CQCSR.cqen | RV_CQCSR.cie | RV_CQCSR.cmdIll);
    expect(board.iommu.read32(RV_REG.cqh)).toBe(1);
  });

  test("IOFENCE.C writes DATA and raises the wire", () => {
    const board = new Board("lazy");
    board.command([2 | (1 << 10) | (1 << 11), 0x55aa, TARGET / 4, 0]);
    expect(board.memory.load32(TARGET)).toBe(0x55aa);
    expect(board.iommu.read32(RV_REG.cqcsr) & RV_CQCSR.fenceWIp).not.toBe(0);
    expect(board.wires).toEqual([1]);
  });

  test.each([["command", RV_REG.cqb, RV_REG.cqcsr, RV_CQCSR.cqmf]])("%s memory that is not there", (_name, base, csr, bit) => {
    const board = new Board("lazy");
    board.base(base, 0x1000, 3);
    board.iommu.write32(RV_REG.cqt, 1);
    expect(board.iommu.read32(csr) & RV_CQCSR.errors).toBe(bit);
  });

  test("a full fault queue overflows once and loses the rest until it is acknowledged", () => {
    const board = new Board("lazy");
    for (let i = 0; i < 6; i++) board.go(9, i * 4096);
    expect(board.iommu.read32(RV_REG.fqcsr) & RV_FQCSR.errors).toBe(RV_FQCSR.fqof);
    expect(board.faults()).toHaveLength(3);
    board.go(9, 0);
    expect(board.faults()).toHaveLength(0);
    board.iommu.write32(RV_REG.fqcsr, RV_FQCSR.fqen | RV_FQCSR.fie | RV_FQCSR.fqof);
    board.iommu.write32(RV_REG.ipsr, RV_IPSR.fip);
    board.go(9, 0);
    expect(board.faults()).toHaveLength(1);
    expect(board.wires.every((vector) => vector === 2)).toBe(true);
  });

  test("fqmf: fault-queue memory that is not there", () => {
    const board = new Board("lazy");
    board.base(RV_REG.fqb, 0x1000, 1);
    board.go(9, 0);
    expect(board.iommu.read32(RV_REG.fqcsr) & RV_FQCSR.errors).toBe(RV_FQCSR.fqmf);
  });
});

test("ddtp keeps the old mode when the new one is reserved, and takes halves", () => {
  const { iommu } = new Board("lazy");
  iommu.write64(RV_REG.ddtp, 9, 0);
  expect(iommu.read64(RV_REG.ddtp) & 15).toBe(RV_DDTP_MODE.level1);
  iommu.write32(RV_REG.ddtp + 4, 1);
  iommu.write32(RV_REG.ddtp, 0x400 | RV_DDTP_MODE.bare);
  expect([iommu.read64(RV_REG.ddtp), iommu.hi]).toEqual([0x401, 1]);
});
