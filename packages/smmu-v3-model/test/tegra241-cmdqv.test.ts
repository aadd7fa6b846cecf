import { describe, expect, test } from "vitest";
import { CERROR, CMD, COMMANDS, place } from "@smmuv3/smmu-v3-defs";
import type { CommandName } from "@smmuv3/smmu-v3-defs";
import { Tegra241Cmdqv } from "../src/index.ts";
import type { SmmuV3Options, Tegra241CmdqvOptions } from "../src/index.ts";
import { Endpoint, WITH_ATS } from "./ats-rig.ts";
import { PA, Rig, S1 } from "./rig.ts";

const QUEUES = 0x4007_0000;
const LOG2 = 2;
const HYP_OWN = 1 << 17;
const vmid = (value: number): number => value << 1;
/** Offsets of the register block. */
const CONFIG = 0x0;
const PARAM = 0x4;
const STATUS = 0x8;
const alloc = (queue: number): number => 0x200 + 4 * queue;
const vintf = (index: number): number => 0x1000 + 0x100 * index;
const page0 = (queue: number): number => 0x1_0000 + 0x80 * queue;
const page1 = (queue: number): number => 0x2_0000 + 0x80 * queue;
const logical0 = (index: number, queue: number): number => 0x3_0000 + 0x2_0000 * index + 0x80 * queue;
const logical1 = (index: number, queue: number): number => logical0(index, queue) + 0x1_0000;
const [CONS, PROD, QCONFIG, QSTATUS, GERROR, GERRORN] = [0, 4, 8, 0xc, 0x10, 0x14];

type Values = Readonly<Partial<Record<keyof typeof CMD, number>>>;

class Cmdqv {
  readonly rig: Rig;
  readonly cmdqv: Tegra241Cmdqv;
  interrupts = 0;
  readonly #prod = new Map<number, number>();

  constructor(options: Tegra241CmdqvOptions = {}, smmu: Partial<SmmuV3Options> = {}) {
    this.rig = new Rig({ id: WITH_ATS, ...smmu });
    this.cmdqv = new Tegra241Cmdqv(this.rig.smmu, {
      irq: {
        pulse: () => {
          this.interrupts++;
        },
      },
      ...options,
    });
  }

  read(offset: number): number {
    return this.cmdqv.read32(offset) >>> 0;
  }

  write(offset: number, value: number): void {
    this.cmdqv.write32(offset, value);
  }

  /** Enables the block and interface `index` with VMID and HYP_OWN as in `config`. */
  enable(index: number, config: number): void {
    this.write(CONFIG, 1);
    this.write(vintf(index), config);
    this.write(vintf(index), config | 1);
  }

  /** Gives queue `queue` to interface `index` as its `logical`, sets it up there and enables it. */
  map(queue: number, index: number, logical: number): void {
    this.write(alloc(queue), (index << 15) | (logical << 1));
    this.write(alloc(queue), (index << 15) | (logical << 1) | 1);
    this.cmdqv.write64(logical1(index, logical), (QUEUES + queue * 0x100) | LOG2, 0);
    this.write(logical0(index, logical) + QCONFIG, 1);
    this.#prod.set(queue, 0);
  }

  command(queue: number, name: CommandName, values: Values = {}): void {
    const prod = this.#prod.get(queue)!;
    const pa = QUEUES + queue * 0x100 + (prod & 3) * 16;
    this.rig.memory.fill(pa, 16, 0);
    this.rig.memory.store32(pa, place(CMD.Opcode, COMMANDS[name].opcode));
    this.rig.fields(CMD, pa, values);
    this.#prod.set(queue, (prod + 1) & 7);
    this.write(page0(queue) + PROD, (prod + 1) & 7);
  }

  cons(queue: number): number {
    return this.read(page0(queue) + CONS);
  }

  /** CONS.ERR after one command; skips the command as a driver does. */
  error(queue: number, name: CommandName, values: Values = {}): number {
    this.command(queue, name, values);
    const error = this.cons(queue) >>> 24;
    if (error !== 0) {
      const at = QUEUES + queue * 0x100 + (this.cons(queue) & 3) * 16;
      this.rig.memory.fill(at, 16, 0);
      this.rig.memory.store32(at, COMMANDS.SYNC.opcode);
      this.write(page0(queue) + GERRORN, this.read(page0(queue) + GERROR));
    }
    return error;
  }
}

describe("registers", () => {
  test.each<[Tegra241CmdqvOptions, number, number]>([
    [{}, 0x4231, 0xb_0000],
    [{ vintfs: 64, vcmdqs: 128, sidsPerVm: 16 }, 0x4671, 0x83_0000],
    [{ vintfs: 1, vcmdqs: 2, sidsPerVm: 1 }, 0x0011, 0x5_0000],
  ])("PARAM of %o", (options, param, size) => {
    const { cmdqv } = new Cmdqv(options);
    expect([cmdqv.read32(PARAM), cmdqv.size]).toEqual([param, size]);
  });

  test.each<Tegra241CmdqvOptions>([{ vintfs: 3 }, { vintfs: 128 }, { vcmdqs: 256 }, { sidsPerVm: 32 }, { vcmdqs: 0.5 }])("%o is a RangeError", (options) => {
    expect(() => new Cmdqv(options)).toThrow(RangeError);
  });

  test("enables and their status", () => {
    const c = new Cmdqv();
    expect(c.read(STATUS)).toBe(0);
    // An interface needs the block.
    c.write(vintf(1), 1);
    expect([c.read(vintf(1)), c.read(vintf(1) + 4)]).toEqual([1, 0]);
    c.write(CONFIG, 1);
    expect([c.read(STATUS), c.read(vintf(1) + 4)]).toEqual([1, 1]);
    c.write(CONFIG, 0);
    expect([c.read(STATUS), c.read(vintf(1) + 4)]).toEqual([0, 0]);
  });

  test("a misaligned access does nothing", () => {
    const { cmdqv } = new Cmdqv();
    cmdqv.write32(CONFIG + 2, 1);
    expect([cmdqv.read32(CONFIG + 2), cmdqv.read32(CONFIG), cmdqv.read32(PARAM + 1)]).toEqual([0, 0, 0]);
  });

  test("HYP_OWN cannot be set in a guest", () => {
    const host = new Cmdqv();
    host.enable(0, HYP_OWN | vmid(7));
    expect(host.read(vintf(0))).toBe(HYP_OWN | vmid(7) | 1);
    const guest = new Cmdqv({ guest: true });
    guest.enable(0, HYP_OWN | vmid(7));
    expect(guest.read(vintf(0))).toBe(vmid(7) | 1);
  });

  test("a queue is reached by its number and, once allocated, through its interface", () => {
    const c = new Cmdqv();
    c.enable(2, HYP_OWN);
    c.write(logical0(2, 1) + PROD, 3);
    expect(c.read(logical0(2, 1) + PROD)).toBe(0);
    c.write(alloc(5), (2 << 15) | (1 << 1) | 1);
    c.write(logical0(2, 1) + PROD, 3);
    c.cmdqv.write64(logical1(2, 1), QUEUES | LOG2, 0xff_ffff);
    expect(c.read(page0(5) + PROD)).toBe(3);
    expect([c.cmdqv.read64(page1(5)), c.cmdqv.hi]).toEqual([QUEUES | LOG2, 0xffff]);
    c.write(alloc(5), 0);
    expect(c.read(logical0(2, 1) + PROD)).toBe(0);
    expect(c.read(page0(5) + PROD)).toBe(3);
  });

  test("a queue is enabled with its interface; its base is fixed then", () => {
    const c = new Cmdqv();
    c.map(0, 0, 0);
    expect(c.read(page0(0) + QSTATUS)).toBe(0);
    c.enable(0, HYP_OWN);
    expect(c.read(page0(0) + QSTATUS)).toBe(1);
    c.write(page1(0), 0);
    c.write(page0(0) + CONS, 2);
    expect([c.read(page1(0)), c.cons(0)]).toEqual([QUEUES | LOG2, 0]);
    c.write(page0(0) + QCONFIG, 0);
    c.write(page1(0), 0);
    expect([c.read(page0(0) + QSTATUS), c.read(page1(0))]).toEqual([0, 0]);
  });

  test("SID_MATCH and SID_REPLACE", () => {
    const c = new Cmdqv({ sidsPerVm: 2 });
    for (const slot of [0, 1, 2]) {
      c.write(vintf(1) + 0x40 + 4 * slot, 0xffff_ffff);
      c.write(vintf(1) + 0x80 + 4 * slot, 0x1234);
    }
    expect([0, 1, 2].map((slot) => c.read(vintf(1) + 0x40 + 4 * slot))).toEqual([0x1f_ffff, 0x1f_ffff, 0]);
    expect([0, 1, 2].map((slot) => c.read(vintf(1) + 0x80 + 4 * slot))).toEqual([0x1234, 0x1234, 0]);
  });
});

describe("commands of the hypervisor's interface", () => {
  test("reach the SMMU as written, and only CS = 0 of a SYNC", () => {
    const c = new Cmdqv();
    c.enable(0, HYP_OWN | vmid(9));
    c.map(1, 0, 0);
    const root = c.rig.stage1(2);
    c.rig.map(root, 0x1000, PA, S1.rw);
    expect(c.rig.outcome(2, 0x1000)).toBe(PA);
    c.rig.map(root, 0x1000, PA + 0x1000, S1.rw);
    expect(c.error(1, "TLBI_NH_VA", { VMID: 0, ASID: 2, Address: 0x1000 })).toBe(0);
    expect(c.rig.outcome(2, 0x1000)).toBe(PA + 0x1000);
    expect(c.error(1, "CFGI_STE", { SID: 2 })).toBe(0);
    expect(c.error(1, "SYNC")).toBe(0);
    expect(c.error(1, "SYNC", { CS: 1 })).toBe(CERROR.ILL);
    expect(c.error(1, "SYNC", { CS: 2 })).toBe(CERROR.ILL);
    expect(c.error(1, "TLBI_EL3_ALL")).toBe(CERROR.ILL);
    expect(c.rig.read("GERROR")).toBe(0);
  });

  test("depend on neither CMDQEN nor the state of CMDQ", () => {
    const c = new Cmdqv({}, {});
    c.rig.write("CR0", 1);
    c.enable(0, HYP_OWN);
    c.map(0, 0, 0);
    expect(c.error(0, "SYNC")).toBe(0);
    expect(c.cons(0)).toBe(1);
  });

  test("wait for the step under manual progress", () => {
    const c = new Cmdqv({}, { progress: "manual" });
    c.enable(0, HYP_OWN);
    c.map(0, 0, 0);
    expect([c.read(STATUS), c.read(page0(0) + QSTATUS)]).toEqual([0, 0]);
    c.rig.smmu.step(0);
    expect([c.read(STATUS), c.read(page0(0) + QSTATUS)]).toEqual([1, 1]);
    for (let n = 0; n < 4; n++) c.command(0, "CFGI_STE", { SID: n });
    expect(c.rig.smmu.step(3)).toBe(3);
    expect(c.cons(0)).toBe(3);
    expect(c.rig.smmu.step(3)).toBe(1);
    expect(c.cons(0)).toBe(4);
  });
});

describe("commands of a guest's interface", () => {
  const GUEST = 1;
  const VMID = 5;
  function guest(): Cmdqv {
    const c = new Cmdqv();
    c.enable(GUEST, vmid(VMID));
    c.map(2, GUEST, 0);
    return c;
  }

  test("HYP_OWN = 0 leaves NH_ASID, NH_VA, ATC_INV and SYNC", () => {
    const c = guest();
    c.write(vintf(GUEST) + 0x80, 1);
    c.write(vintf(GUEST) + 0x40, 1);
    const legal = (Object.keys(COMMANDS) as CommandName[]).filter((name) => c.error(2, name) === 0);
    expect(legal.sort()).toEqual(["ATC_INV", "SYNC", "TLBI_NH_ASID", "TLBI_NH_VA"]);
  });

  test.each<[string, CommandName, Values]>([
    ["NH_ASID", "TLBI_NH_ASID", { ASID: 7 }],
    ["NH_VA", "TLBI_NH_VA", { ASID: 7, Address: 0x1000 }],
  ])("%s acts on the interface's VMID, whatever it names", (_name, command, values) => {
    const c = guest();
    // Two streams with one ASID, of VMID 5 and 6.
    const roots = [5, 6].map((own) => {
      const root = c.rig.stage1(own, { ASID: 7 }, { S2VMID: own });
      c.rig.map(root, 0x1000, PA, S1.rw);
      expect(c.rig.outcome(own, 0x1000)).toBe(PA);
      c.rig.map(root, 0x1000, PA + 0x1000, S1.rw);
      return root;
    });
    expect(roots).toHaveLength(2);
    expect(c.error(2, command, { VMID: 6, ...values })).toBe(0);
    expect(c.rig.outcome(6, 0x1000)).toBe(PA);
    expect(c.rig.outcome(5, 0x1000)).toBe(PA + 0x1000);
  });

  test("ATC_INV goes to the stream that replaces the one it names", () => {
    const c = guest();
    const endpoint = new Endpoint();
    for (const sid of [3, 0x33]) c.rig.smmu.ats.attach(sid, endpoint);
    const sids = (): number[] => endpoint.invalidations.splice(0).map(({ sid }) => sid);
    // Nothing is given yet.
    expect(c.error(2, "ATC_INV", { SID: 3, AtcSize: 52 })).toBe(CERROR.ILL);
    c.write(vintf(GUEST) + 0x80 + 4, 0x33);
    c.write(vintf(GUEST) + 0x40 + 4, 3 << 1);
    expect(c.error(2, "ATC_INV", { SID: 3, AtcSize: 52 })).toBe(CERROR.ILL);
    c.write(vintf(GUEST) + 0x40 + 4, (3 << 1) | 1);
    expect(c.error(2, "ATC_INV", { SID: 3, AtcSize: 52 })).toBe(0);
    expect(sids()).toEqual([0x33]);
    // The physical one is another guest's number.
    expect(c.error(2, "ATC_INV", { SID: 0x33, AtcSize: 52 })).toBe(CERROR.ILL);
    expect(sids()).toEqual([]);
  });

  test("an invalidation without an answer fails the SYNC of its queue alone", () => {
    const c = guest();
    c.map(3, GUEST, 1);
    const endpoint = new Endpoint();
    endpoint.answer = "timeout";
    c.rig.smmu.ats.attach(0x33, endpoint);
    c.write(vintf(GUEST) + 0x80, 0x33);
    c.write(vintf(GUEST) + 0x40, (3 << 1) | 1);
    expect(c.error(2, "ATC_INV", { SID: 3, AtcSize: 52 })).toBe(0);
    expect(c.error(3, "SYNC")).toBe(0);
    c.rig.command("SYNC");
    expect(c.rig.read("GERROR")).toBe(0);
    expect(c.error(2, "SYNC")).toBe(CERROR.ATC_INV_SYNC);
  });
});

describe("errors", () => {
  const MAPS = [0x14, 0x18, 0x24, 0x28];

  test("stop the queue, show in the maps, pulse; GERRORN restarts", () => {
    const c = new Cmdqv({ vintfs: 64, vcmdqs: 128 });
    c.enable(40, HYP_OWN);
    c.map(33, 40, 70);
    c.map(34, 40, 0);
    c.command(33, "SYNC");
    c.command(33, "SYNC", { CS: 3 });
    c.command(33, "SYNC");
    expect(c.cons(33)).toBe((CERROR.ILL << 24) | 1);
    expect([c.read(page0(33) + GERROR), c.read(page0(33) + GERRORN), c.interrupts]).toEqual([1, 0, 1]);
    expect(MAPS.map((map) => c.read(map))).toEqual([0, 1 << 8, 0, 1 << 1]);
    // LVCMDQ 70 is bit 6 of the third word.
    expect([0, 1, 2, 3].map((word) => c.read(vintf(40) + 0xc0 + 4 * word))).toEqual([0, 0, 1 << 6, 0]);
    c.cmdqv.read64(vintf(40) + 0xc8);
    expect(c.cmdqv.read64(vintf(40) + 0xc8)).toBe(1 << 6);
    // Others go on.
    expect(c.error(34, "SYNC")).toBe(0);

    c.rig.memory.fill(QUEUES + 33 * 0x100 + 16, 16, 0);
    c.rig.memory.store32(QUEUES + 33 * 0x100 + 16, COMMANDS.SYNC.opcode);
    c.write(page0(33) + GERRORN, c.read(page0(33) + GERROR));
    expect(c.cons(33)).toBe(3);
    expect(MAPS.map((map) => c.read(map))).toEqual([0, 0, 0, 0]);
    expect(c.interrupts).toBe(1);
  });

  test("a fetch that aborts", () => {
    const c = new Cmdqv();
    c.enable(0, HYP_OWN);
    c.map(0, 0, 0);
    c.write(page0(0) + QCONFIG, 0);
    c.cmdqv.write64(page1(0), 0x1000 | LOG2, 0);
    c.write(page0(0) + QCONFIG, 1);
    c.write(page0(0) + PROD, 1);
    expect(c.cons(0)).toBe(CERROR.ABT << 24);
    expect(c.interrupts).toBe(1);
  });

  test("an interface that is masked does not interrupt", () => {
    const c = new Cmdqv();
    c.enable(1, 0);
    c.map(0, 1, 0);
    c.write(0x1c, 1 << 1);
    expect(c.read(0x1c)).toBe(1 << 1);
    expect(c.error(0, "CFGI_STE")).toBe(CERROR.ILL);
    expect(c.interrupts).toBe(0);
  });

  test("a queue that is taken away shows its error no more", () => {
    const c = new Cmdqv();
    c.enable(1, 0);
    c.map(0, 1, 0);
    c.command(0, "CFGI_STE");
    expect(MAPS.map((map) => c.read(map))).toEqual([2, 0, 1, 0]);
    c.write(alloc(0), 0);
    expect(MAPS.map((map) => c.read(map))).toEqual([0, 0, 0, 0]);
    expect(c.read(page0(0) + GERROR)).toBe(1);
  });

  test("a guest that does not acknowledge cannot storm", () => {
    const c = new Cmdqv();
    c.enable(1, 0);
    c.map(0, 1, 0);
    for (let n = 0; n < 3; n++) c.command(0, "CFGI_STE");
    expect(c.interrupts).toBe(1);
  });
});

test("the sequence of a driver: off, allocate, own, map, run, take down", () => {
  const c = new Cmdqv({ vintfs: 2, vcmdqs: 4 });
  c.write(CONFIG, 0);
  c.write(CONFIG, 1);
  for (let queue = 0; queue < 4; queue++) c.write(alloc(queue), ((queue >> 1) << 15) | ((queue & 1) << 1));
  c.enable(0, HYP_OWN);
  expect(c.read(vintf(0)) & HYP_OWN).toBe(HYP_OWN);
  for (const queue of [0, 1]) c.map(queue, 0, queue);
  for (const queue of [0, 1]) expect(c.error(queue, "SYNC")).toBe(0);
  for (const queue of [1, 0]) {
    c.write(logical0(0, queue) + QCONFIG, 0);
    for (const register of [PROD, CONS]) c.write(logical0(0, queue) + register, 0);
    c.cmdqv.write64(logical1(0, queue), 0, 0);
    expect([c.read(page0(queue) + QSTATUS), c.cons(queue), c.read(page1(queue))]).toEqual([0, 0, 0]);
    c.write(alloc(queue), queue << 1);
  }
  c.write(vintf(0), 0);
  expect(c.read(vintf(0) + 4)).toBe(0);
});

test("reset of the SMMU resets it", () => {
  const c = new Cmdqv();
  c.enable(0, HYP_OWN);
  c.map(0, 0, 0);
  c.rig.smmu.reset();
  expect([c.read(CONFIG), c.read(vintf(0)), c.read(alloc(0)), c.read(page1(0))]).toEqual([0, 0, 0, 0]);
});
