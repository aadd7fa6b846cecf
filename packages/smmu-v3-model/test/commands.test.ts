import { describe, expect, test } from "vitest";
import { CERROR, COMMANDS } from "@smmuv3/smmu-v3-defs";
import type { CMD, CommandName } from "@smmuv3/smmu-v3-defs";
import { GERROR_BIT, PRESETS } from "../src/index.ts";
import type { IdRegisters } from "../src/index.ts";
import { BASE, CMDQ, CMDQ_LOG2, Rig } from "./rig.ts";

const { reference, qemuNested, qemuStage1, qemuStage2 } = PRESETS;
const NAMES = Object.keys(COMMANDS) as CommandName[];
type Values = Readonly<Partial<Record<keyof typeof CMD, number>>>;

/** CMDQ_CONS.ERR after one command. */
function error(id: IdRegisters, name: CommandName, values: Values = {}, options: { reserved?: boolean } = {}): number {
  const rig = new Rig({ id, reservedCommandBits: options.reserved === true ? "illegal" : "ignore" });
  rig.command(name, values);
  const cons = rig.read("CMDQ_CONS");
  expect(cons & 0xf_ffff).toBe(cons >>> 24 === 0 ? 1 : 0);
  return cons >>> 24;
}

/** Commands that raise CERROR_ILL, by SMMU; all others are legal (hardware chapter 4). */
const SECURE: readonly CommandName[] = [
  "TLBI_EL3_ALL", "TLBI_EL3_VA", "TLBI_S_EL2_ALL", "TLBI_S_EL2_ASID", "TLBI_S_EL2_VA", "TLBI_S_EL2_VAA",
  "TLBI_S_S12_VMALL", "TLBI_S_S2_IPA", "TLBI_SNH_ALL",
];
const NO_FEATURE: readonly CommandName[] = [
  ...SECURE, "CFGI_VMS_PIDM", "ATC_INV", "PRI_RESP", "RESUME", "STALL_TERM", "DPTI_ALL", "DPTI_PA",
];
const EL2: readonly CommandName[] = ["TLBI_EL2_ALL", "TLBI_EL2_ASID", "TLBI_EL2_VA", "TLBI_EL2_VAA"];
const STAGE1: readonly CommandName[] = [
  "CFGI_CD", "CFGI_CD_ALL", "TLBI_NH_ALL", "TLBI_NH_ASID", "TLBI_NH_VA", "TLBI_NH_VAA",
];
const STAGE2: readonly CommandName[] = ["TLBI_S12_VMALL", "TLBI_S2_IPA"];

describe("legality", () => {
  const rich: IdRegisters = {
    ...reference,
    // ATS, PRI, stalls.
    IDR0: (reference.IDR0 & ~(3 << 24)) | (1 << 10) | (1 << 16),
  };
  test.each<[string, IdRegisters, readonly CommandName[]]>([
    ["both stages and EL2", reference, NO_FEATURE],
    ["no EL2", qemuNested, [...NO_FEATURE, ...EL2]],
    ["stage 1 only", qemuStage1, [...NO_FEATURE, ...EL2, ...STAGE2]],
    ["stage 2 only", qemuStage2, [...NO_FEATURE, ...EL2, ...STAGE1]],
    ["ATS, PRI, stalls", rich, [...SECURE, "CFGI_VMS_PIDM", "DPTI_ALL", "DPTI_PA"]],
  ])("%s", (_name, id, illegal) => {
    const found = NAMES.filter((name) => error(id, name) === CERROR.ILL);
    expect(found.sort()).toEqual([...illegal].sort());
  });

  test.each<[string, CommandName, Values, number]>([
    ["SYNC with CS = 3", "SYNC", { CS: 3 }, CERROR.ILL],
    ["SYNC with SEV", "SYNC", { CS: 2 }, CERROR.NONE],
    ["SSec on a Non-secure queue", "CFGI_STE", { SSec: 1 }, CERROR.ILL],
    ["SSec of a prefetch", "PREFETCH_CONFIG", { SSec: 1 }, CERROR.ILL],
    ["a range of one page without TTL", "TLBI_NH_VA", { TG: 1 }, CERROR.ILL],
    ["a range of one page with TTL", "TLBI_NH_VA", { TG: 1, TTL: 3 }, CERROR.NONE],
    ["16K level 1 without 52-bit addresses", "TLBI_NH_VA", { TG: 2, TTL: 1 }, CERROR.ILL],
    ["16K level 1 with a range", "TLBI_NH_VA", { TG: 2, TTL: 1, NUM: 1 }, CERROR.NONE],
    ["NUM and SCALE without TG", "TLBI_S2_IPA", { NUM: 3, SCALE: 2 }, CERROR.NONE],
  ])("%s", (_name, command, values, expected) => {
    expect(error(reference, command, values)).toBe(expected);
  });

  test("PRI_RESP with Resp = 3", () => {
    const id = { ...reference, IDR0: reference.IDR0 | (1 << 16) };
    expect(error(id, "PRI_RESP", { Resp: 2 })).toBe(CERROR.NONE);
    expect(error(id, "PRI_RESP", { Resp: 3 })).toBe(CERROR.ILL);
  });

  test("every opcode without a name is reserved", () => {
    const known = new Set<number>(Object.values(COMMANDS).map(({ opcode }) => opcode));
    for (let opcode = 0; opcode < 256; opcode++) {
      if (known.has(opcode)) continue;
      const rig = new Rig();
      rig.memory.store32(rig.push("SYNC"), opcode);
      rig.ring();
      expect(rig.read("CMDQ_CONS"), `opcode ${opcode}`).toBe(CERROR.ILL << 24);
    }
  });

  test("RES0 bits are ignored or illegal by choice", () => {
    // VMID is no field of CMD_TLBI_NSNH_ALL.
    expect(error(reference, "TLBI_NSNH_ALL", { VMID: 1 })).toBe(CERROR.NONE);
    expect(error(reference, "TLBI_NSNH_ALL", { VMID: 1 }, { reserved: true })).toBe(CERROR.ILL);
    expect(error(reference, "TLBI_NH_ALL", { VMID: 1 }, { reserved: true })).toBe(CERROR.NONE);
  });
});

describe("errors", () => {
  test("CERROR_ILL stops at the command and restarts on the acknowledgement", () => {
    const rig = new Rig();
    rig.push("SYNC");
    const bad = rig.push("SYNC", { CS: 3 });
    rig.push("SYNC", { CS: 1 });
    rig.ring();
    expect(rig.read("CMDQ_CONS")).toBe((CERROR.ILL << 24) | 1);
    expect(rig.read("GERROR")).toBe(GERROR_BIT.CMDQ_ERR);
    expect(rig.pulses).toEqual({ evtq: 0, gerror: 1, cmdSync: 0 });

    rig.ring();
    expect(rig.read("CMDQ_CONS")).toBe((CERROR.ILL << 24) | 1);

    rig.memory.store32(bad, COMMANDS.SYNC.opcode);
    rig.write("GERRORN", GERROR_BIT.CMDQ_ERR);
    expect(rig.read("CMDQ_CONS") & 0xf_ffff).toBe(3);
    expect(rig.pulses.cmdSync).toBe(1);
  });

  test("a second error toggles GERROR back", () => {
    const rig = new Rig();
    rig.command("SYNC", { CS: 3 });
    rig.write("GERRORN", GERROR_BIT.CMDQ_ERR);
    expect(rig.read("GERROR")).toBe(0);
    expect(rig.pulses.gerror).toBe(2);
  });

  test("CERROR_ABT where the queue is not readable", () => {
    const rig = new Rig();
    rig.memory.perm[rig.memory.pageIndex(CMDQ)] = 2;
    rig.command("SYNC");
    expect(rig.read("CMDQ_CONS")).toBe(CERROR.ABT << 24);
    expect(rig.read("GERROR")).toBe(GERROR_BIT.CMDQ_ERR);
  });
});

describe("SYNC", () => {
  const MSI = BASE + 0x9_0004;

  test("CS = IRQ without an address pulses the wire", () => {
    const rig = new Rig();
    rig.command("SYNC", { CS: 1 });
    expect(rig.pulses.cmdSync).toBe(1);
  });

  test("CS = IRQ writes an MSI to RAM", () => {
    const rig = new Rig();
    rig.command("SYNC", { CS: 1, MSIAddr: MSI, MSIData: 0x1234_5678 });
    expect(rig.memory.load32(MSI)).toBe(0x1234_5678);
    expect(rig.pulses.cmdSync).toBe(0);
  });

  test("CS = none signals nothing", () => {
    const rig = new Rig();
    rig.command("SYNC", { MSIAddr: MSI, MSIData: 1 });
    expect([rig.memory.load32(MSI), rig.pulses.cmdSync]).toEqual([0, 0]);
  });

  test("an MSI outside of RAM goes to the target; without one it aborts", () => {
    const sent: number[][] = [];
    const rig = new Rig({
      msi: (lo, hi, data) => {
        sent.push([lo, hi, data]);
        return true;
      },
    });
    rig.command("SYNC", { CS: 1, MSIAddr: 0x808_0040, MSIData: 7 });
    expect(sent).toEqual([[0x808_0040, 0, 7]]);
    expect(rig.read("GERROR")).toBe(0);

    const deaf = new Rig();
    deaf.command("SYNC", { CS: 1, MSIAddr: 0x808_0040 });
    expect(deaf.read("GERROR")).toBe(GERROR_BIT.MSI_CMDQ_ABT_ERR);
    expect(deaf.read("CMDQ_CONS")).toBe(1);
  });

  test("a handler that rings while the queue is consumed loses nothing", () => {
    const rig: Rig = new Rig({
      msi: () => {
        rig.push("TLBI_NSNH_ALL");
        rig.ring();
        return true;
      },
    });
    rig.command("SYNC", { CS: 1, MSIAddr: 0x808_0040 });
    expect(rig.read("CMDQ_CONS")).toBe(2);
    expect(rig.smmu.counters.read("commands").device).toBe(2);
    expect(rig.smmu.counters.read("syncs").device).toBe(1);
  });
});

describe("progress", () => {
  test("the queue wraps", () => {
    const rig = new Rig();
    for (let i = 0; i < 3 << CMDQ_LOG2; i++) rig.command("SYNC");
    expect(rig.read("CMDQ_CONS")).toBe((3 << CMDQ_LOG2) % (2 << CMDQ_LOG2));
    expect(rig.smmu.counters.read("commands").device).toBe(3 << CMDQ_LOG2);
  });

  test("manual: nothing moves until it is stepped", () => {
    const rig = new Rig({ progress: "manual" });
    for (let i = 0; i < 5; i++) rig.push("SYNC");
    rig.ring();
    rig.smmu.tick();
    expect(rig.read("CMDQ_CONS")).toBe(0);
    expect(rig.smmu.step(2)).toBe(2);
    expect(rig.read("CMDQ_CONS")).toBe(2);
    expect(rig.smmu.step(100)).toBe(3);
  });

  test("clocked: some commands a tick", () => {
    const rig = new Rig({ progress: "clocked", commandsPerTick: 2 });
    for (let i = 0; i < 5; i++) rig.push("SYNC");
    rig.ring();
    const seen = [0, 1, 2, 3].map(() => {
      rig.smmu.tick();
      return rig.read("CMDQ_CONS");
    });
    expect(seen).toEqual([2, 4, 5, 5]);
  });

  test("commands wait while CMDQEN is 0", () => {
    const rig = new Rig({ cr0: 5 });
    rig.command("SYNC");
    expect(rig.read("CMDQ_CONS")).toBe(0);
    rig.write("CR0", 0xd);
    expect(rig.read("CMDQ_CONS")).toBe(1);
  });
});
