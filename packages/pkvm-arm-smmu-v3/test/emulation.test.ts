import { ERRNO, PAGE_SIZE } from "@smmuv3/platform";
import { CMD_WORDS, getField, OFFSET, REGISTERS, setField, STE, STE_CONFIG, STE_WORDS } from "@smmuv3/smmu-v3-defs";
import type { RegisterName } from "@smmuv3/smmu-v3-defs";
import { describe, expect, test } from "vitest";
import { CMDQ, HOST_PAGE, POOL_BASE, SMMU_SIZE } from "./el2.ts";
import { cmd, CR0, Host, HOST_CMDQ, HOST_EVTQ, HOST_L2, HOST_STRTAB, LOG2 } from "./emulated-host.ts";

const CFGI = (sid: number): number[] => cmd("CFGI_STE", { SID: sid, Leaf: 1 });

describe("registers", () => {
  test("IDs show stage 1 and nothing that EL2 keeps", () => {
    const host = new Host();
    // S1P, TTF, COHACC, ASID16, SEV, CD2L, TTENDIAN, ST_LEVEL.
    expect(host.read("IDR0").toString(16)).toBe((0x0848_501e).toString(16));
    expect(host.read("IDR1").toString(16)).toBe((0x0273_0010 & ~(0x1f << 11)).toString(16));
    expect(host.read("IDR3")).toBe(0x1414 & ~(1 << 4));
    expect(host.read("IDR5")).toBe(0x74);
    expect(host.read("AIDR")).toBe(1);
  });

  test("every offset answers, whatever its width, and no access of any kind reaches EL2's registers", () => {
    const host = new Host();
    const { smmu } = host.cpu;
    const keep = ["STRTAB_BASE", "STRTAB_BASE_CFG", "CMDQ_BASE", "CMDQ_PROD", "CR1", "CR2", "GBPA"];
    const before = keep.map((name) => [smmu.get(name), smmu.get(name, 1)]);
    for (let offset = 0; offset < SMMU_SIZE; offset += 4) {
      for (const size of offset % 8 === 0 ? [4, 8] : [4]) {
        // Enabling a queue or a table at address -1 is not what this test is about.
        if (offset !== OFFSET.CR0) expect(host.cpu.access(offset, size, true, -1, -1).action).toBe(1);
        expect(host.cpu.access(offset, size, false).action).toBe(1);
      }
    }
    expect(keep.map((name) => [smmu.get(name), smmu.get(name, 1)])).toEqual(before);
  });

  test.each<[RegisterName, number, number]>([
    ["GERROR_IRQ_CFG0", 0, 0],
    ["EVENTQ_IRQ_CFG0", 0, 0],
    ["EVENTQ_IRQ_CFG1", 0, 0],
    ["PRIQ_BASE", 0, 0],
    ["GATOS_CTRL", 0, 0],
    ["IDR2", 0, 0],
    ["IDR4", 0, 0],
    ["IDR6", 0, 0],
    ["AGBPA", 0, 0],
    ["GBPA", 1 << 20, 0],
    ["CR1", 0xfff, 0],
    ["CR2", 2, 0],
    ["STRTAB_BASE", -64, 0x40ff_ffff],
    ["STRTAB_BASE_CFG", 0x307ff, 0],
    ["CMDQ_BASE", -1, 0x40ff_ffff],
  ])("%s after all ones is written", (name, lo, hi) => {
    const host = new Host();
    const wide = REGISTERS[name].bits === 64;
    host.cpu.access(OFFSET[name], wide ? 8 : 4, true, -1, -1);
    const got = host.cpu.access(OFFSET[name], wide ? 8 : 4, false);
    expect([got.lo, got.hi]).toEqual([lo, hi]);
    expect(host.cpu.smmu.log).toEqual([]);
  });

  test("halves of a 64-bit register, and 64 bits of a 32-bit register", () => {
    const host = new Host();
    host.cpu.access(OFFSET.STRTAB_BASE + 4, 4, true, 0x12);
    host.cpu.access(OFFSET.STRTAB_BASE, 4, true, 0x4000_0000);
    const wide = host.cpu.access(OFFSET.STRTAB_BASE, 8, false);
    expect([wide.lo, wide.hi]).toEqual([0x4000_0000, 0x12]);
    expect(host.cpu.access(OFFSET.IDR0, 8, false)).toMatchObject({ action: 1, lo: 0, hi: 0 });
    host.cpu.access(OFFSET.CR0, 8, true, -1, -1);
    expect(host.read("CR0")).toBe(0);
  });

  test.each<[RegisterName, number]>([
    ["STRTAB_BASE", CR0.SMMUEN],
    ["STRTAB_BASE_CFG", CR0.SMMUEN],
    ["CR2", CR0.SMMUEN],
    ["CMDQ_BASE", CR0.CMDQEN],
    ["CMDQ_CONS", CR0.CMDQEN],
    ["EVENTQ_BASE", CR0.EVENTQEN],
    ["EVENTQ_PROD", CR0.EVENTQEN],
  ])("%s cannot be written while enabled", (name, enable) => {
    const host = new Host();
    host.enable(enable);
    const before = host.read(name);
    host.write(name, before ^ 0x40);
    expect(host.read(name)).toBe(before);
    host.write("CR0", 0);
    host.write(name, before ^ 0x40);
    expect(host.read(name)).not.toBe(before ^ 0x80);
  });

  test("CR0 is acknowledged; PRI, ATS and VMW do not exist; the hardware stays enabled", () => {
    const host = new Host();
    host.enable(-1);
    expect(host.read("CR0")).toBe(0xd);
    expect(host.read("CR0ACK")).toBe(0xd);
    host.write("CR0", 0);
    expect(host.read("CR0ACK")).toBe(0);
    const writes = host.cpu.smmu.log.filter((entry) => entry.startsWith("CR0="));
    expect(writes).toEqual(["CR0=1d", "CR0=19"]);
  });
});

describe("stream table", () => {
  test("the state of each host STE in hardware", () => {
    const host = new Host();
    host.l1(0, HOST_L2);
    host.ste(1, { V: 0, Config: STE_CONFIG.bypass });
    host.ste(2, { V: 1, Config: STE_CONFIG.abort });
    host.ste(3, { V: 1, Config: STE_CONFIG.bypass });
    host.ste(4, { V: 1, Config: STE_CONFIG.s1, S1ContextPtr: 0x4070_0000, S1CDMax: 4, S1DSS: 2, S1Fmt: 1, S1STALLD: 1 });
    host.ste(5, { V: 1, Config: STE_CONFIG.s2, S2TTB: 0x4070_0000, S2VMID: 3 });
    host.ste(6, { V: 1, Config: STE_CONFIG.nested });
    host.ste(7, { V: 1, Config: 2 });
    host.enable();
    const config = (sid: number): number[] => {
      const ste = host.hardware(sid)!;
      return [getField(ste, 0, STE.V), getField(ste, 0, STE.Config)];
    };
    expect([1, 2, 3, 4, 5, 6, 7].map(config)).toEqual([[0, 0], [1, 0], [1, 6], [1, 7], [0, 0], [0, 0], [1, 0]]);
    const nested = host.hardware(4)!;
    const value = (name: "S1CDMax" | "S1DSS" | "S1Fmt" | "S1STALLD"): number => getField(nested, 0, STE[name]);
    expect([value("S1CDMax"), value("S1DSS"), value("S1Fmt"), value("S1STALLD")]).toEqual([4, 2, 1, 1]);
  });

  test("every valid STE has EL2's roots, VMID 0, no ATS and nothing else of the host's", () => {
    const host = new Host();
    host.l1(0, HOST_L2);
    const ones = new Int32Array(STE_WORDS).fill(-1);
    for (const [sid, config] of [[1, STE_CONFIG.bypass], [2, STE_CONFIG.s1]] as const) {
      setField(ones, 0, STE.Config, config);
      host.cpu.memory.write(HOST_L2 + sid * 64, ones);
    }
    host.ste(3, { V: 1, Config: STE_CONFIG.bypass });
    host.enable();
    const plain = host.hardware(3)!;
    for (const sid of [1, 2]) {
      const ste = host.hardware(sid)!;
      expect([...ste.slice(4, 8)]).toEqual([...plain.slice(4, 8)]);
      for (const field of ["EATS", "STRW", "CONT", "S1MPAM", "S2FWB", "DCP", "PPAR"] as const) {
        expect(getField(ste, 0, STE[field])).toBe(0);
      }
      expect(getField(ste, 0, STE.SHCFG)).toBe(1);
      expect([...ste.slice(8)]).toEqual(new Array<number>(8).fill(0));
    }
    expect(getField(plain, 0, STE.S2VMID)).toBe(0);
    const root = plain[6]! & ~15;
    expect(root >= POOL_BASE).toBe(true);
  });

  test("changes take effect with CFGI_STE, and only for that stream", () => {
    const host = new Host();
    host.l1(0, HOST_L2);
    host.ste(2, { V: 1, Config: STE_CONFIG.abort });
    host.ste(1, { V: 1, Config: STE_CONFIG.bypass });
    host.enable();
    host.ste(1, { V: 1, Config: STE_CONFIG.s1, S1ContextPtr: 0x4070_0000 });
    host.ste(2, { V: 1, Config: STE_CONFIG.bypass });
    host.queue(CFGI(1), cmd("SYNC"));
    expect(getField(host.hardware(1)!, 0, STE.Config)).toBe(STE_CONFIG.nested);
    expect(getField(host.hardware(2)!, 0, STE.Config)).toBe(STE_CONFIG.abort);
    expect(host.read("CMDQ_CONS")).toBe(2);
    host.queue(cmd("CFGI_STE_RANGE", { SID: 3, Range: 1 }));
    expect(getField(host.hardware(2)!, 0, STE.Config)).toBe(STE_CONFIG.s2);
  });

  test("a new second level is copied as a whole, with Leaf 0 or when it is the first", () => {
    const host = new Host();
    host.enable();
    host.l1(256, HOST_L2);
    host.ste(257, { V: 1, Config: STE_CONFIG.bypass });
    host.queue(CFGI(300));
    expect(getField(host.hardware(257)!, 0, STE.Config)).toBe(STE_CONFIG.s2);
    host.ste(258, { V: 1, Config: STE_CONFIG.bypass });
    host.queue(cmd("CFGI_STE", { SID: 300, Leaf: 1 }));
    expect(getField(host.hardware(258)!, 0, STE.Config)).toBe(STE_CONFIG.abort);
    host.queue(cmd("CFGI_STE", { SID: 300, Leaf: 0 }));
    expect(getField(host.hardware(258)!, 0, STE.Config)).toBe(STE_CONFIG.s2);
  });

  test("a second level is the host's again after it was read", () => {
    const host = new Host();
    host.l1(0, HOST_L2);
    host.enable();
    host.queue(CFGI(3));
    expect(host.cpu.call("__pkvm_host_donate_hyp", HOST_L2 / PAGE_SIZE)).toBe(0);
  });

  test("bypass to stage 1 is hitless, and blocks in no step", () => {
    const host = new Host();
    host.l1(0, HOST_L2);
    host.ste(1, { V: 1, Config: STE_CONFIG.bypass });
    host.enable();
    const seen: number[][] = [];
    host.cpu.smmu.onCommand = () => {
      const ste = host.hardware(1)!;
      seen.push([getField(ste, 0, STE.V), getField(ste, 0, STE.Config)]);
    };
    host.ste(1, { V: 1, Config: STE_CONFIG.s1, S1ContextPtr: 0x4070_0000 });
    host.queue(CFGI(1));
    for (const [valid, config] of seen) expect(valid === 1 && (config === 6 || config === 7)).toBe(true);
  });

  test("so is stage 1 to bypass in steps: fields that bypass does not use are still there in between", () => {
    const host = new Host();
    host.l1(0, HOST_L2);
    const stage1 = { V: 1, S1ContextPtr: 0x4070_0000, S1DSS: 2, S1CIR: 1, S1COR: 1, S1CSH: 3 };
    host.ste(1, { ...stage1, Config: STE_CONFIG.s1 });
    host.enable();
    const valid: number[] = [];
    host.cpu.smmu.onCommand = () => valid.push(getField(host.hardware(1)!, 0, STE.V));
    host.ste(1, { ...stage1, Config: STE_CONFIG.bypass });
    host.queue(CFGI(1));
    expect(valid.length).toBeGreaterThan(0);
    expect(valid).not.toContain(0);
    const ste = host.hardware(1)!;
    expect([getField(ste, 0, STE.Config), getField(ste, 0, STE.S1CIR)]).toEqual([STE_CONFIG.s2, 0]);
  });

  test.each<[string, (host: Host) => void]>([
    ["a level 2 of EL2's", (host) => { host.l1(0, POOL_BASE); }],
    ["a level 2 outside of RAM", (host) => { host.l1(0, 0x1000); }],
    ["a span of 0", (host) => { host.l1(0, HOST_L2, 0); }],
    ["a span beyond the split", (host) => { host.l1(0, HOST_L2, 10); }],
    ["a span that ends before it", (host) => { host.l1(0, HOST_L2, 2); }],
    ["a table of EL2's", (host) => { host.write64("STRTAB_BASE", CMDQ); }],
    ["a table outside of RAM", (host) => { host.write64("STRTAB_BASE", 0, 0x0f_0000); }],
    [
      "a reserved split",
      (host) => {
        host.l1(0, HOST_L2, 8);
        host.write("STRTAB_BASE_CFG", (1 << 16) | (7 << 6) | 16);
      },
    ],
    ["a size that ends before it", (host) => { host.write("STRTAB_BASE_CFG", (1 << 16) | (8 << 6) | 2); }],
  ])("a stream stays blocked with %s", (_what, spoil) => {
    const host = new Host();
    host.l1(0, HOST_L2);
    host.ste(9, { V: 1, Config: STE_CONFIG.bypass });
    host.enable(CR0.CMDQEN);
    spoil(host);
    host.write("CR0", CR0.CMDQEN | CR0.SMMUEN);
    host.queue(CFGI(9));
    const ste = host.hardware(9);
    expect(ste === undefined || getField(ste, 0, STE.Config) === STE_CONFIG.abort).toBe(true);
    expect(host.read("CR0ACK")).toBe(9);
  });

  test("running out of table memory blocks streams and harms nobody", () => {
    const host = new Host();
    for (let sid = 0; sid < 0x1_0000; sid += 256) host.l1(sid, HOST_L2);
    host.ste(0, { V: 1, Config: STE_CONFIG.bypass });
    host.enable();
    expect(host.hardware(0)).toBeDefined();
    expect(host.hardware(0xff00)).toBeUndefined();
    host.queue(CFGI(0xff00), cmd("SYNC"));
    expect(host.read("CMDQ_CONS")).toBe(2);
  });

  test("the host's SMMUEN is virtual: off means blocked, on means copied again and forgotten", () => {
    const host = new Host();
    host.l1(0, HOST_L2);
    host.ste(1, { V: 1, Config: STE_CONFIG.bypass });
    host.enable();
    host.write("CR0", CR0.CMDQEN);
    expect(getField(host.hardware(1)!, 0, STE.Config)).toBe(STE_CONFIG.abort);
    host.cpu.smmu.log.length = 0;
    host.write("CR0", CR0.CMDQEN | CR0.SMMUEN);
    expect(getField(host.hardware(1)!, 0, STE.Config)).toBe(STE_CONFIG.s2);
    expect(host.cpu.smmu.log.slice(-3)).toEqual(["CFGI_STE_RANGE", "TLBI_NSNH_ALL", "SYNC"]);
    expect(host.cpu.smmu.get("CR0") & 1).toBe(1);
  });

  test("a linear table, and second levels of another split", () => {
    const linear = new Host();
    linear.enable(CR0.CMDQEN);
    linear.write64("STRTAB_BASE", HOST_L2);
    linear.write("STRTAB_BASE_CFG", 6);
    linear.ste(33, { V: 1, Config: STE_CONFIG.bypass });
    linear.write("CR0", 9);
    expect(getField(linear.hardware(33)!, 0, STE.Config)).toBe(STE_CONFIG.s2);

    const small = new Host();
    small.enable(CR0.CMDQEN);
    small.write("STRTAB_BASE_CFG", (1 << 16) | (6 << 6) | 16);
    const desc = Int32Array.from([HOST_L2 | 7, 0]);
    small.cpu.memory.write(HOST_STRTAB + 2 * 8, desc);
    small.ste(5, { V: 1, Config: STE_CONFIG.bypass });
    small.write("CR0", 9);
    expect(getField(small.hardware(128 + 5)!, 0, STE.Config)).toBe(STE_CONFIG.s2);
    expect(getField(small.hardware(64 + 5)!, 0, STE.Config)).toBe(STE_CONFIG.abort);
  });
});

describe("command queue", () => {
  const ALLOWED: [string, number[], number[] | undefined][] = [
    ["PREFETCH_CONFIG", cmd("PREFETCH_CONFIG", { SID: 4 }), undefined],
    ["CFGI_CD", cmd("CFGI_CD", { SID: 4, SSID: 2, Leaf: 1 }), undefined],
    ["CFGI_CD_ALL", cmd("CFGI_CD_ALL", { SID: 4 }), undefined],
    ["TLBI_NSNH_ALL", cmd("TLBI_NSNH_ALL"), undefined],
    ["TLBI_NH_ALL", cmd("TLBI_NH_ALL", { VMID: 9 }), cmd("TLBI_NH_ALL")],
    ["TLBI_NH_ASID", cmd("TLBI_NH_ASID", { VMID: 9, ASID: 7 }), cmd("TLBI_NH_ASID", { ASID: 7 })],
    [
      "TLBI_NH_VA with a range",
      cmd("TLBI_NH_VA", { ASID: 7, VMID: 1, Address: 0x5000, Leaf: 1, TG: 1, TTL: 3, NUM: 4, SCALE: 1 }),
      cmd("TLBI_NH_VA", { ASID: 7, Address: 0x5000, Leaf: 1, TG: 1, TTL: 3, NUM: 4, SCALE: 1 }),
    ],
    ["TLBI_NH_VAA", cmd("TLBI_NH_VAA", { Address: 0x5000 }), undefined],
    ["RESUME", cmd("RESUME", { SID: 4, STAG: 3, Ac: 1 }), undefined],
    ["STALL_TERM", cmd("STALL_TERM", { SID: 4 }), undefined],
    ["reserved bits are dropped", [0x30, -1, -1, -1], cmd("TLBI_NSNH_ALL")],
    ["NUM without TG means one address", cmd("TLBI_NH_VA", { NUM: 3, TTL: 2 }), cmd("TLBI_NH_VA")],
  ];
  test.each(ALLOWED)("allowed: %s", (_what, command, expected) => {
    const host = new Host();
    host.enable();
    host.cpu.smmu.commands.length = 0;
    host.queue(command);
    expect(host.cpu.smmu.commands).toEqual([expected ?? command]);
    expect(host.read("CMDQ_CONS")).toBe(1);
    expect(host.cpu.smmu.log.at(-1)).toBe("SYNC");
  });

  test.each<[string, number[]]>([
    ["TLBI_S2_IPA", cmd("TLBI_S2_IPA")],
    ["TLBI_S12_VMALL", cmd("TLBI_S12_VMALL")],
    ["TLBI_EL2_ALL", cmd("TLBI_EL2_ALL")],
    ["TLBI_EL2_VA", cmd("TLBI_EL2_VA")],
    ["TLBI_EL3_ALL", cmd("TLBI_EL3_ALL")],
    ["TLBI_SNH_ALL", cmd("TLBI_SNH_ALL")],
    ["ATC_INV", cmd("ATC_INV")],
    ["PRI_RESP", cmd("PRI_RESP")],
    ["CFGI_VMS_PIDM", cmd("CFGI_VMS_PIDM")],
    ["DPTI_ALL", cmd("DPTI_ALL")],
    ["a reserved opcode", [0xff, 0, 0, 0]],
    ["opcode 0", [0, 0, 0, 0]],
    ["an implementation's own opcode", [0x80, 0, 0, 0]],
    ["a Secure stream", cmd("CFGI_CD", { SSec: 1 })],
    ["a SYNC with reserved CS", cmd("SYNC", { CS: 3 })],
    ["a granule without a range", cmd("TLBI_NH_VA", { TG: 1 })],
    ["16K at level 1 without a range", cmd("TLBI_NH_VA", { TG: 2, TTL: 1 })],
  ])("illegal: %s", (_what, command) => {
    const host = new Host();
    host.enable();
    host.cpu.smmu.commands.length = 0;
    host.queue(cmd("TLBI_NSNH_ALL"), command, cmd("CFGI_CD_ALL", { SID: 1 }));
    expect(host.read("CMDQ_CONS")).toBe(1 | (1 << 24));
    expect(host.read("GERROR") ^ host.read("GERRORN")).toBe(1);
    expect(host.cpu.smmu.commands).toEqual([cmd("TLBI_NSNH_ALL")]);

    // A write to PROD does not help; a SYNC in its place and the acknowledge do.
    host.queue();
    expect(host.read("CMDQ_CONS") & 0xff).toBe(1);
    host.cpu.memory.write(HOST_CMDQ + 16, Int32Array.from(cmd("SYNC")));
    host.write("GERRORN", host.read("GERROR"));
    expect(host.read("CMDQ_CONS")).toBe(3);
    expect(host.cpu.smmu.commands.at(-1)).toEqual(cmd("CFGI_CD_ALL", { SID: 1 }));
  });

  test.each([
    ["enabled", 1, [74]],
    ["disabled", 0, []],
  ])("an error raises the global error interrupt while it is %s, and does not touch the hardware's queue", (_what, irq, raised) => {
    const host = new Host();
    host.enable();
    host.write("IRQ_CTRL", irq);
    host.cpu.smmu.log.length = 0;
    host.queue([0xff, 0, 0, 0]);
    expect(host.cpu.injected).toEqual(raised);
    expect(host.cpu.smmu.log).toEqual([]);
    expect(host.cpu.smmu.get("GERROR")).toBe(host.cpu.smmu.get("GERRORN"));
    expect(host.cpu.call("__pkvm_host_donate_hyp", HOST_PAGE / PAGE_SIZE)).toBe(0);
  });

  test("one trap does a bounded amount of work; polling CONS finishes the rest", () => {
    const host = new Host();
    for (let sid = 0; sid < 0x800; sid += 256) host.l1(sid, HOST_L2);
    host.ste(0, { V: 1, Config: STE_CONFIG.bypass });
    host.enable();
    host.queue(...Array.from({ length: 8 }, () => cmd("CFGI_STE_RANGE", { Range: 31 })));
    const seen = [host.cpu.smmu.log.filter((entry) => entry === "CFGI_STE_RANGE").length];
    while (host.read("CMDQ_CONS") !== 8) seen.push(host.read("CMDQ_CONS"));
    expect(seen.length).toBeGreaterThan(1);
    expect(host.read("CMDQ_CONS")).toBe(host.read("CMDQ_PROD"));
  });

  test("a SYNC carries no message to anywhere", () => {
    const host = new Host();
    host.enable();
    const words: number[][] = [];
    host.cpu.smmu.onCommand = (name) => {
      if (name !== "SYNC") return;
      const slot = host.cpu.smmu.get("CMDQ_CONS") & 0xff;
      const command = new Int32Array(CMD_WORDS);
      host.cpu.memory.read(CMDQ + slot * 16, command);
      words.push([...command]);
    };
    host.queue(cmd("SYNC", { CS: 1, MSIData: 0x5ec, MSIAddr: POOL_BASE, MSIAttr: 15, MSH: 3 }));
    expect(words.length).toBeGreaterThan(0);
    for (const word of words) expect(word).toEqual(cmd("SYNC", { CS: 2 }));
  });

  test("more commands than a batch, around the end of the ring", () => {
    const host = new Host();
    host.enable();
    host.cpu.smmu.commands.length = 0;
    for (let round = 0; round < 4; round++) {
      host.queue(...Array.from({ length: 200 }, (_, i) => cmd("TLBI_NH_ASID", { ASID: round * 200 + i })));
      expect(host.read("CMDQ_CONS")).toBe(host.read("CMDQ_PROD"));
    }
    expect(host.cpu.smmu.commands.map((command) => command[1]! >>> 16)).toEqual(Array.from({ length: 800 }, (_, i) => i));
  });

  test("what was queued before an STE changes has been done by then", () => {
    const host = new Host();
    host.l1(0, HOST_L2);
    host.ste(1, { V: 1, Config: STE_CONFIG.bypass });
    host.enable();
    host.ste(1, { V: 1, Config: STE_CONFIG.abort });
    host.cpu.smmu.onCommand = (name) => {
      if (name === "TLBI_NH_ALL") expect(getField(host.hardware(1)!, 0, STE.Config)).toBe(STE_CONFIG.s2);
    };
    host.cpu.smmu.log.length = 0;
    host.queue(cmd("TLBI_NH_ALL"), CFGI(1));
    expect(host.cpu.smmu.log.filter((entry) => /^[A-Z]/.test(entry) && !entry.includes("=")).slice(0, 2)).toEqual([
      "TLBI_NH_ALL",
      "SYNC",
    ]);
    expect(getField(host.hardware(1)!, 0, STE.Config)).toBe(STE_CONFIG.abort);
  });

  test("a PROD that is further than the queue is long consumes nothing", () => {
    const host = new Host();
    host.enable();
    host.write("CMDQ_PROD", 0x1ff);
    expect(host.read("CMDQ_CONS")).toBe(0);
    expect(host.read("GERROR")).toBe(host.read("GERRORN"));
  });

  test("nothing is consumed while the queue is off", () => {
    const host = new Host();
    host.enable(0);
    host.queue(cmd("TLBI_NSNH_ALL"));
    expect(host.read("CMDQ_CONS")).toBe(0);
    host.write("CR0", CR0.CMDQEN);
    expect(host.read("CMDQ_CONS")).toBe(1);
  });

  test.each([
    ["EL2's", POOL_BASE],
    ["nobody's", 0],
  ])("a queue in %s memory cannot be fetched", (_what, base) => {
    const host = new Host();
    host.write64("CMDQ_BASE", base | LOG2);
    host.write("CR0", CR0.CMDQEN);
    host.write("CMDQ_PROD", 1);
    expect(host.read("CMDQ_CONS")).toBe(2 << 24);
    expect(host.read("GERROR") ^ host.read("GERRORN")).toBe(1);
  });

  test("an SMMU that does not answer is an error of the host's queue, after 100 ms", () => {
    const host = new Host();
    host.enable();
    host.cpu.smmu.consumes = false;
    const start = host.cpu.now();
    host.queue(cmd("TLBI_NSNH_ALL"));
    expect(host.cpu.now() - start).toBeLessThan(300_000_000);
    expect(host.read("CMDQ_CONS")).toBe(2 << 24);
  });
});

describe("memory that EL2 or the SMMU uses for the host", () => {
  test.each([
    ["command queue", HOST_CMDQ, CR0.CMDQEN],
    ["stream table", HOST_STRTAB, CR0.SMMUEN],
    ["event queue", HOST_EVTQ, CR0.EVENTQEN],
  ])("the %s stays the host's as long as it is enabled", (_what, pa, enable) => {
    const host = new Host();
    const donate = (): number => host.cpu.call("__pkvm_host_donate_hyp", pa / PAGE_SIZE);
    host.enable(enable);
    expect(donate()).toBe(-ERRNO.EBUSY);
    host.write("CR0", 0);
    expect(donate()).toBe(0);
  });

  test.each([
    ["EL2's", POOL_BASE],
    ["nobody's", 0],
  ])("an event queue in %s memory is not enabled", (_what, base) => {
    const host = new Host();
    host.write64("EVENTQ_BASE", base | 7);
    host.write("CR0", CR0.EVENTQEN);
    expect(host.read("CR0ACK")).toBe(0);
    expect(host.cpu.smmu.get("CR0") & CR0.EVENTQEN).toBe(0);
  });

  test("the SMMU gets the queue's address without what lies below its size", () => {
    const host = new Host();
    host.write64("EVENTQ_BASE", (HOST_EVTQ + 64) | 7, 1 << 30);
    host.write("CR0", CR0.EVENTQEN);
    expect(host.cpu.smmu.get("EVENTQ_BASE")).toBe(HOST_EVTQ | 7);
    expect(host.cpu.call("__pkvm_host_donate_hyp", HOST_EVTQ / PAGE_SIZE)).toBe(-ERRNO.EBUSY);
  });

  test("there are no hypercalls for this SMMU", () => {
    const { cpu } = new Host();
    expect(cpu.call("__pkvm_iommu_set_state", 0, 1, 0, 1)).toBe(-ERRNO.EOPNOTSUPP);
    expect(cpu.call("__pkvm_iommu_event_queue", 0, 0, 0)).toBe(-ERRNO.EOPNOTSUPP);
  });
});
