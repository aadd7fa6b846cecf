import { describe, expect, test } from "vitest";
import { ACCESS } from "@smmuv3/platform";
import { CERROR, COMMANDS, REG } from "@smmuv3/smmu-v3-defs";
import type { CMD, CommandName } from "@smmuv3/smmu-v3-defs";
import { GERROR_BIT, PRESETS } from "../src/index.ts";
import { BASE, CMDQ, CMDQ_LOG2, PA, Rig, S1, S2, STRTAB } from "./rig.ts";

describe("errors (4.1.3, 7.1)", () => {
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

  test("7.1 while the error is active PROD may move back and commands are fetched again", () => {
    const rig = new Rig();
    const bad = rig.push("SYNC", { CS: 3 });
    rig.push("SYNC", { CS: 1 });
    rig.ring();
    expect(rig.read("CMDQ_CONS")).toBe(CERROR.ILL << 24);
    rig.write("CMDQ_PROD", 0);
    rig.memory.fill(bad, 16, 0);
    rig.memory.store32(bad, COMMANDS.TLBI_NSNH_ALL.opcode);
    rig.write("GERRORN", GERROR_BIT.CMDQ_ERR);
    expect(rig.read("CMDQ_CONS") & 0xf_ffff).toBe(0);
    rig.write("CMDQ_PROD", 1);
    expect(rig.read("CMDQ_CONS") & 0xf_ffff).toBe(1);
    expect(rig.pulses.cmdSync).toBe(0);
  });

  test("7.1 an error that is still there comes back at the acknowledgement", () => {
    const rig = new Rig();
    rig.push("SYNC", { CS: 3 });
    rig.ring();
    rig.write("GERRORN", GERROR_BIT.CMDQ_ERR);
    // Toggled from 1 to 0 by the second error, and so active again.
    expect([rig.read("GERROR"), rig.read("GERRORN")]).toEqual([0, GERROR_BIT.CMDQ_ERR]);
    expect(rig.read("CMDQ_CONS")).toBe(CERROR.ILL << 24);
  });

  test("7.1 the reason is there before the error is", () => {
    const seen: number[] = [];
    const rig: Rig = new Rig({
      irq: {
        gerror: {
          pulse: () => {
            seen.push(rig.read("CMDQ_CONS"));
          },
        },
      },
    });
    rig.push("SYNC");
    rig.push("SYNC", { CS: 3 });
    rig.ring();
    expect(seen).toEqual([(CERROR.ILL << 24) | 1]);
  });

  test("CERROR_ABT goes on where it stopped", () => {
    const rig = new Rig();
    rig.push("SYNC");
    rig.push("SYNC", { CS: 1 });
    rig.memory.perm[rig.memory.pageIndex(CMDQ)] = 0;
    rig.ring();
    expect(rig.read("CMDQ_CONS")).toBe(CERROR.ABT << 24);
    rig.memory.perm[rig.memory.pageIndex(CMDQ)] = 3;
    rig.write("GERRORN", GERROR_BIT.CMDQ_ERR);
    expect(rig.read("CMDQ_CONS") & 0xf_ffff).toBe(2);
    expect(rig.pulses.cmdSync).toBe(1);
  });
});

describe("4.7.3: CMD_SYNC", () => {
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

describe("4.1.2: progress", () => {
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

describe("signals", () => {
  test("4.7.3 whoever sees the signal of a SYNC sees it consumed", () => {
    const seen: number[] = [];
    const note = (): void => {
      seen.push(rig.read("CMDQ_CONS"));
    };
    const rig: Rig = new Rig({ irq: { cmdSync: { pulse: note } }, onSev: note });
    for (const cs of [0, 1, 2, 1]) rig.push("SYNC", { CS: cs });
    rig.ring();
    expect(seen).toEqual([2, 3, 4]);
  });

  test.each([[1, 1], [0, 0]])("4.7.3 SEV with IDR0.SEV = %i", (sev, expected) => {
    let woken = 0;
    const bit = 1 << REG.IDR0.SEV.shift;
    const id = { ...PRESETS.reference, IDR0: (PRESETS.reference.IDR0 & ~bit) | (sev * bit) };
    const rig = new Rig({
      id,
      onSev: () => {
        woken++;
      },
    });
    rig.command("SYNC", { CS: 2 });
    rig.command("SYNC", { CS: 1 });
    expect([woken, rig.pulses.cmdSync]).toEqual([expected, 1]);
  });

  test.each([[1 << CMDQ_LOG2, 1], [(1 << CMDQ_LOG2) - 1, 0]])("4.1.2 a queue of %i commands that gets room: %i events", (commands, expected) => {
    let woken = 0;
    const rig = new Rig({
      progress: "manual",
      onSev: () => {
        woken++;
      },
    });
    for (let i = 0; i < commands; i++) rig.push("SYNC");
    rig.ring();
    expect(rig.smmu.step(1)).toBe(1);
    expect(woken).toBe(expected);
    expect(rig.smmu.step(100)).toBe(commands - 1);
    expect(woken).toBe(expected);
  });

  test("6.3.9 a handler that clears CMDQEN stops the queue there", () => {
    const rig: Rig = new Rig({
      irq: {
        cmdSync: {
          pulse: () => {
            rig.write("CR0", 5);
          },
        },
      },
    });
    rig.push("SYNC");
    rig.push("SYNC", { CS: 1 });
    rig.push("TLBI_NSNH_ALL");
    rig.ring();
    expect(rig.read("CMDQ_CONS")).toBe(2);
    expect(rig.read("CR0ACK")).toBe(5);
    rig.write("CR0", 0xd);
    expect(rig.read("CMDQ_CONS")).toBe(3);
  });
});

describe("4.2 prefetch", () => {
  const VA = 0x40_0000;

  test("CMD_PREFETCH_CONFIG fetches STE and CD, and translates nothing", () => {
    const rig = new Rig();
    rig.stage1(1);
    rig.command("PREFETCH_CONFIG", { SID: 1 });
    expect(rig.smmu.cacheStats()).toMatchObject({ stes: 1, cds: 1, tlb: 0 });
  });

  test("CMD_PREFETCH_ADDR fills the TLB at its stride", () => {
    const rig = new Rig();
    const root = rig.stage1(1);
    for (let n = 0; n < 8; n++) rig.map(root, VA + n * 0x4000, PA + n * 0x4000, S1.rw);
    rig.command("PREFETCH_ADDR", { SID: 1, Address: VA, PrefetchSize: 2, Stride: 2 });
    expect(rig.smmu.cacheStats()).toMatchObject({ stes: 1, cds: 1, tlb: 4 });
    rig.access(1, VA + 3 * 0x4000);
    expect(rig.smmu.counters.read("tlb.hits").device).toBe(1);
  });

  test("v3.0 has a stride of 4K", () => {
    const rig = new Rig({ id: { ...PRESETS.reference, AIDR: 0 } });
    const root = rig.stage1(1);
    for (let n = 0; n < 4; n++) rig.map(root, VA + n * 0x1000, PA, S1.rw);
    rig.command("PREFETCH_ADDR", { SID: 1, Address: VA, PrefetchSize: 2, Stride: 9 });
    expect(rig.smmu.cacheStats().tlb).toBe(4);
  });

  test("stops at the end of the address space", () => {
    const rig = new Rig();
    rig.stage1(1);
    rig.command("PREFETCH_ADDR", { SID: 1, Address: 2 ** 64 - 2 ** 20, PrefetchSize: 31, Stride: 31 });
    expect(rig.read("CMDQ_CONS")).toBe(1);
    expect(rig.smmu.counters.read("translations").device).toBe(1);
  });

  test.each<[string, (rig: Rig) => void]>([
    ["an invalid STE", () => undefined],
    ["an STE that cannot be read", (rig) => (rig.memory.perm[rig.memory.pageIndex(STRTAB)] = 0)],
    ["an invalid CD", (rig) => rig.stage1(1, { V: 0 })],
    ["no translation", (rig) => rig.stage1(1)],
    ["no translation, stalling", (rig) => rig.stage1(1, { S: 1 })],
    ["no permission", (rig) => {
      rig.map(rig.stage2(1), VA, PA, S2.none);
    }],
  ])("%s: no event, no stall, no error", (_name, build) => {
    const stalls = PRESETS.reference.IDR0 & ~(3 << REG.IDR0.STALL_MODEL.shift);
    const rig = new Rig({ id: { ...PRESETS.reference, IDR0: stalls, IDR5: PRESETS.reference.IDR5 | (4 << 16) } });
    build(rig);
    rig.command("PREFETCH_CONFIG", { SID: 1 });
    rig.command("PREFETCH_ADDR", { SID: 1, Address: VA });
    rig.command("PREFETCH_ADDR", { SID: 64, Address: VA });
    expect(rig.read("CMDQ_CONS")).toBe(3);
    expect(rig.events()).toEqual([]);
    expect(rig.smmu.stalled).toEqual([]);
    expect(rig.smmu.counters.read("events.lost").device).toBe(0);
    // The same as a transaction is an event.
    rig.access(1, VA);
    expect(rig.events()).toHaveLength(1);
  });

  test("nothing while SMMUEN is 0", () => {
    const rig = new Rig({ cr0: 0xc });
    rig.map(rig.stage1(1), VA, PA, S1.rw);
    rig.command("PREFETCH_CONFIG", { SID: 1 });
    rig.command("PREFETCH_ADDR", { SID: 1, Address: VA });
    expect(rig.read("CMDQ_CONS")).toBe(2);
    expect(rig.smmu.cacheStats()).toMatchObject({ stes: 0, cds: 0, tlb: 0 });
  });

  test("SSV = 1 where the stream has no substreams has no effect", () => {
    const rig = new Rig();
    rig.map(rig.stage1(1), VA, PA, S1.rw);
    rig.command("PREFETCH_ADDR", { SID: 1, SSV: 1, SSID: 3, Address: VA });
    expect(rig.smmu.cacheStats()).toMatchObject({ cds: 0, tlb: 0 });
  });

  test.each([["truncate", 1], ["noEffect", 0]] as const)("SSV = 1 where the SMMU has no substreams: %s", (commandParameter, tlb) => {
    const id = { ...PRESETS.reference, IDR1: PRESETS.reference.IDR1 & ~(31 << REG.IDR1.SSIDSIZE.shift) };
    const rig = new Rig({ id, policy: { commandParameter } });
    rig.map(rig.stage1(1), VA, PA, S1.rw);
    rig.command("PREFETCH_ADDR", { SID: 1, SSV: 1, SSID: 3, Address: VA });
    expect(rig.smmu.cacheStats().tlb).toBe(tlb);
  });

  test("a substream is prefetched", () => {
    const rig = new Rig();
    const root = rig.stage1(1, {}, { S1CDMax: 1 });
    rig.cd(BASE + 0x4_0000 + 64 + 64, { TTB0: root, ASID: 9 });
    rig.map(root, VA, PA, S1.rw);
    rig.command("PREFETCH_ADDR", { SID: 1, SSV: 1, SSID: 1, Address: VA });
    expect(rig.smmu.cacheStats().tlb).toBe(1);
  });
});

describe("4.1.7 parameters out of range", () => {
  const VA = 0x1234_5000;
  const small = {
    ...PRESETS.reference,
    // 8-bit ASIDs and VMIDs, 6-bit StreamIDs, 2-bit SubstreamIDs.
    IDR0: PRESETS.reference.IDR0 & ~((1 << REG.IDR0.ASID16.shift) | (1 << REG.IDR0.VMID16.shift)),
    IDR1: (PRESETS.reference.IDR1 & ~0x7ff) | 6 | (2 << 6),
  };
  type Values = Readonly<Partial<Record<keyof typeof CMD, number>>>;

  test.each<[string, CommandName, Values, "tlb" | "stes" | "cds"]>([
    ["StreamID", "CFGI_STE", { SID: 64 + 1 }, "stes"],
    ["StreamID", "CFGI_CD", { SID: 64 + 1 }, "cds"],
    ["StreamID", "CFGI_CD_ALL", { SID: 0x8000_0001 }, "cds"],
    ["StreamID above the range", "CFGI_STE_RANGE", { SID: 64, Range: 2 }, "stes"],
    ["SubstreamID", "CFGI_CD", { SID: 1, SSID: 4 }, "cds"],
    ["VMID", "TLBI_NH_ALL", { VMID: 0x107 }, "tlb"],
    ["VMID", "TLBI_S12_VMALL", { VMID: 0x107 }, "tlb"],
    ["VMID", "TLBI_NH_VAA", { VMID: 0x107, Address: VA }, "tlb"],
    ["ASID", "TLBI_NH_ASID", { VMID: 7, ASID: 0x305 }, "tlb"],
    ["ASID", "TLBI_NH_VA", { VMID: 7, ASID: 0x305, Address: VA }, "tlb"],
  ])("%s of CMD_%s %j", (_name, command, values, cache) => {
    const left = (["truncate", "noEffect"] as const).map((commandParameter) => {
      const rig = new Rig({ id: small, policy: { commandParameter } });
      rig.map(rig.stage1(1, { ASID: 5 }, { S2VMID: 7 }), VA, PA, S1.rw);
      rig.access(1, VA);
      expect(rig.smmu.cacheStats()).toMatchObject({ tlb: 1, stes: 1, cds: 1 });
      rig.command(command, values);
      expect(rig.read("CMDQ_CONS")).toBe(1);
      return rig.smmu.cacheStats()[cache];
    });
    expect(left).toEqual([0, 1]);
  });

  test("CFGI_ALL ignores the StreamID", () => {
    const rig = new Rig({ id: small, policy: { commandParameter: "noEffect" } });
    rig.stage1(1);
    rig.access(1, VA);
    rig.command("CFGI_STE_RANGE", { SID: 0xffff_ffff, Range: 31 });
    expect(rig.smmu.cacheStats().stes).toBe(0);
  });

  test("the low bits of CFGI_STE_RANGE's StreamID do not count", () => {
    const rig = new Rig({ id: small, policy: { commandParameter: "noEffect" } });
    rig.stage1(1);
    rig.access(1, VA);
    rig.command("CFGI_STE_RANGE", { SID: 0x7f, Range: 6 });
    expect(rig.smmu.cacheStats().stes).toBe(0);
  });

  test.each([["TLBI_EL2_VA", 0, 0], ["TLBI_EL2_VA", 1, 1], ["TLBI_EL2_ASID", 0, 1], ["TLBI_EL2_ASID", 1, 1]] as const)(
    "%s with E2H = %i: an ASID out of range counts only where there are ASIDs", (command, e2h, left) => {
      const rig = new Rig({ id: small, policy: { commandParameter: "noEffect" }, cr2: 2 | e2h });
      rig.map(rig.stage1(1, { ASID: e2h === 0 ? 0 : 5 }, { STRW: 2 }), VA, PA, S1.rw);
      rig.access(1, VA, ACCESS.read);
      expect(rig.smmu.cacheStats().tlb).toBe(1);
      rig.command(command, { ASID: 0x305, Address: VA });
      expect(rig.smmu.cacheStats().tlb).toBe(left);
    },
  );
});

describe("policies of TLBI (4.4)", () => {
  const VA = 0x1234_5000;
  const warm = (policy: object): Rig => {
    const rig = new Rig({ policy });
    const root = rig.stage1(1, { ASID: 5 }, { S2VMID: 7 });
    rig.map(root, VA, PA, S1.rw);
    rig.map(root, VA + 0x1000, PA, S1.rw);
    rig.access(1, VA);
    rig.access(1, VA + 0x1000);
    return rig;
  };

  test.each([
    [{ tlbiScope: "exact" }, "TLBI_NH_VA", { VMID: 7, ASID: 5, Address: VA }, 1],
    [{ tlbiScope: "vmid" }, "TLBI_NH_VA", { VMID: 7, ASID: 5, Address: VA }, 0],
    [{ tlbiScope: "vmid" }, "TLBI_NH_ASID", { VMID: 7, ASID: 6 }, 0],
    [{ tlbiScope: "vmid" }, "TLBI_NH_VA", { VMID: 8, ASID: 5, Address: VA }, 2],
    [{ ttlMismatch: "underMatch" }, "TLBI_NH_VA", { VMID: 7, ASID: 5, Address: VA, TG: 1, TTL: 2 }, 2],
    [{ ttlMismatch: "overMatch" }, "TLBI_NH_VA", { VMID: 7, ASID: 5, Address: VA, TG: 1, TTL: 2 }, 1],
    [{ ttlMismatch: "underMatch" }, "TLBI_NH_VA", { VMID: 7, ASID: 5, Address: VA, TG: 1, TTL: 3 }, 1],
    [{ ttlMismatch: "underMatch" }, "TLBI_NH_VA", { VMID: 7, ASID: 5, Address: VA, TG: 1, NUM: 1 }, 0],
  ] as const)("%j CMD_%s %j leaves %i of 2", (policy, command, values, left) => {
    const rig = warm(policy);
    rig.command(command, values);
    expect(rig.smmu.cacheStats().tlb).toBe(left);
  });

  test("4.4.2.10 TLBI_EL2_ASID without E2H removes nothing", () => {
    const rig = new Rig({ cr2: 2 });
    rig.map(rig.stage1(1, {}, { STRW: 2 }), VA, PA, S1.rw);
    rig.access(1, VA);
    rig.command("TLBI_EL2_ASID", {});
    expect(rig.smmu.cacheStats().tlb).toBe(1);
  });

  test("4.4.3.1 only Address[55:12] of an IPA counts", () => {
    const rig = new Rig();
    rig.map(rig.stage2(2, 9), VA, PA, S2.rw);
    rig.access(2, VA);
    const pa = rig.push("TLBI_S2_IPA", { VMID: 9, Address: VA });
    rig.memory.store32(pa + 12, rig.memory.load32(pa + 12) | 0xff00_0000);
    rig.ring();
    expect(rig.smmu.cacheStats().tlb).toBe(0);
  });
});
