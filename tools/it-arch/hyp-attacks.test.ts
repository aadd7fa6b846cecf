// Rows a8 to a17 of the attack catalogue against the emulation: a host that programs its SMMU so that EL2, or the hardware on its
// behalf, touches what is not the host's. Whatever it does, a VM's page keeps its data, and EL2 goes on.
import { describe, expect, test } from "vitest";
import { PAGE_SIZE } from "@smmuv3/platform";
import { PRESETS } from "@smmuv3/smmu-v3-model";
import { CERROR, COMMANDS, OFFSET, STE, STE_CONFIG, STE_WORDS, setField } from "@smmuv3/smmu-v3-defs";
import { CR0, EmulatedHost, HOST_CMDQ, HOST_L1, HOST_L2 } from "./hyp-emulated-host.ts";
import { PAGE, POOL_BASE, RAM_BASE, SID, VM_TABLES, World } from "./hyp-fixture.ts";
import type { WorldOptions } from "./hyp-fixture.ts";

const SENTINEL = 0x5ec2_e700;
const IOVA = 0x1_0000;
const ALL = CR0.SMMUEN | CR0.CMDQEN | CR0.EVENTQEN;

/** A running host whose page went to a VM while a device had it in its TLB. */
function attacked(options: WorldOptions = {}): EmulatedHost {
  const host = new EmulatedHost(new World("emulation", options));
  host.enable();
  host.map(IOVA, PAGE);
  host.setSte(STE_CONFIG.s1);
  expect(host.world.reaches(IOVA, PAGE, 1)).toBe(true);
  host.world.vmWithPage(PAGE, SENTINEL);
  return host;
}

function bytes(world: World, pa: number): number[] {
  return Array.from({ length: PAGE_SIZE / 4 }, (_, i) => world.machine.memory.load32(pa + i * 4));
}

/** The host may be left with a broken SMMU; that is all that is broken. */
function unharmed(host: EmulatedHost): void {
  const { world } = host;
  expect(world.machine.memory.load32(PAGE)).toBe(SENTINEL);
  expect(world.reaches(IOVA, PAGE, 0x0bad)).toBe(false);
  expect(world.reaches(PAGE, PAGE, 0x0bad)).toBe(false);
  expect(world.reaches(POOL_BASE, POOL_BASE, 0x0bad)).toBe(false);
  // EL2's queue works: a donation needs it.
  expect(world.call("__pkvm_host_donate_hyp", PAGE / PAGE_SIZE + 5)).toBe(0);
  expect(world.sound).toBe(true);
}

/** An STE that lets everything pass, at the place of the stream in a second level at `table`. */
function bypassAt(host: EmulatedHost, table: number): void {
  const ste = new Int32Array(STE_WORDS);
  setField(ste, 0, STE.V, 1);
  setField(ste, 0, STE.Config, STE_CONFIG.bypass);
  host.memory.write(table + (SID & 255) * 64, ste);
}

function restart(host: EmulatedHost, change: () => void): void {
  host.regs.write32(OFFSET.CR0, 0);
  change();
  host.regs.write32(OFFSET.CR0, ALL);
}

const R = OFFSET;

describe("a8: queues and tables in a VM's memory, or EL2's", () => {
  test.each<[string, (host: EmulatedHost, pa: number) => void]>([
    ["command queue", (host, pa) => { host.regs.write64(R.CMDQ_BASE, pa | 7, 0); }],
    ["event queue", (host, pa) => { host.regs.write64(R.EVENTQ_BASE, pa | 7, 0); }],
    ["page request queue", (host, pa) => { host.regs.write64(R.PRIQ_BASE, pa | 7, 0); }],
    ["stream table", (host, pa) => { host.regs.write64(R.STRTAB_BASE, pa, 0); }],
    ["linear stream table", (host, pa) => { host.regs.write64(R.STRTAB_BASE, pa, 0); host.regs.write32(R.STRTAB_BASE_CFG, 6); }],
    ["second level", (host, pa) => { host.memory.store32(HOST_L1 + (SID >> 8) * 8, pa | 9); }],
  ])("%s", (_what, aim) => {
    for (const pa of [PAGE, VM_TABLES, POOL_BASE]) {
      const host = attacked();
      const { world } = host;
      const before = bytes(world, pa);
      restart(host, () => { aim(host, pa); });
      host.regs.write32(OFFSET.CMDQ_PROD, 3);
      // Faults, which would be events, and requests.
      world.dma.read(0x7000, new Int32Array(1));
      world.machine.host.relax();
      expect(bytes(world, pa)).toEqual(before);
      unharmed(host);
    }
  });
});

test("a9: messages of interrupts and of CMD_SYNC", () => {
  const host = attacked();
  for (const name of ["GERROR_IRQ_CFG0", "EVENTQ_IRQ_CFG0", "PRIQ_IRQ_CFG0"] as const) host.regs.write64(OFFSET[name], PAGE, 0);
  for (const name of ["GERROR_IRQ_CFG1", "EVENTQ_IRQ_CFG1"] as const) host.regs.write32(OFFSET[name], 0x0bad);
  host.regs.write32(OFFSET.IRQ_CTRL, -1);
  host.queue(["SYNC", { CS: 1, MSIAddr: PAGE, MSIData: 0x0bad, MSH: 3, MSIAttr: 15 }]);
  host.world.dma.read(0x7000, new Int32Array(1));
  host.queue(["TLBI_S2_IPA"]);
  host.world.machine.host.relax();
  unharmed(host);
});

const IDR0_ATS = 1 << 10;
const ATSCHK = 0x10;

test("a10: ATS by the STE, by CR0 and by command", () => {
  const host = attacked({ id: { ...PRESETS.reference, IDR0: PRESETS.reference.IDR0 | IDR0_ATS } });
  for (let eats = 0; eats < 4; eats++) {
    const ste = new Int32Array(STE_WORDS);
    setField(ste, 0, STE.V, 1);
    setField(ste, 0, STE.Config, STE_CONFIG.bypass);
    setField(ste, 0, STE.EATS, eats);
    host.memory.write(HOST_L2 + (SID & 255) * 64, ste);
    host.queue(["CFGI_STE", { SID, Leaf: 1 }], ["SYNC"]);
    host.regs.write32(OFFSET.CR0, ALL | ATSCHK);
    host.regs.write32(OFFSET.CR0, ALL);
    // What the hardware has: never EATS, and CR0.ATSCHK always.
    expect(hardwareSte(host.world)[STE.EATS.word]! & (3 << STE.EATS.shift)).toBe(0);
    expect(host.world.smmu.registers.read32(OFFSET.CR0) & ATSCHK).toBe(ATSCHK);
  }
  expect(host.regs.read32(OFFSET.CR0) & ATSCHK).toBe(0);
  expect(host.regs.read32(OFFSET.IDR0) & IDR0_ATS).toBe(0);
  unharmed(host);
});

/** The STE that EL2 has for the stream. */
function hardwareSte(world: World): Int32Array {
  const { registers } = world.smmu;
  const base = registers.read64(OFFSET.STRTAB_BASE) & ~63;
  const level2 = world.machine.memory.load32(base + (SID >> 8) * 8) & ~63;
  const ste = new Int32Array(STE_WORDS);
  world.machine.memory.read(level2 + (SID & 255) * 64, ste);
  return ste;
}

test.each([["SMMUEN", CR0.CMDQEN], ["SMMUEN and CMDQEN", 0]])("a11: %s off, a page goes, and on again without a TLBI", (_what, off) => {
  const host = attacked();
  const next = PAGE + 0x10_000;
  host.setSte(STE_CONFIG.bypass);
  expect(host.world.reaches(next, next, 2)).toBe(true);
  host.regs.write32(OFFSET.CR0, off);
  expect(host.world.reaches(next, next, 3)).toBe(false);
  expect(host.world.call("__pkvm_host_donate_hyp", next / PAGE_SIZE)).toBe(0);
  host.regs.write32(OFFSET.CR0, ALL);
  expect(host.world.reaches(next, next, 4)).toBe(false);
  unharmed(host);
});

test("a12: CMDQEN off while SMMUEN is on: EL2 can invalidate all the same", () => {
  const host = attacked();
  host.setSte(STE_CONFIG.bypass);
  host.regs.write32(OFFSET.CR0, CR0.SMMUEN);
  const next = PAGE + 0x10_000;
  expect(host.world.reaches(next, next, 2)).toBe(true);
  expect(host.world.call("__pkvm_host_donate_hyp", next / PAGE_SIZE)).toBe(0);
  expect(host.world.reaches(next, next, 3)).toBe(false);
  unharmed(host);
});

describe("a13: tables that change under EL2", () => {
  test.each<[string, (host: EmulatedHost) => void]>([
    ["every size and format", (host) => {
      for (const log2 of [0, 6, 17, 63]) {
        for (const split of [0, 6, 10, 31]) {
          for (const format of [0, 1, 3]) restart(host, () => { host.regs.write32(R.STRTAB_BASE_CFG, (format << 16) | (split << 6) | log2); });
        }
      }
    }],
    ["registers of a table in use", (host) => {
      host.regs.write64(R.STRTAB_BASE, PAGE, 0);
      host.regs.write32(R.STRTAB_BASE_CFG, 20);
      host.queue(["CFGI_STE", { SID, Leaf: 1 }]);
    }],
    ["level-1 descriptors between two CFGI_STE", (host) => {
      for (const [pointer, span] of [[HOST_L2 + 0x4000, 9], [PAGE, 9], [HOST_L1, 9], [HOST_L2, 31], [HOST_L2, 0]] as const) {
        host.memory.store32(HOST_L1 + (SID >> 8) * 8, pointer | span);
        for (const Leaf of [0, 1]) host.queue(["CFGI_STE", { SID, Leaf }]);
      }
    }],
    ["the level-1 table as a second level", (host) => {
      restart(host, () => { host.memory.store32(HOST_L1 + (SID >> 8) * 8, HOST_L1 | 9); });
    }],
    ["streams beyond the table", (host) => {
      for (const sid of [0x1_0000, 0xffff_ffff]) host.queue(["CFGI_STE", { SID: sid, Leaf: 1 }], ["CFGI_STE_RANGE", { SID: sid, Range: 30 }]);
    }],
    ["a table that is given away afterwards", (host) => {
      host.regs.write32(OFFSET.CR0, 0);
      expect(host.world.call("__pkvm_host_donate_hyp", HOST_L1 / PAGE_SIZE)).toBe(0);
      host.regs.write32(OFFSET.CR0, ALL);
    }],
  ])("%s", (_what, spoil) => {
    const host = attacked();
    spoil(host);
    unharmed(host);
  });
});

describe("a14: commands", () => {
  const known = new Set<number>(Object.values(COMMANDS).map(({ opcode }) => opcode));

  test("all opcodes with every bit set: consumed, or refused as on an SMMU without stage 2", () => {
    const host = attacked();
    for (let opcode = 0; opcode < 256; opcode++) {
      restart(host, () => { host.regs.write32(OFFSET.CMDQ_PROD, 0); host.regs.write32(OFFSET.CMDQ_CONS, 0); });
      host.regs.write32(OFFSET.GERRORN, host.regs.read32(OFFSET.GERROR));
      for (const fill of [0, -1]) {
        host.memory.write(HOST_CMDQ, Int32Array.of((fill & ~0xff) | opcode, fill, fill, fill));
        host.regs.write32(OFFSET.CMDQ_PROD, 1);
      }
      const error = (host.regs.read32(OFFSET.CMDQ_CONS) >>> 24) & 0x7f;
      expect([CERROR.NONE, CERROR.ILL] as number[]).toContain(error);
      if (!known.has(opcode)) expect(error).toBe(CERROR.ILL);
      expect(host.world.smmu.registers.read32(OFFSET.GERROR) ^ host.world.smmu.registers.read32(OFFSET.GERRORN)).toBe(0);
    }
    unharmed(host);
  });

  test("a long queue, full of the dearest command", () => {
    const host = attacked();
    const queue = RAM_BASE + 0x280_0000;
    const log2 = 14;
    const words = Int32Array.of(COMMANDS.CFGI_STE_RANGE.opcode, 0, 31, 0);
    for (let at = 0; at < 2 ** log2; at++) host.memory.write(queue + at * 16, words);
    restart(host, () => {
      host.regs.write64(OFFSET.CMDQ_BASE, queue | log2, 0);
      host.regs.write32(OFFSET.CMDQ_CONS, 0);
    });
    const { el2 } = host.world.machine.counters.read("commands");
    host.regs.write32(OFFSET.CMDQ_PROD, 1 << log2);
    expect(host.regs.read32(OFFSET.CMDQ_CONS)).toBeLessThan(1 << log2);
    expect(host.world.machine.counters.read("commands").el2 - el2).toBeLessThan(2 ** 16);
    unharmed(host);
  });
});

test("a15: every offset, width and value, on both pages", () => {
  const host = attacked();
  for (let offset = 0; offset < 0x2_0000; offset += 4) {
    for (const value of [0, -1, 0x5555_5555]) {
      host.regs.write32(offset, value);
      if (offset % 8 === 0) host.regs.write64(offset, value, value);
    }
    host.regs.read32(offset);
    if (offset % 8 === 0) host.regs.read64(offset);
  }
  unharmed(host);
});

test("a16: a second level for every StreamID: EL2 runs out of memory, and blocks what it has no table for", () => {
  const host = attacked();
  bypassAt(host, HOST_L2);
  restart(host, () => {
    for (let l1 = 0; l1 < 512; l1++) host.memory.store32(HOST_L1 + l1 * 8, HOST_L2 | 9);
  });
  expect(host.regs.read32(OFFSET.CR0ACK)).toBe(ALL);
  unharmed(host);
});

test("a17: an illegal command stops the host's queue, not EL2's", () => {
  const host = attacked();
  host.queue(["TLBI_S12_VMALL"], ["SYNC"]);
  expect(host.regs.read32(OFFSET.CMDQ_CONS) >>> 24).toBe(CERROR.ILL);
  expect(host.regs.read32(OFFSET.GERROR) ^ host.regs.read32(OFFSET.GERRORN)).toBe(1);
  unharmed(host);
});
