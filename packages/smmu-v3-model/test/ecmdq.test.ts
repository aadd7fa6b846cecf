import { describe, expect, test } from "vitest";
import { ACCESS, TRANSLATION } from "@smmuv3/platform";
import { CERROR, CMD, COMMANDS, OFFSET, place } from "@smmuv3/smmu-v3-defs";
import type { CommandName } from "@smmuv3/smmu-v3-defs";
import { GERROR_BIT } from "../src/index.ts";
import type { SmmuV3Options } from "../src/index.ts";
import { CR0_SMMUEN, Endpoint, WITH_ATS, withEcmdqs } from "./ats-rig.ts";
import { PA, Rig, S1 } from "./rig.ts";

const QUEUES = 0x4006_0000;
const LOG2 = 2;
const EN = 0x8000_0000;
const ERR = 0x80_0000;
/** Two pages of four queues each. */
const ID = withEcmdqs(WITH_ATS, 1, 2);
const PAGE = 0x2_0000;
const STRIDE = 0x4000;

type Values = Readonly<Partial<Record<keyof typeof CMD, number>>>;

class EcmdqRig {
  readonly rig: Rig;
  readonly #prod: number[] = [];

  constructor(options: Partial<SmmuV3Options> = {}, cr0: number = CR0_SMMUEN) {
    this.rig = new Rig({ id: ID, ...options, cr0 });
  }

  at(queue: number): number {
    return PAGE + Math.floor(queue / 4) * 0x1_0000 + (queue % 4) * STRIDE;
  }

  read(queue: number, register: "prod" | "cons"): number {
    return this.rig.smmu.registers.read32(this.at(queue) + (register === "prod" ? 8 : 12)) >>> 0;
  }

  write(queue: number, register: "prod" | "cons", value: number): void {
    this.rig.smmu.registers.write32(this.at(queue) + (register === "prod" ? 8 : 12), value);
  }

  /** Sets up and enables a queue. */
  enable(queue: number): void {
    this.rig.smmu.registers.write64(this.at(queue), this.memoryOf(queue) | LOG2, 0);
    this.#prod[queue] = 0;
    this.write(queue, "prod", EN);
  }

  memoryOf(queue: number): number {
    return QUEUES + queue * 0x100;
  }

  /** Puts a command at the producer's place, and rings unless told not to. */
  command(queue: number, name: CommandName, values: Values = {}, ring: "ring" | "silent" = "ring"): void {
    const prod = this.#prod[queue]!;
    const pa = this.memoryOf(queue) + (prod & 3) * 16;
    this.rig.memory.fill(pa, 16, 0);
    this.rig.memory.store32(pa, place(CMD.Opcode, COMMANDS[name].opcode));
    this.rig.fields(CMD, pa, values);
    this.#prod[queue] = (prod + 1) & 7;
    if (ring === "ring") this.ring(queue);
  }

  ring(queue: number, errack = 0): void {
    this.write(queue, "prod", EN | errack | this.#prod[queue]!);
  }
}

describe("6.3.49 the control pages", () => {
  test("discovery", () => {
    const { registers } = new EcmdqRig().rig.smmu;
    for (const [n, offset] of [[0, 0x2_0000], [1, 0x3_0000]] as const) {
      expect(registers.read64(0x4000 + 32 * n)).toBe(offset | 3);
      expect(registers.read32(0x4008 + 32 * n)).toBe(1);
      expect(registers.read32(0x400c + 32 * n)).toBe(1);
      registers.write32(0x4008 + 32 * n, 0);
      expect(registers.read32(0x4008 + 32 * n)).toBe(1);
    }
    expect(registers.read64(0x4000 + 64)).toBe(0);
  });

  test("without ECMDQ there are none", () => {
    const { registers } = new Rig({ id: WITH_ATS }).smmu;
    expect([registers.read32(0x4000), registers.read32(0x4008)]).toEqual([0, 0]);
    registers.write32(PAGE + 8, EN);
    expect(registers.read32(PAGE + 8)).toBe(0);
  });

  test("6.2.5 queues are spaced evenly, each with its own registers", () => {
    const e = new EcmdqRig();
    for (let queue = 0; queue < 8; queue++) e.write(queue, "prod", queue + 1);
    expect(Array.from({ length: 8 }, (_, queue) => e.read(queue, "prod"))).toEqual([1, 2, 3, 4, 5, 6, 7, 8]);
  });
});

describe("3.5.6.2 enabling and disabling", () => {
  test("BASE and CONS are writable only while the queue is off, and CR1.QUEUE_* only while all are", () => {
    const e = new EcmdqRig();
    const { registers } = e.rig.smmu;
    e.write(1, "cons", 2);
    expect(e.read(1, "cons")).toBe(2);
    e.write(1, "cons", 0);
    e.enable(1);
    expect(e.read(1, "cons")).toBe(EN);
    e.write(1, "cons", 2);
    registers.write64(e.at(1), 0, 0);
    expect([e.read(1, "cons"), registers.read64(e.at(1))]).toEqual([EN, e.memoryOf(1) | LOG2]);
    e.rig.write("CR1", 0x3f);
    expect(e.rig.read("CR1")).toBe(0);
    e.write(1, "prod", 0);
    expect(e.read(1, "cons")).toBe(0);
    e.rig.write("CR1", 0x3f);
    expect(e.rig.read("CR1")).toBe(0x3f);
  });

  test("a disabled queue keeps its commands", () => {
    const e = new EcmdqRig();
    e.enable(0);
    e.write(0, "prod", 0);
    e.command(0, "SYNC", {}, "silent");
    e.write(0, "prod", 1);
    expect(e.read(0, "cons")).toBe(0);
    e.ring(0);
    expect(e.read(0, "cons")).toBe((EN | 1) >>> 0);
  });

  test("PROD is read-only while EN waits for ENACK", () => {
    const e = new EcmdqRig({ progress: "manual" });
    e.enable(0);
    expect([e.read(0, "prod"), e.read(0, "cons")]).toEqual([EN, 0]);
    e.write(0, "prod", 0);
    expect(e.read(0, "prod")).toBe(EN);
    e.rig.smmu.step(0);
    expect(e.read(0, "cons")).toBe(EN);
    e.write(0, "prod", 0);
    expect(e.read(0, "prod")).toBe(0);
  });
});

describe("3.5.6.1 behaviour", () => {
  test("the same commands, with neither CMDQEN nor a clean CMDQ_ERR", () => {
    const e = new EcmdqRig({}, CR0_SMMUEN | 8);
    e.rig.command("SYNC", { CS: 3 });
    expect(e.rig.read("GERROR")).toBe(GERROR_BIT.CMDQ_ERR);
    e.rig.write("CR0", CR0_SMMUEN);
    const root = e.rig.stage1(2);
    e.rig.map(root, 0x1000, PA, S1.rw);
    expect(e.rig.outcome(2, 0x1000)).toBe(PA);
    e.rig.memory.store64(e.rig.leaf(root, 0x1000), 0, 0);
    expect(e.rig.outcome(2, 0x1000)).toBe(PA);
    e.enable(3);
    e.command(3, "TLBI_NH_VA", { ASID: 2, Address: 0x1000 });
    e.command(3, "SYNC", { CS: 1 });
    expect(e.read(3, "cons")).toBe((EN | 2) >>> 0);
    expect(e.rig.pulses.cmdSync).toBe(1);
    expect(e.rig.access(2, 0x1000, ACCESS.read).result).toBe(TRANSLATION.abort);
  });

  test("fills, wraps, and wakes when it is no longer full (IDR0.SEV)", () => {
    let events = 0;
    const e = new EcmdqRig({
      progress: "manual",
      onSev: () => {
        events++;
      },
    });
    e.enable(0);
    e.rig.smmu.step(0);
    for (let round = 0; round < 3; round++) {
      for (let n = 0; n < 4; n++) e.command(0, "CFGI_STE", { SID: n });
      expect((e.read(0, "prod") ^ e.read(0, "cons")) & 7).toBe(4);
      expect(e.rig.smmu.step(3)).toBe(3);
      expect(e.rig.smmu.step(3)).toBe(1);
      expect((e.read(0, "prod") ^ e.read(0, "cons")) & 7).toBe(0);
    }
    expect(events).toBe(3);
  });

  test("queues take turns", () => {
    const e = new EcmdqRig({ progress: "manual" });
    for (const queue of [0, 5]) {
      e.enable(queue);
      for (let n = 0; n < 4; n++) e.command(queue, "CFGI_STE", { SID: n }, "silent");
    }
    e.rig.smmu.step(0);
    for (const queue of [0, 5]) e.ring(queue);
    expect(e.rig.smmu.step(4)).toBe(4);
    expect([0, 5].map((queue) => e.read(queue, "cons") & 7)).toEqual([2, 2]);
  });

  test("an SYNC with an MSI that aborts is MSI_CMDQ_ABT_ERR", () => {
    const e = new EcmdqRig();
    e.enable(0);
    e.command(0, "SYNC", { CS: 1, MSIAddr: 0x1000 });
    expect(e.rig.read("GERROR")).toBe(GERROR_BIT.MSI_CMDQ_ABT_ERR);
    expect(e.read(0, "cons")).toBe((EN | 1) >>> 0);
  });

  test("a SYNC waits for the invalidations of its own queue only (3.9.1.4)", () => {
    const e = new EcmdqRig();
    const endpoint = new Endpoint();
    endpoint.answer = "timeout";
    e.rig.smmu.ats.attach(1, endpoint);
    for (const queue of [0, 1]) e.enable(queue);
    e.command(0, "ATC_INV", { SID: 1, AtcSize: 52 });
    e.command(1, "SYNC");
    expect(e.read(1, "cons")).toBe((EN | 1) >>> 0);
    e.command(0, "SYNC");
    expect(e.read(0, "cons")).toBe((EN | ERR | (CERROR.ATC_INV_SYNC << 24) | 1) >>> 0);
  });
});

describe("3.5.6.3 errors", () => {
  test.each<[string, (e: EcmdqRig) => void, number]>([
    ["CERROR_ILL", (e) => { e.command(0, "TLBI_EL3_ALL"); }, CERROR.ILL],
    ["CERROR_ABT", (e) => {
      e.write(0, "prod", 0);
      e.rig.smmu.registers.write64(e.at(0), 0x1000, 0);
      e.write(0, "prod", EN);
      e.command(0, "SYNC");
    }, CERROR.ABT],
  ])("%s", (_name, provoke, reason) => {
    const e = new EcmdqRig();
    e.enable(0);
    provoke(e);
    expect(e.read(0, "cons")).toBe((EN | ERR | (reason << 24)) >>> 0);
    expect(e.rig.read("GERROR")).toBe(GERROR_BIT.CMDQP_ERR);
    expect(e.rig.pulses.gerror).toBe(1);
  });

  test("stops its queue alone, until ERRACK equals ERR", () => {
    const e = new EcmdqRig();
    for (const queue of [0, 1]) e.enable(queue);
    e.command(0, "SYNC");
    e.command(0, "SYNC", { CS: 3 });
    e.command(0, "SYNC");
    expect(e.read(0, "cons")).toBe((EN | ERR | (CERROR.ILL << 24) | 1) >>> 0);
    e.command(1, "SYNC");
    expect(e.read(1, "cons")).toBe((EN | 1) >>> 0);
    // CMDQP_ERR and its acknowledgement have no effect on the queue.
    e.rig.write("GERRORN", GERROR_BIT.CMDQP_ERR);
    expect(e.read(0, "cons") & 7).toBe(1);
    // Software repairs the command, then acknowledges.
    e.rig.memory.store32(e.memoryOf(0) + 16, COMMANDS.SYNC.opcode);
    e.ring(0, ERR);
    expect(e.read(0, "cons") & (EN | ERR | 7)).toBe((EN | ERR | 3) | 0);
    // The next error toggles ERR back, and the GERROR flag too.
    e.command(0, "SYNC", { CS: 3 }, "silent");
    e.ring(0, ERR);
    expect(e.read(0, "cons")).toBe((EN | (CERROR.ILL << 24) | 3) >>> 0);
    expect(e.rig.read("GERROR")).toBe(0);
  });

  test("ENACK follows EN in spite of an error", () => {
    const e = new EcmdqRig();
    e.enable(0);
    e.command(0, "SYNC", { CS: 3 });
    e.write(0, "prod", 1);
    expect(e.read(0, "cons") & EN).toBe(0);
    // Enabled again with ERRACK made equal, it goes on.
    e.rig.memory.store32(e.memoryOf(0), COMMANDS.SYNC.opcode);
    e.write(0, "prod", EN | ERR | 1);
    expect(e.read(0, "cons") & 7).toBe(1);
  });
});

test("12.3 Service Failure Mode leaves queues alone, and answers PCIe with CA", () => {
  const e = new EcmdqRig();
  e.enable(0);
  e.rig.smmu.enterServiceFailure();
  e.command(0, "SYNC");
  expect(e.read(0, "cons") & 7).toBe(0);
  const { ats, pri } = e.rig.smmu;
  expect(ats.translationRequest({ sid: 1, address: 0 })).toEqual({ status: "CA", translations: [] });
  expect(ats.translatedAccess(1, 0, 0, 0, ACCESS.read)).toBe(TRANSLATION.abort);
  expect(pri.pageRequest({ sid: 1, address: 0, prgIndex: 0, last: true })).toBe("answered");
});

test("3.5.6.2: reset disables the queues", () => {
  const e = new EcmdqRig();
  e.enable(0);
  e.rig.smmu.reset();
  expect([e.read(0, "prod"), e.read(0, "cons")]).toEqual([0, 0]);
  expect(e.rig.smmu.registers.read32(OFFSET.CR0)).toBe(0);
});

test("a saved state has the queues in use, and what their SYNC waits for", () => {
  const e = new EcmdqRig();
  const endpoint = new Endpoint();
  endpoint.answer = "timeout";
  e.rig.smmu.ats.attach(1, endpoint);
  for (const queue of [0, 1]) e.enable(queue);
  e.command(0, "ATC_INV", { SID: 1, AtcSize: 52 });
  const state = e.rig.smmu.saveState();
  e.rig.smmu.reset();
  e.rig.smmu.restoreState(state);
  e.command(1, "SYNC");
  e.command(0, "SYNC");
  expect(e.read(1, "cons")).toBe((EN | 1) >>> 0);
  expect(e.read(0, "cons")).toBe((EN | ERR | (CERROR.ATC_INV_SYNC << 24) | 1) >>> 0);
});
