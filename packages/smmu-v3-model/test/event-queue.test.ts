// The Event queue as a queue: 3.5, 7.2, 7.4, and merging, 7.3.1.
import { describe, expect, test } from "vitest";
import { EVENTS, STE_CONFIG } from "@smmuv3/smmu-v3-defs";
import type { EventName } from "@smmuv3/smmu-v3-defs";
import { GERROR_BIT } from "../src/index.ts";
import type { EventValues, PolicyChoice } from "../src/index.ts";
import { EVTQ, EVTQ_LOG2, Rig, STRTAB } from "./rig.ts";
import type { RigOptions, SteValues } from "./rig.ts";

const SIZE = 1 << EVTQ_LOG2;
const OVFLG = 2 ** 31;
const VA = 0x1_0000;

/** Stream 1 faults at every address, and says so. */
function faulty(options: RigOptions = {}, ste: SteValues = {}): Rig {
  const rig = new Rig(options);
  rig.stage1(1, {}, ste);
  return rig;
}

/** Sequences of what happens to the queue, and PROD after each step. `f` a fault, `c` software consumes one, `C` and acknowledges. */
describe("7.4 overflow", () => {
  test.each<[string, string, readonly number[]]>([
    ["fills without overflow", "ffff", [1, 2, 3, 4]],
    ["one record too many", "fffff", [1, 2, 3, 4, OVFLG + 4]],
    ["a second is not told apart", "ffffff", [1, 2, 3, 4, OVFLG + 4, OVFLG + 4]],
    ["unacknowledged, with room: records, and no second overflow", "fffffcff", [1, 2, 3, 4, OVFLG + 4, OVFLG + 4, OVFLG + 5, OVFLG + 5]],
    ["acknowledged: the next overflow toggles back", "fffffCff", [1, 2, 3, 4, OVFLG + 4, OVFLG + 4, OVFLG + 5, 5]],
    ["and a third", "fffffCffCff", [1, 2, 3, 4, OVFLG + 4, OVFLG + 4, OVFLG + 5, 5, 5, 6, OVFLG + 6]],
  ])("%s", (_name, steps, expected) => {
    const rig = faulty();
    const seen = Array.from(steps, (step) => {
      if (step === "f") rig.access(1, VA);
      else {
        const acknowledge = step === "C" ? rig.read("EVENTQ_PROD") & OVFLG : rig.read("EVENTQ_CONS") & OVFLG;
        rig.write("EVENTQ_CONS", acknowledge | (((rig.read("EVENTQ_CONS") & 7) + 1) & 7));
      }
      return rig.read("EVENTQ_PROD");
    });
    expect(seen).toEqual(expected);
  });

  test.each<[string, (rig: Rig) => void]>([
    ["EVENTQEN = 0", (rig) => {
      rig.write("CR0", 9);
    }],
    ["EVENTQ_ABT_ERR", (rig) => {
      rig.memory.perm[rig.memory.pageIndex(EVTQ)] = 0;
      rig.access(1, VA);
    }],
  ])("a record lost to %s is no overflow, full or not", (_name, close) => {
    for (const before of [0, SIZE]) {
      const rig = faulty();
      for (let i = 0; i < before; i++) rig.access(1, VA);
      const prod = rig.read("EVENTQ_PROD");
      if (before === SIZE) rig.write("EVENTQ_CONS", 1);
      close(rig);
      if (before === SIZE) rig.write("EVENTQ_CONS", 0);
      rig.access(1, VA);
      expect(rig.read("EVENTQ_PROD")).toBe(prod);
    }
  });
});

describe("7.2.2 a write that aborts", () => {
  const close = (rig: Rig): void => {
    rig.memory.perm[rig.memory.pageIndex(EVTQ)] = 0;
  };
  const open = (rig: Rig): void => {
    rig.memory.perm[rig.memory.pageIndex(EVTQ)] = 3;
  };
  test.each<[string, PolicyChoice, number, number]>([
    ["synchronous: the index stays and nobody is told of a record", { queueWriteAbort: "synchronous" }, 0, 0],
    ["asynchronous: the index moves over a record that is not there", { queueWriteAbort: "asynchronous" }, 1, 1],
  ])("%s", (_name, policy, prod, pulses) => {
    const rig = faulty({ policy });
    close(rig);
    rig.access(1, VA);
    rig.access(1, VA);
    expect([rig.read("EVENTQ_PROD"), rig.pulses.evtq]).toEqual([prod, pulses]);
    expect([rig.read("GERROR"), rig.pulses.gerror]).toEqual([GERROR_BIT.EVENTQ_ABT_ERR, 1]);
    expect(rig.smmu.counters.read("events.lost").device).toBe(2);
    expect(rig.smmu.counters.read("events").device).toBe(0);
    open(rig);
    rig.access(1, VA);
    expect(rig.read("EVENTQ_PROD"), "until acknowledged").toBe(prod);
    rig.write("GERRORN", GERROR_BIT.EVENTQ_ABT_ERR);
    rig.access(1, VA);
    expect(rig.read("EVENTQ_PROD")).toBe(prod + 1);
  });
});

describe("7.3.1 merging", () => {
  const maximal: RigOptions = { policy: { merging: "maximal" } };
  const MEV: SteValues = { MEV: 1 };

  test.each<[string, RigOptions, SteValues, readonly number[], number]>([
    ["never by policy", {}, MEV, [VA, VA, VA], 3],
    ["equal records", maximal, MEV, [VA, VA, VA], 1],
    ["MEV = 0 forbids it", maximal, {}, [VA, VA, VA], 3],
    ["InputAddr[11:0] does not count", maximal, MEV, [VA, VA + 0xfff, VA + 8], 1],
    ["another page does", maximal, MEV, [VA, VA + 0x1000, VA + 0x1000], 2],
    ["only with the record before it", maximal, MEV, [VA, VA + 0x1000, VA], 3],
  ])("%s", (_name, options, ste, addresses, records) => {
    const rig = faulty(options, ste);
    for (const address of addresses) rig.access(1, address);
    expect(rig.events()).toHaveLength(records);
    expect(rig.smmu.counters.read("events.merged").device).toBe(addresses.length - records);
    expect(rig.smmu.counters.read("events.lost").device).toBe(0);
  });

  test("a write is not a read, a substream not another", () => {
    const rig = faulty(maximal, MEV);
    rig.access(1, VA, 0);
    rig.access(1, VA, 1);
    rig.access(1, VA, 2);
    expect(rig.events()).toHaveLength(3);
  });

  test("nothing is merged into a record that software has consumed", () => {
    const rig = faulty(maximal, MEV);
    rig.access(1, VA);
    expect(rig.events()).toHaveLength(1);
    rig.access(1, VA);
    expect(rig.events()).toHaveLength(1);
    expect(rig.pulses.evtq).toBe(2);
  });

  test("a full queue takes what it can merge, without overflow", () => {
    const rig = faulty(maximal, MEV);
    for (let i = 0; i < SIZE; i++) rig.access(1, VA + i * 0x1000);
    rig.access(1, VA + (SIZE - 1) * 0x1000);
    expect(rig.read("EVENTQ_PROD")).toBe(SIZE);
    rig.access(1, VA);
    expect(rig.read("EVENTQ_PROD")).toBe(OVFLG + SIZE);
  });

  /** Events before an STE is found may be merged whatever it says; those after it ask MEV. */
  test.each<[string, boolean, (rig: Rig, mev: number) => void]>([
    ["C_BAD_STREAMID", true, (rig) => rig.access(64, VA)],
    ["F_STE_FETCH", true, (rig) => {
      rig.memory.perm[rig.memory.pageIndex(STRTAB)] = 0;
      rig.access(1, VA);
    }],
    ["C_BAD_STE", true, (rig, mev) => {
      rig.ste(1, { Config: STE_CONFIG.s2, S2AA64: 1, S2TG: 3, MEV: mev });
      rig.access(1, VA);
    }],
    ["F_UUT", true, (rig) => {
      rig.smmu.rejectUnsupported(1, 0, VA, 0, 0);
    }],
    ["F_STREAM_DISABLED", false, (rig, mev) => {
      rig.stage1(1, {}, { S1CDMax: 4, MEV: mev });
      rig.access(1, VA);
    }],
    ["C_BAD_SUBSTREAMID", false, (rig, mev) => {
      rig.stage1(1, {}, { MEV: mev });
      rig.access(1, VA, 8, 3);
    }],
    ["F_CD_FETCH", false, (rig, mev) => {
      rig.stage1(1, {}, { S1ContextPtr: 0x1000, MEV: mev });
      rig.access(1, VA);
    }],
    ["C_BAD_CD", false, (rig, mev) => {
      rig.stage1(1, { V: 0 }, { MEV: mev });
      rig.access(1, VA);
    }],
    ["F_WALK_EABT", false, (rig, mev) => {
      rig.stage1(1, { TTB0: 0x1000 }, { MEV: mev });
      rig.access(1, VA);
    }],
    ["F_ADDR_SIZE of a bypass", false, (rig, mev) => {
      rig.ste(1, { Config: STE_CONFIG.bypass, MEV: mev });
      rig.access(1, 2 ** 60);
    }],
    ["F_TRANSLATION of stage 2", false, (rig, mev) => {
      rig.stage2(1, 1, { MEV: mev });
      rig.access(1, VA);
    }],
  ])("%s", (_name, always, cause) => {
    for (const mev of [0, 1]) {
      const rig = new Rig({ policy: { merging: "maximal", uut: true } });
      for (let i = 0; i < 3; i++) cause(rig, mev);
      expect(rig.smmu.decodeEvents(), `MEV = ${mev}`).toHaveLength(always || mev === 1 ? 1 : 3);
    }
  });

  test("MEV is that of the stream of each event", () => {
    const rig = faulty(maximal, MEV);
    rig.stage1(2);
    for (const sid of [1, 1, 2, 2, 1, 1]) rig.access(sid, VA);
    expect(rig.smmu.decodeEvents().map(({ words }) => words[1])).toEqual([1, 2, 2, 1]);
  });

  test.each(Object.keys(EVENTS) as EventName[])("%s: what may differ", (name) => {
    const fields: readonly string[] = EVENTS[name].fields;
    // Of these InputAddr[11:0] does not count; of two more it is no field (7.3.6 to 7.3.19).
    const byPage = [
      "F_TRANSL_FORBIDDEN", "F_WALK_EABT", "F_TRANSLATION", "F_ADDR_SIZE", "F_ACCESS", "F_PERMISSION", "F_TLB_CONFLICT",
      "F_BAD_ATS_TREQ", "E_PAGE_REQUEST",
    ];
    const records = (first: EventValues, second: EventValues): number => {
      const rig = new Rig(maximal);
      rig.smmu.recordEvent(name, 1, first, true);
      rig.smmu.recordEvent(name, 1, second, true);
      return rig.events().length;
    };
    expect(records({}, {})).toBe(1);
    for (const field of fields) {
      if (field === "InputAddr") continue;
      const bit = ["FetchAddr", "IPA"].includes(field) ? 2 ** 20 : 1;
      expect(records({}, { [field]: bit }), field).toBe(2);
    }
    if (!fields.includes("InputAddr")) return;
    expect(records({ InputAddr: VA }, { InputAddr: VA + 0x1000 })).toBe(2);
    expect(records({ InputAddr: VA }, { InputAddr: VA + 8 })).toBe(byPage.includes(name) ? 1 : 2);
    if (fields.includes("Stall")) expect(records({ Stall: 1 }, { Stall: 1 })).toBe(2);
  });
});

describe("3.18.2 interrupts of the queue", () => {
  test("from empty to not empty only", () => {
    const rig = faulty();
    for (let i = 0; i < SIZE + 2; i++) rig.access(1, VA);
    expect(rig.pulses.evtq).toBe(1);
    rig.write("EVENTQ_CONS", 2);
    rig.access(1, VA);
    expect(rig.pulses.evtq).toBe(1);
    rig.events();
    rig.access(1, VA);
    expect(rig.pulses.evtq).toBe(2);
  });

  test("the record is there when the interrupt arrives", () => {
    const seen: number[] = [];
    const rig: Rig = new Rig({
      irq: {
        evtq: {
          pulse: () => {
            seen.push(rig.events().length);
          },
        },
      },
    });
    rig.stage1(1);
    for (let i = 0; i < 3; i++) rig.access(1, VA);
    expect(seen).toEqual([1, 1, 1]);
  });
});

test("7.2: records in memory that cannot be read are not decoded", () => {
  const rig = new Rig();
  rig.stage1(1);
  rig.access(1, 0x1000);
  rig.memory.perm[rig.memory.pageIndex(EVTQ)] = 0;
  expect(rig.smmu.decodeEvents()).toEqual([]);
  rig.memory.perm[rig.memory.pageIndex(EVTQ)] = 3;
  expect(rig.smmu.decodeEvents()).toHaveLength(1);
});
