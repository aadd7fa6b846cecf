import { describe, expect, test } from "vitest";
import { PERM_READ, PERM_RW } from "@smmuv3/platform";
import { CERROR, EVENT_NAMES, OFFSET, STE_CONFIG } from "@smmuv3/smmu-v3-defs";
import { GERROR_BIT, PRG_RESPONSE } from "../src/index.ts";
import type { PageRequest, PageRequestOutcome, PageResponse, SmmuV3Options } from "../src/index.ts";
import { CR0_BASE, CR0_PRIQEN, CR2_REC_CFG_ATS, CR2_RECINVSID, Endpoint, named, WITH_ATS, withIdr3 } from "./ats-rig.ts";
import { Rig } from "./rig.ts";

const PRIQ = 0x4005_0000;
const LOG2 = 2;
const OVFLG = 0x8000_0000;
const ENABLED = CR0_BASE | CR0_PRIQEN;
const SID = 1;

interface Setup extends Partial<SmmuV3Options> {
  readonly cr0?: number;
  readonly cr2?: number;
  readonly lastOnly?: boolean;
}

class PriRig {
  readonly rig: Rig;
  readonly endpoint: Endpoint = new Endpoint();
  interrupts = 0;

  constructor({ cr0 = ENABLED, cr2 = 0, lastOnly = false, ...options }: Setup = {}) {
    const priq = {
      pulse: (): void => {
        this.interrupts++;
      },
    };
    this.rig = new Rig({ id: WITH_ATS, cr0: 0, cr2, irq: { priq }, ...options });
    this.rig.write64("PRIQ_BASE", PRIQ + LOG2);
    this.rig.write("IRQ_CTRL", 0);
    this.rig.write("PRIQ_IRQ_CFG2", lastOnly ? 0x8000_0000 : 0);
    this.rig.write("IRQ_CTRL", 2);
    this.rig.write("CR0", cr0);
    for (const sid of [SID, 1000]) this.rig.smmu.ats.attach(sid, this.endpoint);
  }

  request(request: Partial<PageRequest> = {}): PageRequestOutcome {
    return this.rig.smmu.pri.pageRequest({ sid: SID, address: 0x1000, prgIndex: 3, read: true, ...request });
  }

  fill(): void {
    for (let n = 0; n < 1 << LOG2; n++) this.request();
  }

  /** The answers since the last call. */
  answers(): PageResponse[] {
    return this.endpoint.responses.splice(0);
  }

  record(index: number): number[] {
    return Array.from({ length: 4 }, (_, word) => this.rig.memory.load32(PRIQ + index * 16 + word * 4) >>> 0);
  }

  get prod(): number {
    return this.rig.read("PRIQ_PROD");
  }
}

const STOP = { ssid: 5, read: false, write: false, last: true };
const success = (ssid = -1): PageResponse => ({ sid: SID, ssid, prgIndex: 3, code: PRG_RESPONSE.success });
const failure = (ssid = -1): PageResponse => ({ sid: SID, ssid, prgIndex: 3, code: PRG_RESPONSE.failure });

describe("chapter 8: records", () => {
  test.each<[string, Partial<PageRequest>, number[]]>([
    ["read", {}, [1, 0x1000_0000, 0x1003, 0]],
    ["write, last", { write: true, read: false, last: true }, [1, 0x6000_0000, 0x1003, 0]],
    ["with a PASID", { ssid: 0xabcde, execute: true, privileged: true }, [1, 0x9c0a_bcde, 0x1003, 0]],
    ["X and Priv need a PASID", { execute: true, privileged: true }, [1, 0x1000_0000, 0x1003, 0]],
    ["Stop Marker", STOP, [1, 0xc000_0005, 0x1003, 0]],
    ["PRGIndex and address", { prgIndex: 511, address: 0xffff_8000_1234_5abc }, [1, 0x1000_0000, 0x1234_51ff, 0xffff_8000]],
  ])("%s", (_name, request, words) => {
    const pri = new PriRig();
    expect(pri.request(request)).toBe("queued");
    expect(pri.record(0)).toEqual(words);
    expect([pri.prod, pri.answers()]).toEqual([1, []]);
  });

  test("without substreams there is no PASID", () => {
    const pri = new PriRig({ id: { ...WITH_ATS, IDR1: WITH_ATS.IDR1 & ~(31 << 6) } });
    pri.request({ ssid: 5, privileged: true });
    expect(pri.record(0)).toEqual([1, 0x1000_0000, 0x1003, 0]);
  });

  test.each([-1, 512, 0.5])("a PRGIndex of %s is a RangeError", (prgIndex) => {
    expect(() => new PriRig().request({ prgIndex })).toThrow(RangeError);
  });
});

describe("8.2 the queue does not take requests", () => {
  test.each<[string, number, Partial<PageRequest>, PageRequestOutcome, PageResponse[]]>([
    ["PRIQEN == 0", CR0_BASE, {}, "answered", [failure()]],
    ["SMMUEN == 0 implies PRIQEN == 0", ENABLED & ~1, {}, "answered", [failure()]],
    ["no PASID in the response", CR0_BASE, { ssid: 5 }, "answered", [failure()]],
    ["a Stop Marker has no response", CR0_BASE, STOP, "dropped", []],
    ["LWR == 100 without a PASID is a request", CR0_BASE, { read: false, last: true }, "answered", [failure()]],
  ])("%s", (_name, cr0, request, outcome, answers) => {
    const pri = new PriRig({ cr0 });
    expect(pri.request(request)).toBe(outcome);
    expect([pri.prod, pri.answers(), pri.interrupts]).toEqual([0, answers, 0]);
  });

  test("an external abort of the write", () => {
    const pri = new PriRig();
    const { memory } = pri.rig;
    const page = memory.pageIndex(PRIQ);
    memory.perm[page] = PERM_READ;
    expect(pri.request()).toBe("answered");
    expect(pri.answers()).toEqual([failure()]);
    expect(pri.rig.read("GERROR")).toBe(GERROR_BIT.PRIQ_ABT_ERR);
    expect([pri.prod, pri.interrupts]).toEqual([0, 0]);
    // Nothing is taken until software acknowledges it.
    memory.perm[page] = PERM_RW;
    expect([pri.request(), pri.request(STOP)]).toEqual(["answered", "dropped"]);
    pri.rig.write("GERRORN", GERROR_BIT.PRIQ_ABT_ERR);
    expect(pri.request()).toBe("queued");
    expect(pri.answers()).toEqual([failure()]);
  });

  test("an asynchronous abort loses the entry", () => {
    const pri = new PriRig({ policy: { queueWriteAbort: "asynchronous" } });
    pri.rig.memory.perm[pri.rig.memory.pageIndex(PRIQ)] = PERM_READ;
    expect(pri.request()).toBe("dropped");
    expect([pri.prod, pri.answers(), pri.rig.read("GERROR")]).toEqual([1, [], GERROR_BIT.PRIQ_ABT_ERR]);
  });
});

describe("8.1 overflow", () => {
  test("enters, inhibits writes, ends", () => {
    const pri = new PriRig();
    pri.fill();
    expect(pri.prod).toBe(4);
    expect([pri.request(), pri.prod]).toEqual(["dropped", (OVFLG | 4) >>> 0]);
    // The flag toggles once.
    expect([pri.request({ last: true }), pri.prod]).toEqual(["answered", (OVFLG | 4) >>> 0]);
    expect(pri.answers()).toEqual([success()]);
    // Room alone does not end it: unlike the Event queue, nothing is written.
    pri.rig.write("PRIQ_CONS", 2);
    expect([pri.request(), pri.prod]).toEqual(["dropped", (OVFLG | 4) >>> 0]);
    pri.rig.write("PRIQ_CONS", OVFLG | 4);
    expect([pri.request(), pri.prod]).toEqual(["queued", (OVFLG | 5) >>> 0]);
    // The second overflow toggles it back.
    for (let n = 0; n < 4; n++) pri.request();
    expect(pri.prod).toBe(0);
  });

  const PPS = withIdr3(WITH_ATS, "PPS");
  type Case = readonly [name: string, request: Partial<PageRequest>, set: (rig: Rig) => void, answers: PageResponse[], setup?: Setup];
  const valid = (PPAR: number) => (rig: Rig): void => {
    rig.ste(SID, { Config: STE_CONFIG.bypass, PPAR });
  };
  const invalid = (rig: Rig): void => {
    rig.ste(SID, { V: 0 });
  };
  const cases: readonly Case[] = [
    ["not the last: silence", { last: false }, valid(1), []],
    ["Stop Marker: silence", STOP, valid(1), []],
    ["no PASID: Success", {}, invalid, [success()]],
    ["PASID, PPS: Success with it, whatever the STE is", { ssid: 5 }, invalid, [success(5)], { id: PPS }],
    ["PASID, PPAR == 1", { ssid: 5 }, valid(1), [success(5)]],
    ["PASID, PPAR == 0", { ssid: 5 }, valid(0), [success()]],
    ["PASID, ILLEGAL STE", { ssid: 5 }, invalid, [failure()]],
    ["PASID, out of range", { ssid: 5, sid: 1000 }, invalid, [{ ...failure(), sid: 1000 }]],
  ];
  test.each(cases.map(named))("%s", (_name, [, request, set, answers, setup = {}]) => {
    const pri = new PriRig(setup);
    set(pri.rig);
    pri.fill();
    pri.request({ last: true, ...request });
    expect(pri.answers()).toEqual(answers);
    expect(pri.prod).toBe((OVFLG | 4) >>> 0);
    expect(pri.rig.events()).toEqual([]);
  });

  test.each<[string, number, Partial<PageRequest>, string[]]>([
    ["C_BAD_STE", CR2_REC_CFG_ATS, {}, ["C_BAD_STE"]],
    ["C_BAD_STREAMID", CR2_REC_CFG_ATS | CR2_RECINVSID, { sid: 1000 }, ["C_BAD_STREAMID"]],
    ["C_BAD_STREAMID needs RECINVSID", CR2_REC_CFG_ATS, { sid: 1000 }, []],
  ])("a failed check of PPAR is recorded: %s", (_name, cr2, request, events) => {
    const pri = new PriRig({ cr2 });
    invalid(pri.rig);
    pri.fill();
    pri.request({ last: true, ssid: 5, ...request });
    expect(pri.rig.events().map(([word]) => EVENT_NAMES.get(word! & 0xff))).toEqual(events);
  });
});

describe("6.3.36 interrupts", () => {
  test("LO == 0: from empty to not empty", () => {
    const pri = new PriRig();
    pri.request();
    pri.request({ last: true });
    expect(pri.interrupts).toBe(1);
    pri.rig.write("PRIQ_CONS", 2);
    pri.request();
    expect(pri.interrupts).toBe(2);
  });

  test("LO == 1: with each Last, also when it is lost to an overflow", () => {
    const pri = new PriRig({ lastOnly: true });
    pri.request();
    expect(pri.interrupts).toBe(0);
    pri.request({ last: true });
    pri.request({ last: true });
    expect(pri.interrupts).toBe(2);
    pri.fill();
    pri.request({ last: true });
    expect(pri.interrupts).toBe(3);
    // Not when it is lost for another reason.
    pri.rig.write("CR0", CR0_BASE);
    pri.request({ last: true });
    expect(pri.interrupts).toBe(3);
  });

  test("as an MSI, and its abort", () => {
    const pri = new PriRig();
    const { rig } = pri;
    rig.write("IRQ_CTRL", 0);
    rig.write64("PRIQ_IRQ_CFG0", PRIQ + 0x1000);
    rig.write("PRIQ_IRQ_CFG1", 0x77);
    rig.write("IRQ_CTRL", 2);
    pri.request();
    expect([rig.memory.load32(PRIQ + 0x1000), pri.interrupts]).toEqual([0x77, 0]);
    rig.write("IRQ_CTRL", 0);
    rig.write64("PRIQ_IRQ_CFG0", 0x10_0000);
    rig.write("IRQ_CTRL", 2);
    rig.write("PRIQ_CONS", 1);
    pri.request();
    expect(rig.read("GERROR")).toBe(GERROR_BIT.MSI_PRIQ_ABT_ERR);
  });
});

describe("4.5.2 CMD_PRI_RESP", () => {
  test.each([[0, PRG_RESPONSE.failure], [1, PRG_RESPONSE.invalidRequest], [2, PRG_RESPONSE.success]])("Resp %s", (Resp, code) => {
    const pri = new PriRig();
    pri.rig.command("PRI_RESP", { SID, SSV: 1, SSID: 5, PRGIndex: 300, Resp });
    pri.rig.command("PRI_RESP", { SID, SSID: 5, PRGIndex: 300, Resp });
    expect(pri.answers()).toEqual([5, -1].map((ssid) => ({ sid: SID, ssid, prgIndex: 300, code })));
  });

  test("Resp 3 is ILLEGAL", () => {
    const pri = new PriRig();
    pri.rig.command("PRI_RESP", { SID, Resp: 3 });
    expect(pri.rig.read("CMDQ_CONS") >>> 24).toBe(CERROR.ILL);
    expect(pri.answers()).toEqual([]);
  });
});

test("6.3.33 the base is writable only while PRIQEN is 0", () => {
  const pri = new PriRig();
  pri.rig.write64("PRIQ_BASE", 0);
  expect(pri.rig.smmu.registers.read64(OFFSET.PRIQ_BASE)).toBe(PRIQ + LOG2);
  pri.rig.write("CR0", CR0_BASE);
  pri.rig.write64("PRIQ_BASE", PRIQ + 31);
  // LOG2SIZE is capped by IDR1.PRIQS.
  expect(pri.rig.smmu.pri.log2).toBe(8);
});
