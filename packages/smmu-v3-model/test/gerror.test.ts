// Global errors: 6.3.19, 7.5, 12.3.
import { describe, expect, test } from "vitest";
import { TRANSLATION } from "@smmuv3/platform";
import { CERROR, STE_CONFIG } from "@smmuv3/smmu-v3-defs";
import { GERROR_BIT, PRESETS } from "../src/index.ts";
import { BASE, EVTQ, PA, Rig, S1 } from "./rig.ts";

const VA = 0x1_0000;
const NOT_RAM = 0x1000;

test("6.3.19 bits", () => {
  expect(GERROR_BIT).toEqual({
    CMDQ_ERR: 1, EVENTQ_ABT_ERR: 4, PRIQ_ABT_ERR: 8, MSI_CMDQ_ABT_ERR: 16, MSI_EVENTQ_ABT_ERR: 32, MSI_PRIQ_ABT_ERR: 64,
    MSI_GERROR_ABT_ERR: 128, SFM_ERR: 256, CMDQP_ERR: 512, DPT_ERR: 1024,
  });
});

/** One cause of each error that this SMMU finds, to be called any number of times. */
const CAUSES: readonly (readonly [name: keyof typeof GERROR_BIT, prepare: (rig: Rig) => void, cause: (rig: Rig) => void])[] = [
  ["CMDQ_ERR", (rig) => rig.push("SYNC", { CS: 3 }), (rig) => {
    rig.ring();
  }],
  ["EVENTQ_ABT_ERR", (rig) => {
    rig.stage1(1);
    rig.memory.perm[rig.memory.pageIndex(EVTQ)] = 0;
  }, (rig) => rig.access(1, VA)],
  ["MSI_CMDQ_ABT_ERR", () => undefined, (rig) => {
    rig.command("SYNC", { CS: 1, MSIAddr: NOT_RAM });
  }],
  ["MSI_EVENTQ_ABT_ERR", (rig) => {
    rig.stage1(1);
    rig.write("IRQ_CTRL", 0);
    rig.write64("EVENTQ_IRQ_CFG0", NOT_RAM);
    rig.write("IRQ_CTRL", 5);
  }, (rig) => {
    rig.events();
    rig.access(1, VA);
  }],
  ["SFM_ERR", () => undefined, (rig) => {
    rig.smmu.enterServiceFailure();
  }],
];

describe("7.5 activation and acknowledgement", () => {
  test.each(CAUSES)("%s", (name, prepare, cause) => {
    const bit = GERROR_BIT[name];
    const rig = new Rig();
    prepare(rig);
    cause(rig);
    expect([rig.read("GERROR"), rig.pulses.gerror]).toEqual([bit, 1]);
    // Active: a second one is not logged.
    if (name !== "CMDQ_ERR") cause(rig);
    expect([rig.read("GERROR"), rig.pulses.gerror]).toEqual([bit, 1]);
    rig.write("GERRORN", bit);
    // What is still wrong says so at once; otherwise at the next cause, by toggling back.
    if (name !== "CMDQ_ERR") cause(rig);
    expect([rig.read("GERROR"), rig.pulses.gerror]).toEqual([0, 2]);
  });

  test.each(CAUSES)("%s without GERROR_IRQEN is silent", (name, prepare, cause) => {
    const rig = new Rig();
    prepare(rig);
    rig.write("IRQ_CTRL", 4);
    cause(rig);
    expect([rig.read("GERROR"), rig.pulses.gerror]).toEqual([GERROR_BIT[name], 0]);
  });

  test("errors of different kinds add up", () => {
    const rig = new Rig();
    rig.command("SYNC", { CS: 1, MSIAddr: NOT_RAM });
    rig.command("SYNC", { CS: 3 });
    expect([rig.read("GERROR"), rig.pulses.gerror]).toEqual([GERROR_BIT.MSI_CMDQ_ABT_ERR | GERROR_BIT.CMDQ_ERR, 2]);
    // The acknowledgement of one leaves the other.
    rig.write("GERRORN", GERROR_BIT.MSI_CMDQ_ABT_ERR);
    expect(rig.read("CMDQ_CONS")).toBe((CERROR.ILL << 24) | 1);
  });

  test("7.5.1 the abort of its own MSI raises no interrupt", () => {
    const rig = new Rig();
    rig.write("IRQ_CTRL", 0);
    rig.write64("GERROR_IRQ_CFG0", NOT_RAM);
    rig.write("IRQ_CTRL", 5);
    rig.command("SYNC", { CS: 3 });
    expect(rig.read("GERROR")).toBe(GERROR_BIT.CMDQ_ERR | GERROR_BIT.MSI_GERROR_ABT_ERR);
    expect(rig.pulses.gerror).toBe(0);
  });

  test("the GERROR MSI carries its data", () => {
    const rig = new Rig();
    rig.write("IRQ_CTRL", 0);
    rig.write64("GERROR_IRQ_CFG0", BASE + 0x9_0000);
    rig.write("GERROR_IRQ_CFG1", 0x77);
    rig.write("IRQ_CTRL", 1);
    rig.command("SYNC", { CS: 3 });
    expect([rig.memory.load32(BASE + 0x9_0000), rig.pulses.gerror]).toEqual([0x77, 0]);
  });
});

describe("12.3 Service Failure Mode", () => {
  function failed(): Rig {
    const rig = new Rig();
    rig.map(rig.stage1(1), VA, PA, S1.rw);
    rig.ste(2, { Config: STE_CONFIG.bypass });
    rig.access(1, VA);
    rig.access(2, VA);
    rig.smmu.enterServiceFailure();
    return rig;
  }

  test("aborts transactions without a record, cached, bypassed or disabled", () => {
    const rig = failed();
    expect([1, 2, 3].map((sid) => rig.access(sid, VA).result)).toEqual([1, 1, 1]);
    rig.write("CR0", 0xc);
    expect(rig.access(1, VA).result).toBe(TRANSLATION.abort);
    expect(rig.events()).toEqual([]);
  });

  test("leaves the queues alone", () => {
    const rig = failed();
    rig.command("SYNC", { CS: 1 });
    expect([rig.read("CMDQ_CONS"), rig.pulses.cmdSync]).toEqual([0, 0]);
    expect(rig.smmu.recordEvent("E_PAGE_REQUEST", 1)).toBe(false);
  });

  test("is not ended by the acknowledgement of SFM_ERR", () => {
    const rig = failed();
    rig.write("GERRORN", GERROR_BIT.SFM_ERR);
    rig.command("SYNC");
    expect(rig.read("CMDQ_CONS")).toBe(0);
    expect(rig.access(1, VA).result).toBe(TRANSLATION.abort);
  });

  test("registers can be read, and reset ends it", () => {
    const rig = failed();
    expect(rig.read("CR0ACK")).toBe(0xd);
    rig.smmu.reset();
    expect(rig.read("GERROR")).toBe(0);
    expect(rig.access(1, VA).result).toBe(TRANSLATION.ok);
  });

  test("ends stalled transactions", () => {
    const { IDR0, IDR5 } = PRESETS.reference;
    const rig = new Rig({ id: { ...PRESETS.reference, IDR0: IDR0 & ~(3 << 24), IDR5: IDR5 | (4 << 16) } });
    rig.stage1(1, { S: 1 });
    rig.access(1, VA);
    const outcomes: number[] = [];
    rig.smmu.onResume = (_transaction, outcome) => {
      outcomes.push(outcome);
    };
    rig.smmu.enterServiceFailure();
    expect([outcomes, rig.smmu.stalled]).toEqual([[TRANSLATION.abort], []]);
  });
});
