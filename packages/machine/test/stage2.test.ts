import { ABORT, ABORT_ACTION, ABORT_FLAG_WRITE } from "@smmuv3/platform";
import { describe, expect, test } from "vitest";
import { isHostAbort, isHypPanic, isMachineError, Machine } from "../src/index.ts";
import { NONE, RAM, RAM_SIZE, rig, RO, RW, Tables, TABLES, thrown, VTCR, WO } from "./fixture.ts";

const PAGE = RAM + 0x3000;
const MIB2 = 0x20_0000;

test("without stage 2, EL1 has all of RAM and nothing beyond", () => {
  const { machine, frames } = rig();
  machine.host.memory.store32(PAGE, 7);
  expect(machine.memory.load32(PAGE)).toBe(7);
  expect(isHostAbort(thrown(() => machine.host.memory.load32(RAM + RAM_SIZE)))).toBe(true);
  expect(isHostAbort(thrown(() => { machine.host.memory.store32(0, 1); }))).toBe(true);
  expect(machine.aborts).toMatchObject([
    { cause: "external", pa: RAM + RAM_SIZE, write: false, device: false },
    { cause: "external", pa: 0, write: true, device: false },
  ]);
  expect(frames).toEqual([]);
});

describe("rights of a page", () => {
  test.each([
    { name: "invalid", rights: NONE, read: false, write: false },
    { name: "read-only", rights: RO, read: true, write: false },
    { name: "write-only", rights: WO, read: false, write: true },
    { name: "read-write", rights: RW, read: true, write: true },
  ])("$name", ({ rights, read, write }) => {
    for (const start of [0, 1] as const) {
      for (const level of [2, 3] as const) {
        const { machine } = rig();
        const tables = new Tables(machine.memory, TABLES, start);
        tables.map(level === 3 ? PAGE : RAM, rights, level);
        machine.hyp.setHostStage2(tables.regime);
        const allowed = (body: () => unknown): boolean => {
          try {
            body();
            return true;
          } catch (error) {
            expect(isHostAbort(error)).toBe(true);
            return false;
          }
        };
        expect(allowed(() => machine.host.memory.load32(PAGE))).toBe(read);
        expect(allowed(() => { machine.host.memory.store32(PAGE, 1); })).toBe(write);
        const denied = Number(!read) + Number(!write);
        expect(machine.aborts).toHaveLength(denied);
        expect(machine.counters.read("traps.stage2")).toMatchObject({ el1: denied, el2: 0 });
        expect(machine.memory.load32(PAGE)).toBe(write ? 1 : 0);
      }
    }
  });
});

test("EL2 sees the address and the direction, and a retry repeats the access", () => {
  const full = rig();
  full.machine.hyp.setHostStage2(full.tables.regime);
  full.onAbort = () => {
    full.tables.map(PAGE, RW);
    return ABORT_ACTION.retry;
  };
  full.machine.host.memory.store32(PAGE + 8, 5);
  expect(full.machine.memory.load32(PAGE + 8)).toBe(5);
  expect(full.frames).toHaveLength(1);
  expect(full.frames[0]![ABORT.ipaLo]! >>> 0).toBe(PAGE + 8);
  expect(full.frames[0]![ABORT.ipaHi]).toBe(0);
  expect(full.frames[0]![ABORT.flags]).toBe(ABORT_FLAG_WRITE);
  expect(full.frames[0]![ABORT.size]).toBe(4);
  expect(full.machine.aborts).toEqual([]);
});

test.each([
  { name: "a retry that mends nothing", action: ABORT_ACTION.retry, aborts: 3 },
  { name: "an emulated access", action: ABORT_ACTION.emulated, aborts: 1 },
])("$name is an error of the machine", ({ action, aborts }) => {
  const full = rig();
  full.machine.hyp.setHostStage2(full.tables.regime);
  full.onAbort = () => action;
  expect(isMachineError(thrown(() => full.machine.host.memory.load32(PAGE)))).toBe(true);
  expect(full.frames).toHaveLength(aborts);
  expect(full.machine.errors).toHaveLength(1);
  expect(full.machine.panics).toEqual([]);
});

test("a leaf that maps elsewhere is an error of the machine", () => {
  const { machine, tables } = rig();
  tables.map(PAGE, RW, 3, PAGE + 0x1000);
  machine.hyp.setHostStage2(tables.regime);
  expect(isMachineError(thrown(() => machine.host.memory.load32(PAGE)))).toBe(true);
  expect(machine.errors).toMatchObject([{ reason: "host stage 2 is not identity at 0x80003000" }]);
});

test("a stage-2 abort without vectors and an illegal VTCR are panics", () => {
  const bare = new Machine({ memory: { base: RAM, size: RAM_SIZE } });
  bare.hyp.setHostStage2(new Tables(bare.memory).regime);
  expect(isHypPanic(thrown(() => bare.host.memory.load32(PAGE)))).toBe(true);
  expect(bare.panics).toHaveLength(1);

  const { machine, tables } = rig();
  // Level 2 cannot start a 48-bit walk.
  const regime = { ...tables.regime, vtcr: VTCR.level0 & ~(3 << 6) };
  expect(isHypPanic(thrown(() => { machine.hyp.setHostStage2(regime); }))).toBe(true);
});

describe("the TLB is dropped by TLBI and by nothing else", () => {
  const OTHER = RAM + 0x5000;

  /** EL1 has touched PAGE and OTHER, and EL2 has revoked PAGE without a TLBI. */
  function revoked(): ReturnType<typeof rig> {
    const full = rig();
    full.tables.mapPages(RAM, 16, RW);
    full.machine.hyp.setHostStage2(full.tables.regime);
    full.machine.host.memory.load32(PAGE);
    full.machine.host.memory.load32(OTHER);
    full.tables.map(PAGE, NONE);
    full.machine.host.memory.load32(PAGE);
    expect(full.frames).toEqual([]);
    return full;
  }

  test.each([
    { name: "tlbiIpa of the page", drop: (m: Machine) => { m.hyp.tlbiIpa(PAGE, 4096); }, dropped: true },
    { name: "tlbiIpa of an address in it", drop: (m: Machine) => { m.hyp.tlbiIpa(PAGE + 4, 4); }, dropped: true },
    { name: "tlbiIpa of a range over it", drop: (m: Machine) => { m.hyp.tlbiIpa(0, 2 ** 39); }, dropped: true },
    { name: "tlbiAll", drop: (m: Machine) => { m.hyp.tlbiAll(); }, dropped: true },
    { name: "tlbiIpa of the page before", drop: (m: Machine) => { m.hyp.tlbiIpa(PAGE - 4096, 4096); }, dropped: false },
    { name: "tlbiIpa of the page after", drop: (m: Machine) => { m.hyp.tlbiIpa(PAGE + 4096, 4096); }, dropped: false },
    { name: "tlbiIpa of nothing", drop: (m: Machine) => { m.hyp.tlbiIpa(PAGE + 4, 0); }, dropped: false },
    { name: "tlbiIpa outside of RAM", drop: (m: Machine) => { m.hyp.tlbiIpa(0, RAM); }, dropped: false },
    { name: "a barrier", drop: (m: Machine) => { m.hyp.barrier(); }, dropped: false },
  ])("$name", ({ drop, dropped }) => {
    const { machine, frames } = revoked();
    drop(machine);
    if (dropped) expect(isHostAbort(thrown(() => machine.host.memory.load32(PAGE)))).toBe(true);
    else machine.host.memory.load32(PAGE);
    expect(frames).toHaveLength(dropped ? 1 : 0);
    machine.host.memory.load32(OTHER);
    expect(frames).toHaveLength(dropped ? 1 : 0);
  });

  test.each([
    { name: "the same regime again keeps it", change: {}, dropped: false },
    { name: "another VMID drops it", change: { vmid: 2 }, dropped: true },
  ])("$name", ({ change, dropped }) => {
    const { machine, tables, frames } = revoked();
    machine.hyp.setHostStage2({ ...tables.regime, ...change });
    if (dropped) expect(isHostAbort(thrown(() => machine.host.memory.load32(PAGE)))).toBe(true);
    else machine.host.memory.load32(PAGE);
    expect(frames).toHaveLength(dropped ? 1 : 0);
  });

  test("stage 2 off gives everything back", () => {
    const { machine } = revoked();
    machine.hyp.setHostStage2(undefined);
    machine.hyp.tlbiAll();
    machine.hyp.tlbiIpa(PAGE, 4096);
    machine.host.memory.store32(PAGE, 3);
    expect(machine.memory.load32(PAGE)).toBe(3);
  });

  test("TLBIs are counted at EL2", () => {
    const { machine } = revoked();
    machine.hyp.tlbiAll();
    machine.hyp.tlbiIpa(PAGE, 4096);
    expect(machine.counters.read("tlbi.cpu")).toMatchObject({ el1: 0, el2: 2 });
  });

  test("losing write permission is lazy, gaining it is not", () => {
    const { machine, tables, frames } = revoked();
    tables.map(OTHER, RO);
    machine.host.memory.store32(OTHER, 1);
    machine.hyp.tlbiIpa(OTHER, 4096);
    machine.host.memory.load32(OTHER);
    expect(frames).toHaveLength(0);
    expect(isHostAbort(thrown(() => { machine.host.memory.store32(OTHER, 2); }))).toBe(true);
    tables.map(OTHER, RW);
    machine.host.memory.store32(OTHER, 3);
    expect(machine.memory.load32(OTHER)).toBe(3);
  });
});

describe("leaves larger than a page", () => {
  const touched = [RAM + 0x1000, RAM + MIB2 - 4096, RAM + MIB2 + 0x1000, RAM + 2 * MIB2];

  test.each([
    { name: "2 MiB: one address names the block", level: 2 as const, tlbi: RAM + 0x9000, stale: [touched[2], touched[3]] },
    { name: "2 MiB: the other block", level: 2 as const, tlbi: RAM + MIB2, stale: [touched[0], touched[1], touched[3]] },
    { name: "1 GiB: an address that EL1 never touched", level: 1 as const, tlbi: RAM + 0x3000_0000, stale: [] },
    { name: "1 GiB: beyond the block", level: 1 as const, tlbi: RAM + 0x4000_0000, stale: touched },
  ])("$name", ({ level, tlbi, stale }) => {
    const { machine, tables } = rig();
    const blocks = level === 1 ? [RAM] : [RAM, RAM + MIB2, RAM + 2 * MIB2];
    for (const block of blocks) tables.map(block, RW, level);
    machine.hyp.setHostStage2(tables.regime);
    for (const at of touched) machine.host.memory.load32(at);
    for (const block of blocks) tables.map(block, NONE, level);
    machine.hyp.tlbiIpa(tlbi, 4096);
    for (const at of touched) {
      if (stale.includes(at)) machine.host.memory.load32(at);
      else expect(isHostAbort(thrown(() => machine.host.memory.load32(at)))).toBe(true);
    }
  });

  test("one touch caches the block, within 2 MiB", () => {
    const { machine, tables } = rig();
    tables.map(RAM, RW, 1);
    machine.hyp.setHostStage2(tables.regime);
    machine.host.memory.load32(RAM + MIB2 + 0x5000);
    const { perm } = machine.host.memory;
    expect([perm[511], perm[512], perm[1023], perm[1024]]).toEqual([0, 3, 3, 0]);
  });

  test("RAM that starts and ends inside of a block", () => {
    const base = RAM + 0x3000;
    const machine = new Machine({ memory: { base, size: MIB2 } });
    const tables = new Tables(machine.memory, base + 0x10_0000);
    tables.map(RAM, RW, 2);
    tables.map(RAM + MIB2, RW, 2);
    machine.hyp.install({ hvc: () => {}, dataAbort: () => ABORT_ACTION.inject });
    machine.hyp.setHostStage2(tables.regime);
    machine.host.memory.load32(base);
    machine.host.memory.load32(base + MIB2 - 4);
    expect([...machine.host.memory.perm].every((perm) => perm === 3)).toBe(true);
    machine.hyp.tlbiIpa(RAM + MIB2 + 0x10_0000, 4096);
    expect(machine.host.memory.perm.indexOf(0)).toBe((MIB2 - 0x3000) / 4096);
    machine.hyp.tlbiIpa(RAM, 4096);
    expect([...machine.host.memory.perm].every((perm) => perm === 0)).toBe(true);
  });

  test.each([0x1_0000, 0x1_7000, 0x1_f000])("64K pages: any of their addresses names them, e.g. %i", (named) => {
    const { machine, frames } = rig();
    // 64K granule, level 2 first (SL0 = 1), 34-bit input: 32 entries of 512 MiB.
    const [l2, l3] = [TABLES, TABLES + 0x1_0000];
    const vtcr = 30 | (1 << 6) | (1 << 14) | (5 << 16);
    const leaf = (pa: number): number => (pa | (0xf << 2) | (RW << 6) | (3 << 8) | (1 << 10) | 3) | 0;
    machine.memory.store32(l2 + (RAM / 2 ** 29) * 8, (l3 | 3) | 0);
    for (let i = 0; i < 4; i++) machine.memory.store32(l3 + i * 8, leaf(RAM + i * 0x1_0000));
    machine.hyp.setHostStage2({ ttb: l2, vtcr, vmid: 1 });
    machine.host.memory.load32(RAM + 0x1_0000);
    machine.host.memory.load32(RAM + 0x2_0000);
    expect([...machine.host.memory.perm.subarray(0, 64)].filter((perm) => perm === 3)).toHaveLength(32);
    machine.memory.store32(l3 + 8, 0);
    machine.memory.store32(l3 + 16, 0);
    machine.hyp.tlbiIpa(RAM + named, 4096);
    machine.host.memory.load32(RAM + 0x2_0000);
    expect(frames).toEqual([]);
    for (const at of [0x1_0000, 0x1_f000]) {
      expect(isHostAbort(thrown(() => machine.host.memory.load32(RAM + at)))).toBe(true);
    }
  });
});

test("random maps, TLBIs and accesses against a list of what was cached", () => {
  const { machine, tables } = rig();
  machine.hyp.setHostStage2(tables.regime);
  let seed = 12345;
  const random = (below: number): number => {
    seed = (Math.imul(seed, 1103515245) + 12345) & 0x7fffffff;
    return Math.floor((seed / 0x80000000) * below);
  };
  interface Leaf {
    readonly base: number;
    readonly size: number;
    readonly rights: number;
  }
  // Block or pages by 2 MiB; what EL1 may still have cached, and which pages it has surely cached.
  const current: Leaf[] = [];
  let cached: Leaf[] = [];
  const sure = new Map<number, number>();
  const split = new Set<number>();
  const lookUp = (pa: number): Leaf | undefined => current.findLast((leaf) => pa >= leaf.base && pa < leaf.base + leaf.size);
  const outcomes = { stale: 0, walked: 0, denied: 0 };
  for (let step = 0; step < 6000; step++) {
    const pa = RAM + random(3) * MIB2 + random(8) * 0x9000;
    const kind = random(10);
    if (kind === 0) {
      const block = random(2) === 0;
      const base = block ? pa - (pa % MIB2) : pa;
      const rights = [NONE, NONE, RO, RW][random(4)]!;
      // Writing a page below a block builds a fresh table: the rest of the block becomes invalid.
      const window = pa - (pa % MIB2);
      if (!block && !split.has(window)) current.push({ base: window, size: MIB2, rights: NONE });
      if (block) split.delete(window);
      else split.add(window);
      tables.map(base, rights, block ? 2 : 3);
      current.push({ base, size: block ? MIB2 : 4096, rights });
    } else if (kind === 1) {
      const size = [4096, 4096, 0x1_0000, MIB2][random(4)]!;
      machine.hyp.tlbiIpa(pa, size);
      const dropped = cached.filter((leaf) => leaf.base < pa + size && pa < leaf.base + leaf.size);
      cached = cached.filter((leaf) => !dropped.includes(leaf));
      for (const leaf of dropped) {
        // A window is dropped as a whole once a block was cached in it.
        for (const page of sure.keys()) if (page >= leaf.base && page < leaf.base + leaf.size) sure.delete(page);
      }
    } else {
      const write = random(2) === 0;
      const need = write ? 2 : 1;
      let allowed = true;
      try {
        if (write) machine.host.memory.store32(pa + 4092, step);
        else machine.host.memory.load32(pa + 4092);
      } catch {
        allowed = false;
      }
      const leaf = lookUp(pa);
      const now = ((leaf?.rights ?? NONE) & need) !== 0;
      const held = ((sure.get(pa) ?? 0) & need) !== 0;
      const could = cached.some((one) => pa >= one.base && pa < one.base + one.size && (one.rights & need) !== 0);
      if (now || held) expect(allowed, `step ${step}`).toBe(true);
      if (!now && !could) expect(allowed, `step ${step}`).toBe(false);
      outcomes[!allowed ? "denied" : now ? "walked" : "stale"]++;
      if (now && !held && leaf !== undefined) {
        cached.push(leaf);
        sure.set(pa, (sure.get(pa) ?? 0) | leaf.rights);
      }
    }
  }
  expect(Math.min(...Object.values(outcomes))).toBeGreaterThan(50);
});

test("whether EL1 may access a page can be asked without a trap; the TLB remembers", () => {
  const { machine, tables, frames } = rig();
  expect([machine.hostStage2, machine.hostAdmits(PAGE, true)]).toEqual([undefined, true]);
  machine.hyp.setHostStage2(tables.regime);
  expect(machine.hostStage2).toEqual(tables.regime);
  expect(machine.hostAdmits(PAGE, false)).toBe(false);
  tables.map(PAGE, RO);
  expect([machine.hostAdmits(PAGE, false), machine.hostAdmits(PAGE, true), machine.hostAdmits(0, false)]).toEqual([true, false, false]);
  tables.map(PAGE, NONE);
  expect(machine.hostAdmits(PAGE, false)).toBe(true);
  machine.hyp.tlbiIpa(PAGE, 4096);
  expect([machine.hostAdmits(PAGE, false), frames]).toEqual([false, []]);
});
