import { describe, expect, test } from "vitest";
import { ACCESS, hi32, lo32, TRANSLATION } from "@smmuv3/platform";
import { EVENT_NAMES, STE, STE_CONFIG, STE_EATS, STE_INSTCFG, STE_PRIVCFG, STE_S1DSS } from "@smmuv3/smmu-v3-defs";
import type { IdRegisters, TranslationEntry, TranslationRequest } from "../src/index.ts";
import { CR0_ATSCHK, CR0_BASE, CR2_REC_CFG_ATS, CR2_RECINVSID, named, WITH_ATS, withIdr3 } from "./ats-rig.ts";
import { CDS, PA, Rig, S1, S2, STRTAB } from "./rig.ts";
import type { RigOptions, SteValues } from "./rig.ts";

const VA = 0x40_0000_0000;
const FULL: SteValues = { EATS: STE_EATS.full };
const ATSCHK = { cr0: CR0_BASE | CR0_ATSCHK };
/** SSID 1 of a table of two CDs. */
const SUBSTREAMS: SteValues = { ...FULL, S1CDMax: 1, S1DSS: STE_S1DSS.ssid0 };

function rigWith(options: RigOptions = {}): Rig {
  return new Rig({ id: WITH_ATS, cr2: CR2_RECINVSID | CR2_REC_CFG_ATS, ...options });
}

function ask(rig: Rig, request: Partial<TranslationRequest> = {}): { status: string; granted: readonly string[] } {
  const { status, translations } = rig.smmu.ats.translationRequest({ sid: 1, address: VA, ...request });
  return { status, granted: translations.map(describeEntry) };
}

function describeEntry({ address, size, R, W, X, Priv, Global, U, N }: TranslationEntry): string {
  const flags = Object.entries({ R, W, X, Priv, Global, U, N }).filter(([, set]) => set).map(([name]) => name).join(" ");
  return flags === "" ? `nothing of ${size}` : `${address.toString(16)} of ${size.toString(16)}: ${flags}`;
}

function names(rig: Rig): (string | undefined)[] {
  return rig.events().map(([word]) => EVENT_NAMES.get(word! & 0xff));
}

const RW = `${PA.toString(16)} of 1000: R W`;
const RO = `${PA.toString(16)} of 1000: R`;
const NOTHING = "nothing of 4096";

describe("3.9.1.2 responses to ATS Translation Requests", () => {
  type Case = readonly [name: string, set: (rig: Rig) => void, status: string, events: readonly string[], options?: RigOptions];
  const cases: readonly Case[] = [
    ["SMMUEN == 0", (rig) => { rig.stage1(1, {}, FULL); }, "UR", ["F_BAD_ATS_TREQ"], { cr0: CR0_BASE & ~1 }],
    ["Config == 000", (rig) => { rig.ste(1, { Config: STE_CONFIG.abort, EATS: STE_EATS.full }); }, "UR", []],
    ["Config == 100", (rig) => { rig.ste(1, { Config: STE_CONFIG.bypass, EATS: STE_EATS.full }); }, "UR", ["F_BAD_ATS_TREQ"]],
    ["EATS == 00", (rig) => { rig.stage1(1); }, "UR", ["F_BAD_ATS_TREQ"]],
    ["EATS == 10, ATSCHK == 0", (rig) => { rig.nested(1, 1, {}, { EATS: STE_EATS.s1chk }); }, "UR", ["F_BAD_ATS_TREQ"]],
    ["EATS == 11 without DPT", (rig) => { rig.stage1(1, {}, { EATS: STE_EATS.dpt }); }, "UR", ["F_BAD_ATS_TREQ"]],
    ["C_BAD_STREAMID", () => undefined, "CA", ["C_BAD_STREAMID"]],
    ["F_STE_FETCH", (rig) => {
      rig.write("CR0", 0);
      rig.write64("STRTAB_BASE", 0);
      rig.write("CR0", CR0_BASE);
    }, "CA", ["F_STE_FETCH"]],
    ["C_BAD_STE", (rig) => { rig.ste(1, { V: 0 }); }, "CA", ["C_BAD_STE"]],
    ["C_BAD_SUBSTREAMID", (rig) => { rig.stage1(1, {}, FULL); }, "CA", ["C_BAD_SUBSTREAMID"]],
    ["F_STREAM_DISABLED", (rig) => { rig.stage1(1, {}, { ...FULL, S1CDMax: 1 }); }, "CA", ["F_STREAM_DISABLED"]],
    ["F_CD_FETCH", (rig) => { rig.stage1(1, {}, { ...FULL, S1ContextPtr: 0 }); }, "CA", ["F_CD_FETCH"]],
    ["C_BAD_CD", (rig) => { rig.stage1(1, { V: 0 }, FULL); }, "CA", ["C_BAD_CD"]],
    ["F_WALK_EABT", (rig) => { rig.stage1(1, { TTB0: 0 }, FULL); }, "CA", ["F_WALK_EABT"]],
  ];
  test.each(cases.map(named))("%s", (name, [, set, status, events, options = {}]) => {
    for (const recorded of [true, false]) {
      const rig = rigWith({ ...options, cr2: recorded ? CR2_RECINVSID | CR2_REC_CFG_ATS : CR2_RECINVSID });
      set(rig);
      const request = {
        ...(name === "C_BAD_STREAMID" ? { sid: 1000 } : {}),
        ...(name === "C_BAD_SUBSTREAMID" ? { ssid: 1 } : {}),
      };
      expect(ask(rig, request)).toEqual({ status, granted: [] });
      // F_BAD_ATS_TREQ does not depend on REC_CFG_ATS.
      expect(names(rig)).toEqual(recorded || status === "UR" ? events : []);
    }
  });

  test("C_BAD_STREAMID needs RECINVSID as well", () => {
    const rig = rigWith({ cr2: CR2_REC_CFG_ATS });
    expect(ask(rig, { sid: 1000 }).status).toBe("CA");
    expect(names(rig)).toEqual([]);
  });

  type Fault = readonly [name: string, set: (rig: Rig) => void];
  test.each<Fault>([
    ["F_TRANSLATION", (rig) => { rig.stage1(1, {}, FULL); }],
    ["F_ADDR_SIZE", (rig) => { rig.map(rig.stage1(1, { IPS: 0 }, FULL), VA, PA, S1.rw); }],
    ["F_ACCESS", (rig) => { rig.map(rig.stage1(1, {}, FULL), VA, PA, S1.noAf); }],
    ["F_PERMISSION in the extreme", (rig) => { rig.map(rig.stage1(1, {}, FULL), VA, PA, S1.priv); }],
    ["stage 2, for the output", (rig) => { rig.map(rig.nested(1, 1, {}, FULL).root1, VA, PA, S1.rw); }],
    ["stage 2, for the CD", (rig) => {
      const { root2 } = rig.nested(1, 1, {}, FULL);
      rig.memory.store64(rig.leaf(root2, CDS), 0, 0);
    }],
    ["stage 2, for a table", (rig) => {
      const { root1, root2 } = rig.nested(1, 1, {}, FULL);
      rig.memory.store64(rig.leaf(root2, root1), 0, 0);
    }],
    ["stage 2 may not read a table", (rig) => {
      const { root1, root2 } = rig.nested(1, 1, {}, FULL);
      rig.map(root2, root1, root1, S2.wo);
    }],
  ])("%s: Success without access, and no event", (_name, set) => {
    const rig = rigWith();
    set(rig);
    expect(ask(rig)).toEqual({ status: "success", granted: [NOTHING] });
    expect(names(rig)).toEqual([]);
  });

  test("an output to which stage 1 grants nothing is not presented to stage 2", () => {
    const rig = rigWith();
    const { root1, root2 } = rig.nested(1, 1, {}, FULL);
    // Its stage 2 aborts, which would be CA.
    const ipa = 2 ** 39;
    rig.memory.store64(root2 + 8, 3, 0x7f);
    rig.map(root1, VA, ipa, S1.priv);
    expect(ask(rig)).toEqual({ status: "success", granted: [NOTHING] });
    rig.map(root1, VA, ipa, S1.rw);
    rig.command("TLBI_NSNH_ALL");
    expect(ask(rig)).toEqual({ status: "CA", granted: [] });
    expect(names(rig)).toEqual(["F_WALK_EABT"]);
  });
});

describe("7.3.6 F_BAD_ATS_TREQ", () => {
  test.each<[string, Partial<TranslationRequest>, number, number]>([
    ["read", { noWrite: true }, 0x8000_0001, 0x5],
    ["read and write of four units", { count: 4 }, 0xc000_0004, 0x5],
    ["with a PASID", { ssid: 7, execute: true, privileged: true }, 0xf000_0001, 0x7805],
    ["without a PASID there is no execution", { execute: true, privileged: true }, 0xc000_0001, 0x5],
  ])("%s", (_name, request, word2, word0) => {
    const rig = rigWith();
    rig.stage1(1);
    ask(rig, { address: 0xffff_8000_0000_1000, ...request });
    expect(rig.events()).toEqual([[word0, 1, word2, 0, 0x1000, 0xffff_8000, 0, 0]]);
  });
});

describe("13.7 permissions of a completion", () => {
  /** Of the table of examples; UXN is bit 54, PXN bit 53. */
  const XN = 1 << 22;
  type Row = readonly [string, Partial<TranslationRequest>, attributes: number, high: number, expected: string, ste?: SteValues];
  const priv = { ssid: 1, privileged: true };
  const rows: readonly Row[] = [
    ["user RO", { noWrite: true }, S1.ro, 0, RO],
    ["user RW", {}, S1.rw, 0, RW],
    ["W is granted although NW", { noWrite: true }, S1.rw, 0, RW],
    ["user RO, asked for RW", {}, S1.ro, 0, RO],
    ["privileged only, as a user", {}, S1.priv, 0, NOTHING],
    ["privileged only, privileged", priv, S1.priv, 0, `${RW} Priv`],
    ["Exe of an XN page", { ssid: 1, execute: true }, S1.rw, XN, RW],
    ["Exe of an executable page", { ssid: 1, execute: true }, S1.rw, 0, `${RW} X`],
    ["Exe needs a PASID", { execute: true }, S1.rw, 0, RW],
    ["execute-only grants nothing", { ssid: 1, execute: true }, S1.priv, 0, NOTHING],
    ["INSTCFG = Instruction reads what is executable", {}, S1.priv, 0, RO, { INSTCFG: STE_INSTCFG.instruction }],
    ["INSTCFG = Data takes R for X", { ssid: 1, execute: true }, S1.rw, XN, `${RW} X`, { INSTCFG: STE_INSTCFG.data }],
    ["PRIVCFG = Privileged without Priv in the answer", {}, S1.priv, 0, RW, { PRIVCFG: STE_PRIVCFG.privileged }],
    ["PRIVCFG = Unprivileged, Priv as asked", priv, S1.ro, 0, `${RO} Priv`, { PRIVCFG: STE_PRIVCFG.unprivileged }],
  ];
  test.each(rows.map(named))("%s", (_name, [, request, attributes, high, expected, ste = {}]) => {
    const rig = rigWith();
    const root = rig.stage1(1, {}, { ...SUBSTREAMS, ...ste });
    rig.cd(CDS + 64, { TTB0: root, ASID: 9 });
    rig.ste(1, { Config: STE_CONFIG.s1, S1ContextPtr: CDS, ...SUBSTREAMS, ...ste });
    rig.cd(CDS, { TTB0: root, ASID: 1 });
    rig.map(root, VA, PA, attributes);
    const leaf = rig.leaf(root, VA);
    rig.memory.store32(leaf + 4, rig.memory.load32(leaf + 4) | high);
    expect(ask(rig, request)).toEqual({ status: "success", granted: [expected] });
    // The same out of the TLB.
    expect(ask(rig, request)).toEqual({ status: "success", granted: [expected] });
  });

  test("both stages have to grant", () => {
    const rig = rigWith();
    const { root1, root2 } = rig.nested(1, 1, {}, FULL);
    rig.map(root1, VA, PA, S1.rw);
    rig.map(root2, PA, PA + 0x1000, S2.ro);
    expect(ask(rig).granted).toEqual([`${(PA + 0x1000).toString(16)} of 1000: R`]);
  });
});

describe("3.9.1 sizes", () => {
  test("several units, of one size", () => {
    const rig = rigWith();
    const root = rig.stage1(1, {}, FULL);
    for (const page of [0, 1, 3]) rig.map(root, VA + page * 0x1000, PA + page * 0x3000, S1.rw);
    const pages = [`${PA.toString(16)} of 1000: R W`, `${(PA + 0x3000).toString(16)} of 1000: R W`, NOTHING];
    expect(ask(rig, { count: 3 }).granted).toEqual(pages);
    expect(ask(rig, { count: 4 }).granted).toEqual([...pages, `${(PA + 0x9000).toString(16)} of 1000: R W`]);
    expect(ask(rig, { address: VA + 0x2000, count: 1 }).granted).toEqual([NOTHING]);
  });

  test("a block is one entry, and the next of its size", () => {
    const rig = rigWith();
    const root = rig.stage1(1, {}, FULL);
    rig.map(root, VA, PA, S1.rw, 0x20_0000);
    rig.map(root, VA + 0x20_0000, PA + 0x40_0000, S1.ro, 0x20_0000);
    rig.map(root, VA + 0x40_0000, PA, S1.rw);
    const first = `${PA.toString(16)} of 200000: R W`;
    expect(ask(rig, { address: VA + 0x1f_f000 }).granted).toEqual([first]);
    expect(ask(rig, { address: VA + 0x1f_f000, count: 2 }).granted).toEqual([first, `${(PA + 0x40_0000).toString(16)} of 200000: R`]);
    // The third is smaller: fewer than asked for.
    expect(ask(rig, { address: VA + 0x3f_f000, count: 2 }).granted).toHaveLength(1);
  });

  test("nested, the smaller of both stages", () => {
    const rig = rigWith();
    const { root1, root2 } = rig.nested(1, 1, {}, FULL);
    rig.map(root1, VA, PA, S1.rw, 0x20_0000);
    rig.map(root2, PA + 0x3000, PA + 0x8000, S2.rw);
    expect(ask(rig, { address: VA + 0x3000 }).granted).toEqual([`${(PA + 0x8000).toString(16)} of 1000: R W`]);
  });

  test.each([0, 33, 1.5])("a count of %s is a RangeError", (count) => {
    expect(() => ask(rigWith(), { count })).toThrow(RangeError);
  });
});

describe("13.6.4 and 13.6.5 stage 1 is skipped", () => {
  const SKIPS: SteValues = { ...FULL, S1CDMax: 1, S1DSS: STE_S1DSS.bypass };
  test("stage 1 only: the identity", () => {
    const rig = rigWith();
    rig.stage1(1, {}, SKIPS);
    expect(ask(rig, { address: 0x1234_5000 }).granted).toEqual(["12345000 of 1000: R W"]);
    expect(ask(rig, { address: 2 ** 48 }).granted).toEqual([NOTHING]);
    expect(names(rig)).toEqual([]);
  });

  test("with stage 2: stage 2 alone", () => {
    const rig = rigWith();
    const { root2 } = rig.nested(1, 1, {}, SKIPS);
    rig.map(root2, VA, PA, S2.ro);
    expect(ask(rig).granted).toEqual([RO]);
  });

  test("split stages: the address itself, with the rights of stage 2", () => {
    const rig = rigWith(ATSCHK);
    const { root2 } = rig.nested(1, 1, {}, { ...SKIPS, EATS: STE_EATS.s1chk });
    rig.map(root2, VA, PA, S2.ro);
    expect(ask(rig).granted).toEqual([`${VA.toString(16)} of 1000: R`]);
  });
});

describe("3.9.1 Translation Requests and the TLB", () => {
  test("a request fills the TLB, and is served by it until it is invalidated", () => {
    const rig = rigWith();
    const root = rig.stage1(1, {}, FULL);
    rig.map(root, VA, PA, S1.rw);
    expect(ask(rig).granted).toEqual([RW]);
    rig.map(root, VA, PA + 0x1000, S1.rw);
    expect(ask(rig).granted).toEqual([RW]);
    expect(rig.outcome(1, VA)).toBe(PA);
    rig.command("TLBI_NH_ASID", { ASID: 1 });
    expect(ask(rig).granted).toEqual([`${(PA + 0x1000).toString(16)} of 1000: R W`]);
  });

  test("an ordinary access fills it for the request", () => {
    const rig = rigWith();
    const root = rig.stage1(1, {}, FULL);
    rig.map(root, VA, PA, S1.global);
    expect(rig.outcome(1, VA)).toBe(PA);
    rig.memory.store64(rig.leaf(root, VA), 0, 0);
    expect(ask(rig).granted).toEqual([RW]);
  });

  test("nothing is kept with profile eager", () => {
    const rig = rigWith({ profile: "eager" });
    const { root1, root2 } = rig.nested(1, 1, {}, FULL);
    rig.map(root1, VA, PA, S1.rw);
    rig.map(root2, PA, PA, S2.rw);
    expect(ask(rig).granted).toEqual([RW]);
    rig.memory.store64(rig.leaf(root1, VA), 0, 0);
    expect(ask(rig).granted).toEqual([NOTHING]);
  });
});

describe("3.13.7 hardware update of flags", () => {
  const HTTU: IdRegisters = { ...WITH_ATS, IDR0: (WITH_ATS.IDR0 & ~0xc0) | 0x80 };
  const UPDATES = { HA: 1, HD: 1 };
  /** Writable-clean is AP[2] = 1 with DBM, bit 51. */
  const AP2 = 0x80;
  const AF = 0x400;
  const DBM = 1 << 19;

  function paged(attributes: number, dbm: boolean, cd: Record<string, number> = UPDATES): { rig: Rig; leaf: number } {
    const rig = rigWith({ id: HTTU });
    const root = rig.stage1(1, cd, FULL);
    rig.map(root, VA, PA, attributes);
    const leaf = rig.leaf(root, VA);
    if (dbm) rig.memory.store32(leaf + 4, rig.memory.load32(leaf + 4) | DBM);
    return { rig, leaf };
  }

  test.each<[string, boolean, number, boolean, string, number]>([
    ["a read sets the access flag", true, S1.noAf, false, RW, AF],
    ["a read does not mark a page dirty", true, S1.ro & ~AF, true, RO, AF | AP2],
    ["a write does", false, S1.ro & ~AF, true, RW, AF],
    ["a read-only page stays so", false, S1.ro & ~AF, false, RO, AF | AP2],
    ["what is not granted is left alone", false, S1.priv & ~AF, false, NOTHING, 0],
  ])("%s", (_name, noWrite, attributes, dbm, granted, flags) => {
    const { rig, leaf } = paged(attributes, dbm);
    expect(ask(rig, { noWrite }).granted).toEqual([granted]);
    expect(rig.memory.load32(leaf) & (AF | AP2)).toBe(flags);
  });

  test("a page that is clean in the TLB is marked dirty by the request for writing", () => {
    const { rig, leaf } = paged(S1.ro, true);
    expect(rig.outcome(1, VA)).toBe(PA);
    expect(ask(rig, { noWrite: true }).granted).toEqual([RO]);
    expect(ask(rig).granted).toEqual([RW]);
    expect(rig.memory.load32(leaf) & AP2).toBe(0);
    expect(ask(rig, { noWrite: true }).granted).toEqual([RW]);
  });

  test("without HA nothing is updated", () => {
    const { rig, leaf } = paged(S1.noAf, false, {});
    expect(ask(rig).granted).toEqual([NOTHING]);
    expect(rig.memory.load32(leaf) & AF).toBe(0);
  });
});

describe("3.9.1.3 Translated transactions", () => {
  function access(rig: Rig, address: number, flags: number = ACCESS.read, ssid = 0, sid = 1): number | string {
    const { ats } = rig.smmu;
    const result = ats.translatedAccess(sid, ssid, lo32(address), hi32(address), flags);
    return result === TRANSLATION.ok ? (ats.paHi >>> 0) * 2 ** 32 + (ats.paLo >>> 0) : "abort";
  }

  type Case = readonly [name: string, set: (rig: Rig) => void, outcome: number | "abort", events: readonly string[], options?: RigOptions];
  const noRecords = { ...ATSCHK, cr2: CR2_RECINVSID };
  const cases: readonly Case[] = [
    ["SMMUEN == 0", () => undefined, "abort", ["F_TRANSL_FORBIDDEN"], { cr0: CR0_BASE & ~1 }],
    ["ATSCHK == 0: nothing is checked", (rig) => { rig.ste(1, { V: 0 }); }, PA, []],
    ["Config == 000", (rig) => { rig.ste(1, { Config: 0, ...FULL }); }, "abort", [], ATSCHK],
    ["Config == 100", (rig) => { rig.ste(1, { Config: 4, ...FULL }); }, "abort", ["F_TRANSL_FORBIDDEN"], ATSCHK],
    ["EATS == 00", (rig) => { rig.stage1(1); }, "abort", ["F_TRANSL_FORBIDDEN"], ATSCHK],
    ["EATS == 01", (rig) => { rig.stage1(1, {}, FULL); }, PA, [], ATSCHK],
    ["C_BAD_STE", (rig) => { rig.ste(1, { V: 0 }); }, "abort", ["C_BAD_STE"], ATSCHK],
    ["C_BAD_STE, not recorded", (rig) => { rig.ste(1, { V: 0 }); }, "abort", [], noRecords],
  ];
  test.each(cases.map(named))("%s", (_name, [, set, outcome, events, options = {}]) => {
    const rig = rigWith(options);
    set(rig);
    expect(access(rig, PA)).toBe(outcome);
    expect(names(rig)).toEqual(events);
  });

  test("C_BAD_STREAMID is recorded without RECINVSID", () => {
    const rig = rigWith({ ...ATSCHK, cr2: CR2_REC_CFG_ATS });
    expect(access(rig, PA, ACCESS.read, 0, 1000)).toBe("abort");
    expect(names(rig)).toEqual(["C_BAD_STREAMID"]);
  });

  test("7.3.8 the record of F_TRANSL_FORBIDDEN", () => {
    const rig = rigWith(ATSCHK);
    rig.stage1(1);
    access(rig, PA + 0x123);
    access(rig, PA + 0x123, ACCESS.write | ACCESS.ssidValid, 5);
    expect(rig.events()).toEqual([
      [7, 1, 0, 8, 0x123, 8, 0, 0],
      [7, 1, 0, 0, 0x123, 8, 0, 0],
    ]);
  });

  test("3.9.1.1 an address beyond OAS is aborted without a record", () => {
    for (const options of [{}, ATSCHK]) {
      const rig = rigWith(options);
      rig.stage1(1, {}, FULL);
      expect(access(rig, 2 ** 48)).toBe("abort");
      expect(names(rig)).toEqual([]);
    }
  });

  type Substream = readonly [name: string, id: IdRegisters, ssid: number | undefined, ste: SteValues, events: readonly string[]];
  const PASIDTT = withIdr3(WITH_ATS, "PASIDTT");
  test.each<Substream>([
    ["PASIDTT: within the table", PASIDTT, 1, SUBSTREAMS, []],
    ["PASIDTT: beyond it", PASIDTT, 2, SUBSTREAMS, ["C_BAD_SUBSTREAMID"]],
    ["PASIDTT: none, and none permitted", PASIDTT, undefined, { ...FULL, S1CDMax: 1 }, ["F_STREAM_DISABLED"]],
    ["without PASIDTT substreams are not looked at", WITH_ATS, 2, { ...FULL, S1CDMax: 1 }, []],
  ])("%s", (_name, id, ssid, ste, events) => {
    const rig = rigWith({ ...ATSCHK, id });
    rig.stage1(1, {}, ste);
    const flags = ssid === undefined ? ACCESS.read : ACCESS.ssidValid;
    expect(access(rig, PA, flags, ssid)).toBe(events.length === 0 ? PA : "abort");
    expect(names(rig)).toEqual(events);
  });

  describe("13.6.3 split-stage ATS", () => {
    const IPA = 0x80_0000_0000;
    function split(options: RigOptions = {}, ste: SteValues = {}): { rig: Rig; root2: number } {
      const rig = rigWith({ ...ATSCHK, ...options });
      const { root1, root2 } = rig.nested(1, 1, {}, { EATS: STE_EATS.s1chk, ...ste });
      rig.map(root1, VA, IPA, S1.rw);
      return { rig, root2 };
    }

    test("the request gets the IPA, the transaction stage 2", () => {
      const { rig, root2 } = split();
      rig.map(root2, IPA, PA, S2.rw);
      expect(ask(rig).granted).toEqual([`${IPA.toString(16)} of 1000: R W`]);
      expect(access(rig, IPA + 0x10, ACCESS.write)).toBe(PA + 0x10);
      // Kept as an entry of stage 2: a TLBI by IPA removes it.
      rig.map(root2, IPA, PA + 0x1000, S2.rw);
      expect(access(rig, IPA)).toBe(PA);
      rig.command("TLBI_S2_IPA", { VMID: 1, Address: IPA });
      expect(access(rig, IPA)).toBe(PA + 0x1000);
    });

    test.each<[string, (rig: Rig, root2: number) => void, string, number, SteValues]>([
      ["not mapped", () => undefined, "F_TRANSLATION", 0x288, {}],
      ["read-only", (rig, root2) => { rig.map(root2, IPA, PA, S2.ro); }, "F_PERMISSION", 0x280, {}],
      ["no access flag", (rig, root2) => { rig.map(root2, IPA, PA, S2.noAf); }, "F_ACCESS", 0x280, {}],
    ])("a fault is recorded as of an ordinary transaction: %s", (_name, set, event, word3, ste) => {
      const { rig, root2 } = split({}, ste);
      set(rig, root2);
      expect(access(rig, IPA + 0x123, event === "F_TRANSLATION" ? ACCESS.read : ACCESS.write)).toBe("abort");
      const [record] = rig.events();
      expect(EVENT_NAMES.get(record![0]! & 0xff)).toBe(event);
      expect(record!.slice(1)).toEqual([1, 0, word3, 0x123, 0x80, 0, 0x80]);
    });

    test.each<[string, IdRegisters, number, boolean]>([
      ["without PASIDTT the attributes of a PASID are not there", WITH_ATS, ACCESS.instruction | ACCESS.ssidValid, true],
      ["with PASIDTT they count", PASIDTT, ACCESS.instruction | ACCESS.ssidValid, false],
      ["with PASIDTT, of a PASID only", PASIDTT, ACCESS.instruction, true],
    ])("3.9.1.3 %s", (_name, id, flags, permitted) => {
      const { rig, root2 } = split({ id }, { S1CDMax: 1, S1DSS: STE_S1DSS.ssid0 });
      rig.map(root2, IPA, PA, S2.rw);
      // XN[1], bit 54: no instruction fetches.
      rig.memory.store32(rig.leaf(root2, IPA) + 4, rig.memory.load32(rig.leaf(root2, IPA) + 4) | (1 << 22));
      expect(access(rig, IPA, flags, 1)).toBe(permitted ? PA : "abort");
      expect(names(rig)).toEqual(permitted ? [] : ["F_PERMISSION"]);
    });

    test("S2R == 0 silences it", () => {
      const { rig } = split();
      rig.fields(STE, STRTAB + 64, { S2R: 0 });
      expect(access(rig, IPA)).toBe("abort");
      expect(names(rig)).toEqual([]);
    });

    test("beyond IAS it is F_ADDR_SIZE of stage 1", () => {
      const { rig } = split();
      expect(access(rig, 2 ** 50)).toBe("abort");
      expect(rig.events()).toEqual([[0x11, 1, 0, 0x208, 0, 0x4_0000, 0, 0]]);
    });

    test("5.2 EATS: illegal without both stages, or with NS1ATS", () => {
      for (const [config, id] of [
        [STE_CONFIG.s1, WITH_ATS],
        [STE_CONFIG.nested, { ...WITH_ATS, IDR0: WITH_ATS.IDR0 | (1 << 11) }],
      ] as const) {
        const rig = rigWith({ ...ATSCHK, id });
        rig.nested(1, 1, {}, { EATS: STE_EATS.s1chk });
        rig.fields(STE, STRTAB + 64, { Config: config });
        expect(ask(rig).status).toBe("CA");
        expect(names(rig)).toEqual(["C_BAD_STE"]);
      }
    });
  });
});

describe("3.9.1: Translation Requests of other streams", () => {
  test("VMSAv8-32 tables, TTB1 with TBI, PRIVCFG and a block of 512 GiB", () => {
    const lpae: IdRegisters = { ...WITH_ATS, IDR0: WITH_ATS.IDR0 | (3 << 2) };
    const rig = rigWith({ id: lpae });
    // Level 1 of a 32-bit address has four entries of 1 GiB.
    const root = rig.stage1(1, { AA64: 0, T0SZ: 0, IPS: 0 }, FULL);
    rig.memory.store64(root + 8, (PA % 2 ** 32) | S1.rw | 1, PA / 2 ** 32);
    expect(ask(rig, { address: 0x4000_0000 })).toEqual({ status: "success", granted: [`${PA.toString(16)} of 40000000: R W`] });
  });

  test("a tagged address of an untranslated access and a request share their TLB entry", () => {
    const rig = rigWith();
    rig.map(rig.stage1(1, { TBI0: 1 }, FULL), VA, PA, S1.rw);
    expect(ask(rig, { address: VA + 2 ** 60 })).toEqual({ status: "success", granted: [RW] });
    expect(rig.access(1, VA).pa).toBe(PA);
    expect(rig.smmu.counters.read("tlb.hits").device).toBe(1);
  });

  test("S1DSS = ssid0: SubstreamID 0 is refused", () => {
    const rig = rigWith();
    rig.map(rig.stage1(2, {}, SUBSTREAMS), VA, PA, S1.rw);
    expect(ask(rig, { sid: 2, ssid: 0 })).toEqual({ status: "CA", granted: [] });
    expect(names(rig)).toEqual(["F_STREAM_DISABLED"]);
  });
});

test("3.9.1: without ATS there is no port", () => {
  const rig = new Rig();
  expect(rig.smmu.features.ats).toBe(false);
  expect(() => rig.smmu.ats).toThrow(TypeError);
  expect(() => rig.smmu.pri).toThrow(TypeError);
});
