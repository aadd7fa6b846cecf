// The Stall model: 3.12.2, 4.7.1, 4.7.2, 5.5, 7.2.1.
import { describe, expect, test } from "vitest";
import { ACCESS, TRANSLATION } from "@smmuv3/platform";
import { maskOf, REG, STE_CONFIG } from "@smmuv3/smmu-v3-defs";
import { GERROR_BIT, PRESETS } from "../src/index.ts";
import type { IdRegisters, StalledTransaction } from "../src/index.ts";
import { BASE, EVTQ, EVTQ_LOG2, PA, Rig, S1, S2, STRTAB } from "./rig.ts";
import type { CdValues, RigOptions, SteValues } from "./rig.ts";

const { ok, abort, raz, stalled } = TRANSLATION;
const VA = 0x12_3456_7abc;
const VA_LO = 0x3456_7abc;
const VA_HI = 0x12;
const STALL = 2 ** 31;

function identity(stallModel: number, stallMax: number, termModel: number = 0): IdRegisters {
  const { IDR0, IDR5 } = PRESETS.reference;
  const fields = maskOf(REG.IDR0.STALL_MODEL) | maskOf(REG.IDR0.TERM_MODEL);
  return {
    ...PRESETS.reference,
    IDR0: (IDR0 & ~fields) | (stallModel << REG.IDR0.STALL_MODEL.shift) | (termModel << REG.IDR0.TERM_MODEL.shift),
    IDR5: IDR5 | (stallMax << REG.IDR5.STALL_MAX.shift),
  };
}

type Answer = readonly [address: number, outcome: number, pa?: number];

/** A machine whose masters note how their stalled transactions end. */
class StallRig extends Rig {
  readonly answers: Answer[] = [];

  constructor(options: RigOptions = {}) {
    super({ id: identity(0, 4), ...options });
    this.smmu.onResume = ({ lo, hi, paLo, paHi }, outcome) => {
      const address = hi * 2 ** 32 + (lo >>> 0);
      this.answers.push(outcome === ok ? [address, outcome, paHi * 2 ** 32 + (paLo >>> 0)] : [address, outcome]);
    };
  }

  /** A stage-1 stream that stalls; returns the root of its tables. */
  stalling(sid: number, cd: CdValues = {}, ste: SteValues = {}): number {
    return this.stage1(sid, { S: 1, ...cd }, ste);
  }

  resume(sid: number, stag: number, action: "retry" | "abort" | "raz"): void {
    this.command("RESUME", { SID: sid, STAG: stag, Ac: action === "retry" ? 1 : 0, Ab: action === "abort" ? 1 : 0 });
  }

  get states(): string[] {
    return this.smmu.stalled.map(({ state, stag }) => (stag < 0 ? state : `${state} ${stag}`));
  }
}

describe("5.5 which faults stall", () => {
  const CLASS_IN = 2 << 8;
  const R = 1 << 3;
  const S2BIT = 1 << 7;
  test.each<[string, (rig: StallRig) => void, number, readonly number[]]>([
    ["F_TRANSLATION of stage 1", (rig) => rig.stalling(1), 0, [0x10, CLASS_IN | R, 0, 0]],
    ["F_ADDR_SIZE of stage 1", (rig) => {
      rig.map(rig.stalling(1, { IPS: 0 }), VA, 2 ** 32, S1.rw);
    }, 0, [0x11, CLASS_IN | R, 0, 0]],
    ["F_ACCESS of stage 1", (rig) => {
      rig.map(rig.stalling(1), VA, PA, S1.noAf);
    }, 0, [0x12, CLASS_IN | R, 0, 0]],
    ["F_PERMISSION of stage 1", (rig) => {
      rig.map(rig.stalling(1), VA, PA, S1.ro);
    }, 1, [0x13, CLASS_IN, 0, 0]],
    ["F_TRANSLATION of stage 2", (rig) => rig.stage2(1, 1, { S2S: 1 }), 0, [0x10, CLASS_IN | R | S2BIT, VA_LO & ~0xfff, VA_HI]],
    ["F_PERMISSION of stage 2", (rig) => {
      rig.map(rig.stage2(1, 1, { S2S: 1 }), VA, PA, S2.ro);
    }, 1, [0x13, CLASS_IN | S2BIT, VA_LO & ~0xfff, VA_HI]],
    ["stage 2, on a walk of stage 1", (rig) => {
      rig.nested(1, 1, { TTB0: BASE + 0x200_0000 }, { S2S: 1 });
    }, 0, [0x10, (1 << 8) | R | S2BIT, BASE + 0x200_0000, 0]],
    ["stage 2, fetching a CD", (rig) => {
      rig.nested(1, 1, {}, { S2S: 1, S1ContextPtr: BASE + 0x200_0000 });
    }, 0, [0x10, R | S2BIT, BASE + 0x200_0000, 0]],
  ])("%s", (_name, build, flags, [type, access, ipaLo, ipaHi]) => {
    const rig = new StallRig();
    build(rig);
    expect(rig.access(1, VA, flags).result).toBe(stalled);
    expect(rig.events()).toEqual([[type, 1, STALL, access, VA_LO, VA_HI, ipaLo! >>> 0, ipaHi]]);
    expect(rig.smmu.stalled).toMatchObject([
      { sid: 1, lo: VA_LO, hi: VA_HI, flags, state: "recorded", stag: 0, outcome: stalled },
    ]);
    expect(rig.smmu.lastStalled).toBe(rig.smmu.stalled[0]);
  });

  test.each<[string, (rig: StallRig) => void, number]>([
    ["F_WALK_EABT", (rig) => rig.stalling(1, { TTB0: 0x1000 }), VA],
    ["C_BAD_CD", (rig) => rig.stalling(1, { V: 0 }), VA],
    ["F_CD_FETCH", (rig) => rig.stalling(1, {}, { S1ContextPtr: 0x1000 }), VA],
    ["F_STREAM_DISABLED", (rig) => rig.stalling(1, {}, { S1CDMax: 4 }), VA],
    ["C_BAD_STE", () => undefined, VA],
    ["F_ADDR_SIZE of a bypass", (rig) => {
      rig.ste(1, { Config: STE_CONFIG.bypass, S2S: 1 });
    }, 2 ** 60],
    ["F_ADDR_SIZE of stage 1 where stage 2 alone translates", (rig) => rig.stage2(1, 1, { S2S: 1 }), 2 ** 60],
  ])("%s aborts", (name, build, address) => {
    const rig = new StallRig();
    build(rig);
    expect(rig.access(1, address).result).toBe(abort);
    expect(rig.smmu.explainLast()).toBe(name.split(" ")[0]);
    expect(rig.events()).toMatchObject([{ 2: 0 }]);
    expect(rig.smmu.stalled).toEqual([]);
  });

  /** Each stage stalls or terminates for itself (3.12.5). */
  test.each<[number, number, "stage 1" | "stage 2", number]>([
    [0, 0, "stage 1", abort], [0, 0, "stage 2", abort], [0, 1, "stage 1", abort], [0, 1, "stage 2", stalled],
    [1, 0, "stage 1", stalled], [1, 0, "stage 2", abort], [1, 1, "stage 1", stalled], [1, 1, "stage 2", stalled],
  ])("CD.S = %i, STE.S2S = %i, fault at %s", (S, S2S, where, expected) => {
    const rig = new StallRig();
    const { root1 } = rig.nested(1, 1, { S }, { S2S });
    if (where === "stage 2") rig.map(root1, VA, 0x1_0000_0000, S1.rw);
    expect(rig.access(1, VA).result).toBe(expected);
    expect(rig.events()).toHaveLength(1);
  });

  test.each<[string, CdValues]>([["R = 0", { R: 0 }], ["A = 0", { A: 0 }], ["A = R = 0", { A: 0, R: 0 }]])(
    "S with %s: stalls and is recorded", (_name, cd) => {
      const rig = new StallRig();
      rig.stalling(1, cd);
      expect(rig.access(1, VA).result).toBe(stalled);
      expect(rig.events()).toHaveLength(1);
    },
  );

  /** STALL_MODEL 0 both, 1 terminate only, 2 stall only. */
  test.each<[string, number, CdValues, SteValues, string]>([
    ["both, S = 0", 0, { S: 0 }, {}, "F_TRANSLATION"],
    ["both, S = 1", 0, { S: 1 }, {}, "stalled"],
    ["both, S = 1 with S1STALLD", 0, { S: 1 }, { S1STALLD: 1 }, "C_BAD_CD"],
    ["both, S = 0 with S1STALLD", 0, { S: 0 }, { S1STALLD: 1 }, "F_TRANSLATION"],
    ["terminate only, S = 1", 1, { S: 1 }, {}, "C_BAD_CD"],
    ["terminate only, S = 0", 1, { S: 0 }, {}, "F_TRANSLATION"],
    ["terminate only, S1STALLD", 1, {}, { S1STALLD: 1 }, "C_BAD_STE"],
    ["stall only, S = 1", 2, { S: 1 }, {}, "stalled"],
    ["stall only, S = 0", 2, { S: 0 }, {}, "C_BAD_CD"],
    ["stall only, S1STALLD", 2, {}, { S1STALLD: 1 }, "C_BAD_STE"],
  ])("%s", (_name, model, cd, ste, expected) => {
    const rig = new StallRig({ id: identity(model, 4) });
    rig.stage1(1, cd, ste);
    const { result } = rig.access(1, VA);
    expect(result === stalled ? "stalled" : rig.smmu.explainLast()).toBe(expected);
  });
});

describe("4.7.1 CMD_RESUME", () => {
  test("retry after the cause is gone: the access goes through", () => {
    const rig = new StallRig();
    const root = rig.stalling(1);
    rig.access(1, VA);
    rig.map(root, VA, PA, S1.rw);
    rig.resume(1, 0, "retry");
    expect(rig.answers).toEqual([[VA, ok, PA + 0xabc]]);
    expect(rig.smmu.stalled).toEqual([]);
    expect(rig.smmu.lastStalled).toMatchObject({ outcome: ok, stag: -1 });
  });

  test("retry with the cause still there: stalls again, with a record", () => {
    const rig = new StallRig();
    rig.stalling(1);
    rig.access(1, VA);
    rig.resume(1, 0, "retry");
    expect(rig.answers).toEqual([]);
    expect(rig.events()).toHaveLength(2);
    expect(rig.states).toEqual(["recorded 0"]);
  });

  test("retry sees the configuration of now", () => {
    const rig = new StallRig();
    rig.stalling(1);
    rig.access(1, VA);
    rig.ste(1, { Config: STE_CONFIG.abort });
    rig.command("CFGI_STE", { SID: 1 });
    rig.resume(1, 0, "retry");
    expect(rig.answers).toEqual([[VA, abort]]);
  });

  test.each<[number, "abort" | "raz", number]>([[0, "abort", abort], [0, "raz", raz], [1, "abort", abort], [1, "raz", abort]])(
    "terminate, TERM_MODEL = %i, %s", (termModel, action, expected) => {
      const rig = new StallRig({ id: identity(0, 4, termModel) });
      rig.stalling(1);
      rig.access(1, VA);
      rig.resume(1, 0, action);
      expect(rig.answers).toEqual([[VA, expected]]);
      expect(rig.smmu.stalled).toEqual([]);
    },
  );

  test("a stall of stage 2 may end RAZ/WI as well", () => {
    const rig = new StallRig();
    rig.stage2(1, 1, { S2S: 1 });
    rig.access(1, VA);
    rig.resume(1, 0, "raz");
    expect(rig.answers).toEqual([[VA, raz]]);
  });

  test.each<[string, number, number]>([
    ["the StreamID is another's", 2, 0],
    ["the StreamID is out of range", 0x1_0001, 0],
    ["no stall has the STAG", 1, 1],
    ["the STAG is of another stream", 1, 2],
  ])("no effect where %s", (_name, sid, stag) => {
    const rig = new StallRig();
    rig.stalling(1);
    rig.stalling(2);
    rig.access(1, VA);
    rig.access(2, VA);
    rig.access(2, VA + 0x1000);
    rig.resume(sid, stag === 2 ? 1 : stag === 1 ? 3 : 0, "abort");
    expect(rig.answers).toEqual([]);
    expect(rig.states).toEqual(["recorded 0", "recorded 1", "recorded 2"]);
    expect(rig.read("CMDQ_CONS")).toBe(1);
  });

  test("any order", () => {
    const rig = new StallRig();
    rig.stalling(1);
    for (let i = 0; i < 4; i++) rig.access(1, VA + i * 0x1000);
    for (const stag of [2, 0, 3, 1]) rig.resume(1, stag, "abort");
    expect(rig.answers.map(([address]) => (address - VA) / 0x1000)).toEqual([2, 0, 3, 1]);
  });

  test("a second answer finds nothing, and the STAG may be used again", () => {
    const rig = new StallRig();
    rig.stalling(1);
    rig.access(1, VA);
    rig.resume(1, 0, "abort");
    rig.resume(1, 0, "abort");
    expect(rig.answers).toHaveLength(1);
    rig.access(1, VA);
    expect(rig.states).toEqual(["recorded 0"]);
  });

  test("TLB and configuration invalidation leave stalled transactions alone (4.3.8)", () => {
    const rig = new StallRig();
    const root = rig.stalling(1);
    rig.access(1, VA);
    rig.map(root, VA, PA, S1.rw);
    rig.command("TLBI_NSNH_ALL");
    rig.command("CFGI_STE_RANGE", { Range: 31 });
    rig.command("SYNC", { CS: 1 });
    expect(rig.states).toEqual(["recorded 0"]);
  });
});

describe("4.7.2 CMD_STALL_TERM", () => {
  test("aborts all of one stream, whatever STE and CD say", () => {
    const rig = new StallRig();
    rig.stalling(1, { A: 0 });
    rig.stalling(2);
    rig.access(1, VA);
    rig.access(2, VA);
    rig.access(1, VA + 0x1000);
    rig.command("STALL_TERM", { SID: 1 });
    expect(rig.answers).toEqual([[VA, abort], [VA + 0x1000, abort]]);
    expect(rig.states).toEqual(["recorded 1"]);
    // Their STAGs are free.
    rig.access(1, VA);
    expect(rig.states).toEqual(["recorded 1", "recorded 0"]);
  });

  test("without effect on a stream without stalls", () => {
    const rig = new StallRig();
    rig.command("STALL_TERM", { SID: 1 });
    expect([rig.read("CMDQ_CONS"), rig.answers]).toEqual([1, []]);
  });

  test("also those without a record, whose record never comes", () => {
    const rig = new StallRig();
    rig.stalling(1);
    for (let i = 0; i < 6; i++) rig.access(1, VA + i * 0x1000);
    expect(rig.states).toEqual(["recorded 0", "recorded 1", "recorded 2", "recorded 3", "waiting", "waiting"]);
    rig.command("STALL_TERM", { SID: 1 });
    expect(rig.answers).toHaveLength(6);
    expect(rig.events()).toHaveLength(4);
  });

  test("the sequence of 4.7.2.1 leaves nothing of the stream", () => {
    const rig = new StallRig();
    rig.stalling(1);
    for (let i = 0; i < 6; i++) rig.access(1, VA + i * 0x1000);
    rig.ste(1, { Config: STE_CONFIG.abort });
    rig.command("CFGI_STE", { SID: 1 });
    rig.command("SYNC");
    rig.command("STALL_TERM", { SID: 1 });
    rig.command("SYNC");
    rig.events();
    expect(rig.smmu.stalled).toEqual([]);
    expect(rig.access(1, VA).result).toBe(abort);
    expect(rig.events()).toEqual([]);
  });
});

describe("7.2.1 stalls without a record", () => {
  const SIZE = 1 << EVTQ_LOG2;
  /** Streams 1 (stalls) and 2 (terminates); the queue is full of records of 2. */
  function full(): StallRig & { root: number } {
    const rig = new StallRig();
    const root = rig.stalling(1);
    rig.stage1(2);
    for (let i = 0; i < SIZE; i++) rig.access(2, VA);
    return Object.assign(rig, { root });
  }

  test("wait for room in a full queue, and are no overflow", () => {
    const rig = full();
    expect(rig.access(1, VA).result).toBe(stalled);
    expect(rig.states).toEqual(["waiting"]);
    expect(rig.read("EVENTQ_PROD")).toBe(SIZE);
    expect(rig.smmu.counters.read("events.lost").device).toBe(0);
    rig.write("EVENTQ_CONS", 1);
    expect(rig.states).toEqual(["recorded 0"]);
    expect(rig.smmu.decodeEvents().at(-1)!.words[1]).toBe(1);
  });

  test("proceed without a record where the cause is gone by then", () => {
    const rig = full();
    rig.access(1, VA);
    rig.map(rig.root, VA, PA, S1.rw);
    rig.write("EVENTQ_CONS", 1);
    expect(rig.answers).toEqual([[VA, ok, PA + 0xabc]]);
    expect(rig.smmu.decodeEvents()).toHaveLength(SIZE - 1);
  });

  test("record another fault where the configuration has changed by then", () => {
    const rig = full();
    rig.access(1, VA);
    rig.memory.fill(STRTAB + 64, 64, 0);
    rig.command("CFGI_STE", { SID: 1 });
    rig.write("EVENTQ_CONS", 1);
    expect(rig.answers).toEqual([[VA, abort]]);
    expect(rig.smmu.decodeEvents().at(-1)!.text).toBe("C_BAD_STE SID=1");
  });

  test("are recorded in their order, as far as there is room", () => {
    const rig = full();
    for (let i = 0; i < 3; i++) rig.access(1, VA + i * 0x1000);
    rig.write("EVENTQ_CONS", 2);
    expect(rig.states.sort()).toEqual(["recorded 0", "recorded 1", "waiting"]);
    expect(rig.smmu.decodeEvents().slice(-2).map(({ words }) => words[4]! >>> 0)).toEqual([VA_LO, VA_LO + 0x1000]);
    rig.events();
    expect(rig.states).toEqual(["recorded 0", "recorded 1", "recorded 2"]);
  });

  test("cannot be resumed: there is no STAG", () => {
    const rig = full();
    rig.access(1, VA);
    for (let stag = 0; stag < 4; stag++) rig.resume(1, stag, "abort");
    expect(rig.answers).toEqual([]);
  });

  test("wait for EVENTQEN", () => {
    const rig = new StallRig({ cr0: 9 });
    rig.stalling(1);
    expect(rig.access(1, VA).result).toBe(stalled);
    expect(rig.states).toEqual(["waiting"]);
    rig.write("CR0", 0xd);
    expect(rig.states).toEqual(["recorded 0"]);
    expect(rig.events()).toHaveLength(1);
  });

  test("wait for the acknowledgement of EVENTQ_ABT_ERR", () => {
    const rig = new StallRig();
    rig.stalling(1);
    rig.memory.perm[rig.memory.pageIndex(EVTQ)] = 0;
    rig.access(1, VA);
    expect([rig.states, rig.read("EVENTQ_PROD"), rig.read("GERROR")]).toEqual([["waiting"], 0, GERROR_BIT.EVENTQ_ABT_ERR]);
    expect(rig.smmu.counters.read("events.lost").device).toBe(0);
    rig.memory.perm[rig.memory.pageIndex(EVTQ)] = 3;
    rig.write("GERRORN", GERROR_BIT.EVENTQ_ABT_ERR);
    expect(rig.states).toEqual(["recorded 0"]);
    expect(rig.events()).toHaveLength(1);
  });

  test("an asynchronous abort loses the record of a stall: STALL_TERM is what is left (7.2.2)", () => {
    const rig = new StallRig({ policy: { queueWriteAbort: "asynchronous" } });
    rig.stalling(1);
    rig.memory.perm[rig.memory.pageIndex(EVTQ)] = 0;
    rig.access(1, VA);
    expect([rig.states, rig.read("EVENTQ_PROD")]).toEqual([["recorded 0"], 1]);
    rig.command("STALL_TERM", { SID: 1 });
    expect(rig.answers).toEqual([[VA, abort]]);
  });

  test("wait for a STAG when STALL_MAX transactions are stalled", () => {
    const rig = new StallRig({ id: identity(0, 2) });
    rig.stalling(1);
    for (let i = 0; i < 3; i++) rig.access(1, VA + i * 0x1000);
    expect(rig.states).toEqual(["recorded 0", "recorded 1", "waiting"]);
    expect(rig.events()).toHaveLength(2);
    rig.resume(1, 1, "abort");
    expect(rig.states).toEqual(["recorded 0", "recorded 1"]);
    expect(rig.events()).toMatchObject([{ 2: STALL + 1, 4: VA_LO + 0x2000 }]);
  });

  test("are tried again at a step where the SMMU has a clock", () => {
    const rig = new StallRig({ progress: "manual", cr0: 9 });
    rig.stalling(1);
    rig.access(1, VA);
    rig.write("CR0", 0xd);
    expect(rig.states).toEqual(["waiting"]);
    rig.smmu.step(0);
    expect(rig.states).toEqual(["recorded 0"]);
  });
});

describe("6.3.9.6 SMMUEN", () => {
  test("clearing it aborts everything and frees the STAGs", () => {
    const rig = new StallRig();
    rig.stalling(1);
    for (let i = 0; i < 5; i++) rig.access(1, VA + i * 0x1000);
    rig.write("CR0", 0xc);
    expect(rig.answers.map(([, outcome]) => outcome)).toEqual([abort, abort, abort, abort, abort]);
    expect(rig.smmu.stalled).toEqual([]);
    rig.write("CR0", 0xd);
    rig.events();
    rig.access(1, VA);
    expect(rig.states).toEqual(["recorded 0"]);
  });

  test("reset aborts everything", () => {
    const rig = new StallRig();
    rig.stalling(1);
    rig.access(1, VA);
    rig.smmu.reset();
    expect(rig.answers).toEqual([[VA, abort]]);
  });
});

describe("3.12.2.1 duplicates", () => {
  const suppress: RigOptions = { policy: { stallDuplicates: "suppress" } };
  const DUPLICATE = "suppressed";
  test.each<[string, (rig: StallRig) => void, string]>([
    ["the same page", (rig) => rig.access(1, VA + 4), DUPLICATE],
    ["another page", (rig) => rig.access(1, VA + 0x1000), "recorded 1"],
    ["the same page 4 GiB up", (rig) => rig.access(1, VA + 2 ** 32), "recorded 1"],
    ["a write", (rig) => rig.access(1, VA, ACCESS.write), "recorded 1"],
    ["privileged", (rig) => rig.access(1, VA, ACCESS.privileged), "recorded 1"],
    ["an instruction", (rig) => rig.access(1, VA, ACCESS.instruction), "recorded 1"],
    ["another stream", (rig) => rig.access(2, VA), "recorded 1"],
  ])("%s", (_name, second, expected) => {
    const rig = new StallRig(suppress);
    rig.stalling(1);
    rig.stalling(2);
    rig.access(1, VA);
    second(rig);
    expect(rig.states).toEqual(["recorded 0", expected]);
    expect(rig.events()).toHaveLength(expected === DUPLICATE ? 1 : 2);
  });

  test("another substream", () => {
    const rig = new StallRig(suppress);
    rig.stalling(1, {}, { S1CDMax: 2, S1DSS: 2 });
    for (let ssid = 1; ssid < 4; ssid++) rig.cd(BASE + 0x4_0000 + 64 + ssid * 64, { S: 1, TTB0: rig.alloc(0x1000) });
    // The CDs of stream 1 begin at an aligned table.
    rig.ste(1, { Config: STE_CONFIG.s1, S1ContextPtr: BASE + 0x5_0000, S1CDMax: 2, S1DSS: 2 });
    for (let ssid = 0; ssid < 4; ssid++) rig.cd(BASE + 0x5_0000 + ssid * 64, { S: 1, TTB0: rig.alloc(0x1000), ASID: ssid });
    rig.access(1, VA, ACCESS.ssidValid, 1);
    rig.access(1, VA, ACCESS.ssidValid, 2);
    rig.access(1, VA);
    rig.access(1, VA, ACCESS.ssidValid, 1);
    expect(rig.states).toEqual(["recorded 0", "recorded 1", "recorded 2", DUPLICATE]);
  });

  test("by policy each has its record", () => {
    const rig = new StallRig();
    rig.stalling(1);
    rig.access(1, VA);
    rig.access(1, VA);
    expect(rig.states).toEqual(["recorded 0", "recorded 1"]);
  });

  test("one retry lets all proceed", () => {
    const rig = new StallRig(suppress);
    const root = rig.stalling(1);
    for (let i = 0; i < 4; i++) rig.access(1, VA + i);
    rig.map(root, VA, PA, S1.rw);
    rig.resume(1, 0, "retry");
    expect(rig.answers).toEqual([0, 1, 2, 3].map((i) => [VA + i, ok, PA + 0xabc + i]));
  });

  test("terminating one after the other shows them all", () => {
    const rig = new StallRig(suppress);
    rig.stalling(1);
    for (let i = 0; i < 4; i++) rig.access(1, VA + i);
    for (let i = 0; i < 4; i++) {
      const [record] = rig.events();
      expect(record![4]).toBe(VA_LO + i);
      rig.resume(1, record![2]! & 0xffff, "abort");
      expect(rig.answers.at(-1)).toEqual([VA + i, abort]);
    }
    expect([rig.smmu.stalled, rig.events()]).toEqual([[], []]);
  });

  test("STALL_TERM takes them along", () => {
    const rig = new StallRig(suppress);
    rig.stalling(1);
    for (let i = 0; i < 3; i++) rig.access(1, VA + i);
    rig.command("STALL_TERM", { SID: 1 });
    expect(rig.answers).toHaveLength(3);
  });
});

describe("3.12.2.2 early retry", () => {
  const early: RigOptions = { policy: { stallEarlyRetry: true } };
  const invalidate = (rig: StallRig): void => {
    rig.command("TLBI_NSNH_ALL");
    rig.command("SYNC");
  };

  test("goes through, but the record still wants its answer: the STAG stays taken", () => {
    const rig = new StallRig(early);
    const root = rig.stalling(1);
    rig.access(1, VA);
    rig.map(root, VA, PA, S1.rw);
    invalidate(rig);
    expect(rig.answers).toEqual([[VA, ok, PA + 0xabc]]);
    rig.access(1, VA + 0x1000);
    expect(rig.states).toEqual(["recorded 1"]);
    rig.resume(1, 0, "abort");
    expect(rig.answers).toHaveLength(1);
    rig.access(1, VA + 0x2000);
    expect(rig.states).toEqual(["recorded 1", "recorded 0"]);
  });

  test("with the cause still there it stays, without a second record", () => {
    const rig = new StallRig(early);
    rig.stalling(1);
    rig.access(1, VA);
    invalidate(rig);
    expect(rig.states).toEqual(["recorded 0"]);
    expect(rig.events()).toHaveLength(1);
    expect(rig.smmu.counters.read("events.lost").device).toBe(0);
  });

  test("under a configuration that terminates it ends, without a second record", () => {
    const rig = new StallRig(early);
    rig.stalling(1);
    rig.access(1, VA);
    rig.memory.fill(STRTAB + 64, 64, 0);
    rig.command("CFGI_STE", { SID: 1 });
    rig.command("SYNC");
    expect(rig.answers).toEqual([[VA, abort]]);
    expect(rig.events()).toHaveLength(1);
  });

  test("needs an invalidation", () => {
    const rig = new StallRig(early);
    const root = rig.stalling(1);
    rig.access(1, VA);
    rig.map(root, VA, PA, S1.rw);
    rig.command("SYNC");
    expect(rig.answers).toEqual([]);
  });

  test("the answer to a record sets duplicates free even if its own transaction has gone", () => {
    const rig = new StallRig({ policy: { stallEarlyRetry: true, stallDuplicates: "suppress" } });
    const root = rig.stalling(1);
    rig.map(root, VA, PA, S1.rw);
    const leaf = rig.leaf(root, VA);
    const [lo, hi] = [rig.memory.load32(leaf), rig.memory.load32(leaf + 4)];
    rig.memory.store64(leaf, 0, 0);
    rig.access(1, VA);
    rig.memory.store64(leaf, lo, hi);
    rig.smmu.onResume = () => {
      rig.memory.store64(leaf, 0, 0);
      rig.smmu.onResume = undefined;
    };
    rig.access(1, VA + 0x1000);
    invalidate(rig);
    expect(rig.states).toEqual(["recorded 1"]);
    rig.resume(1, 0, "retry");
    rig.resume(1, 1, "abort");
    expect(rig.smmu.stalled).toEqual([]);
  });

  test("STALL_TERM frees the STAG of one that went through", () => {
    const rig = new StallRig(early);
    const root = rig.stalling(1);
    rig.access(1, VA);
    rig.map(root, VA, PA, S1.rw);
    invalidate(rig);
    rig.command("STALL_TERM", { SID: 1 });
    rig.access(1, VA + 0x1000);
    expect(rig.states).toEqual(["recorded 0"]);
    expect(rig.answers).toHaveLength(1);
  });
});

describe("4.7.1: software that answers in its interrupt handler", () => {
  function serviced(action: "retry" | "raz", fix: boolean): { rig: StallRig; result: number; calls: number } {
    let root = 0;
    const rig: StallRig = new StallRig({
      irq: {
        evtq: {
          pulse: () => {
            for (const record of rig.events()) {
              if (fix) rig.map(root, record[5]! * 2 ** 32 + record[4]! - 0xabc, PA, S1.rw);
              rig.resume(record[1]!, record[2]! & 0xffff, action);
            }
            // Another master's access in between leaves its own output address behind.
            rig.access(2, 0x5000);
          },
        },
      },
    });
    root = rig.stalling(1);
    rig.ste(2, { Config: STE_CONFIG.bypass });
    const { result } = rig.access(1, VA);
    return { rig, result, calls: rig.answers.length };
  }

  test("a stall that is resolved at once is seen in time only", () => {
    const { rig, result, calls } = serviced("retry", true);
    expect([result, calls]).toEqual([ok, 0]);
    expect([rig.smmu.paLo, rig.smmu.paHi]).toEqual([0xabc, 8]);
    expect(rig.smmu.stalled).toEqual([]);
    expect(rig.smmu.lastStalled).toBeUndefined();
  });

  test("one that is terminated at once has that outcome", () => {
    const { result, calls } = serviced("raz", false);
    expect([result, calls]).toEqual([raz, 0]);
  });

  test("a master may start the next access while it is told of the last", () => {
    const rig = new StallRig();
    const root = rig.stalling(1);
    const seen: number[] = [];
    rig.smmu.onResume = (transaction: StalledTransaction) => {
      seen.push(transaction.lo >>> 0);
      if (seen.length < 4) rig.access(1, VA + seen.length * 0x1000);
    };
    rig.access(1, VA);
    for (let i = 0; i < 4; i++) {
      const [record] = rig.events();
      rig.map(root, VA - 0xabc + i * 0x1000, PA, S1.rw);
      rig.resume(1, record![2]! & 0xffff, "retry");
    }
    expect(seen).toEqual([0, 1, 2, 3].map((i) => VA_LO + i * 0x1000));
    expect(rig.smmu.stalled).toEqual([]);
  });
});

/** A small deterministic source of numbers. */
function numbers(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = (Math.imul(state, 1_103_515_245) + 12_345) & 0x7fff_ffff;
    return (state >>> 8) % below;
  };
}

describe("3.12.2: random orders against a set", () => {
  const STREAMS = 3;
  const STALL_MAX = 3;

  /** What a master and software can tell from outside: who is stalled, which records are open. */
  test.each(Array.from({ length: 40 }, (_, seed) => seed))("software in time | seed %i", (seed) => {
    const random = numbers(seed * 7919 + 1);
    const rig = new StallRig({ id: identity(0, STALL_MAX) });
    for (let sid = 0; sid < STREAMS; sid++) rig.stalling(sid);
    /** Transactions without an answer, by address: each has an address of its own. */
    const open = new Map<number, number>();
    /** Records that software has read and not answered. */
    const records: { sid: number; stag: number; address: number }[] = [];
    let next = 0x1000;
    let answered = 0;

    const settle = (): void => {
      for (; answered < rig.answers.length; answered++) {
        const [address, outcome] = rig.answers[answered]!;
        expect(open.has(address), "answered once").toBe(true);
        expect([abort, raz]).toContain(outcome);
        open.delete(address);
      }
      for (const [type, sid, word2, , lo] of rig.events()) {
        expect([type, word2! >>> 31]).toEqual([0x10, 1]);
        const stag = word2! & 0xffff;
        expect(stag).toBeLessThan(STALL_MAX);
        expect(records.some((record) => record.stag === stag), "a STAG is unique").toBe(false);
        expect(open.get(lo!)).toBe(sid);
        records.push({ sid: sid!, stag, address: lo! });
      }
      // Reading the records made room for others.
      if (rig.smmu.decodeEvents().length > 0) settle();
      expect(rig.smmu.stalled.map(({ lo }) => lo).sort()).toEqual([...open.keys()].sort());
      expect(records.length).toBe(Math.min(open.size, STALL_MAX));
    };

    for (let i = 0; i < 60; i++) {
      const choice = random(10);
      const record = records[random(Math.max(records.length, 1))];
      if (choice < 5) {
        const sid = random(STREAMS);
        open.set(next, sid);
        expect(rig.access(sid, next, random(2)).result).toBe(stalled);
        next += 0x1000;
      } else if (choice < 7 && record !== undefined) {
        records.splice(records.indexOf(record), 1);
        rig.resume(record.sid, record.stag, random(2) === 0 ? "abort" : "raz");
        expect(rig.answers.at(-1)![0]).toBe(record.address);
      } else if (choice === 7 && record !== undefined) {
        // It faults again, and has a record again.
        records.splice(records.indexOf(record), 1);
        rig.resume(record.sid, record.stag, "retry");
      } else if (choice === 8 && record !== undefined) {
        rig.resume((record.sid + 1) % STREAMS, record.stag, "abort");
        rig.resume(record.sid, record.stag + STALL_MAX, "abort");
      } else if (choice === 9) {
        const sid = random(STREAMS);
        for (let at = records.length - 1; at >= 0; at--) if (records[at]!.sid === sid) records.splice(at, 1);
        rig.command("STALL_TERM", { SID: sid });
        settle();
        expect([...open.values()]).not.toContain(sid);
      }
      settle();
    }
    rig.write("CR0", 0xc);
    records.length = 0;
    for (const [address, outcome] of rig.answers.slice(answered)) {
      expect(outcome).toBe(abort);
      open.delete(address);
    }
    expect(open.size).toBe(0);
  });

  /** Software that reads late, while other streams fill the queue: no stall is lost, none has two answers. */
  test.each(Array.from({ length: 20 }, (_, seed) => seed))("late software | seed %i", (seed) => {
    const random = numbers(seed * 104_729 + 3);
    const policy = {
      stallDuplicates: random(2) === 0 ? "record" : "suppress",
      queueWriteAbort: "synchronous",
      merging: random(2) === 0 ? "never" : "maximal",
    } as const;
    const rig = new StallRig({ id: identity(0, 1 + random(6)), policy });
    rig.stalling(1);
    rig.stage1(2, {}, { MEV: 1 });
    const open: number[] = [];
    const answers = new Map<number, number>();
    rig.smmu.onResume = ({ lo }, outcome) => {
      expect(outcome).toBe(abort);
      answers.set(lo, (answers.get(lo) ?? 0) + 1);
    };
    const pending: number[] = [];
    const read = (): void => {
      for (const [, sid, word2] of rig.events()) if (sid === 1) pending.push(word2! & 0xffff);
      expect(new Set(pending).size).toBe(pending.length);
    };
    const answer = (): void => {
      const [stag] = pending.splice(random(pending.length), 1);
      rig.resume(1, stag!, "abort");
    };
    for (let i = 0; i < 80; i++) {
      const choice = random(8);
      if (choice < 3) {
        const address = 0x1000 * (1 + random(4)) + 4 * i;
        open.push(address);
        expect(rig.access(1, address).result).toBe(stalled);
      } else if (choice < 5) rig.access(2, VA);
      else if (choice === 5) read();
      else if (choice === 6 && pending.length > 0) answer();
      else {
        rig.memory.perm[rig.memory.pageIndex(EVTQ)] = random(2) === 0 ? 1 : 3;
        rig.write("GERRORN", rig.read("GERROR"));
      }
    }
    rig.memory.perm[rig.memory.pageIndex(EVTQ)] = 3;
    rig.write("GERRORN", rig.read("GERROR"));
    for (let i = 0; rig.smmu.stalled.length > 0; i++) {
      expect(i).toBeLessThan(1000);
      read();
      while (pending.length > 0) answer();
    }
    expect([...answers.keys()].sort()).toEqual(open.sort());
    expect([...answers.values()].every((times) => times === 1)).toBe(true);
  });
});
