import { ERRNO, PAGE_SIZE } from "@smmuv3/platform";
import type { HypCpu } from "@smmuv3/platform";
import { getField, L1STD, L1STD_WORDS, STE, STE_CONFIG, STE_WORDS } from "@smmuv3/smmu-v3-defs";
import { describe, expect, test } from "vitest";
import { emulationDriver, identityDriver } from "../src/index.ts";
import { CMDQ, HANDOFF_PAGE, HOST_PAGE, node, RAM_BASE, run, SMMU_BASE, STRTAB } from "./el2.ts";
import { IDS } from "./fake-smmu.ts";

const EINVAL = -ERRNO.EINVAL;
const ENODEV = -ERRNO.ENODEV;

describe("take-over", () => {
  test("register sequence on an SMMU that firmware left disabled", () => {
    const { smmu } = run(identityDriver);
    expect(smmu.log.filter((entry) => entry !== "tlbiIpa")).toEqual([
      "CR0=0",
      "GERRORN=0",
      "IRQ_CTRL=0",
      "GERROR_IRQ_CFG0=0:0",
      "EVENTQ_IRQ_CFG0=0:0",
      "PRIQ_IRQ_CFG0=0:0",
      "CR1=d75",
      "CR2=6",
      "STRTAB_BASE=40000000:40200000",
      "STRTAB_BASE_CFG=10210",
      "CMDQ_BASE=40000000:40100008",
      "CMDQ_PROD=0",
      "CMDQ_CONS=0",
      "CR0=8",
      "CMDQ_PROD=3",
      "CFGI_STE_RANGE",
      "TLBI_NSNH_ALL",
      "SYNC",
      "CR0=19",
      "GBPA=80100000",
    ]);
  });

  test("an SMMU that firmware left enabled aborts before it is disabled", () => {
    const { smmu } = run(identityDriver, {
      prepare: (cpu) => {
        cpu.smmu.set("CR0", 1);
        cpu.smmu.set("CR0ACK", 1);
      },
    });
    expect(smmu.log.filter((entry) => entry !== "tlbiIpa").slice(0, 2)).toEqual(["GBPA=80100000", "CR0=0"]);
  });

  test("registers, queue and table are EL2's; the host cannot have them", () => {
    const { cpu, core } = run(identityDriver);
    for (const pa of [CMDQ, STRTAB, HANDOFF_PAGE]) {
      expect(core.states.hostOwned(cpu.memory.pageIndex(pa))).toBe(false);
      expect(cpu.call("__pkvm_hyp_donate_host", pa / PAGE_SIZE)).toBe(-ERRNO.EBUSY);
    }
    expect(core.ownsMmio(SMMU_BASE)).toBe(true);
    expect(cpu.access(0x20, 4, true, 0).action).toBe(2);
  });

  test.each<[string, Parameters<typeof run>[1], number]>([
    ["an unknown device", { handoff: { mmioBase: 0x0a00_0000 } }, ENODEV],
    ["part of the window", { handoff: { mmioSize: 0x1_0000 } }, ENODEV],
    ["a queue that is not aligned to its size", { handoff: { cmdqBase: CMDQ + 16 } }, EINVAL],
    ["a queue too small for a batch", { handoff: { cmdqLog2: 6 } }, EINVAL],
    ["a queue larger than the hardware takes", { handoff: { cmdqLog2: 20 } }, EINVAL],
    ["a queue outside of RAM", { handoff: { cmdqBase: 0 } }, EINVAL],
    ["a queue in EL2's own memory", { handoff: { cmdqBase: HANDOFF_PAGE } }, -ERRNO.EPERM],
    ["a table that is not aligned", { handoff: { strtabBase: STRTAB + 64 } }, EINVAL],
    ["a table of no pages", { handoff: { strtabBytes: 0 } }, EINVAL],
    ["a table too small for the StreamIDs", { ids: { IDR1: 0x0273_0014 } }, EINVAL],
    ["queue and table in one place", { handoff: { strtabBase: CMDQ } }, -ERRNO.EPERM],
    ["no stage 2", { ids: { IDR0: IDS["IDR0"]! & ~1 } }, ENODEV],
    ["32-bit addresses, which reach all of this machine", { ids: { IDR5: 0x70 } }, 0],
    [
      "32-bit addresses, which do not",
      { ids: { IDR5: 0x70 }, devices: [node("far", "far", 2 ** 32, PAGE_SIZE)] },
      ENODEV,
    ],
    ["no 4K granule", { ids: { IDR5: 0x64 } }, ENODEV],
    ["big-endian tables only", { ids: { IDR0: IDS["IDR0"]! | (1 << 22) | (1 << 21) } }, -ERRNO.ENXIO],
  ])("with %s", (_what, options, status) => {
    const { status: got, core, cpu } = run(identityDriver, options);
    expect(got).toBe(status);
    expect(core.ownsMmio(SMMU_BASE)).toBe(status === 0);
    const queue = core.states.hostOwned(cpu.memory.pageIndex(CMDQ));
    if (status < 0) expect(queue).toBe(true);
    if (status < 0) expect(cpu.call("__pkvm_prot_finalize")).toBe(ENODEV);
  });

  test("emulation needs both stages and coherent walks", () => {
    const without = (bits: number): number => run(emulationDriver, { ids: { IDR0: IDS["IDR0"]! & ~bits } }).status;
    expect(without(0)).toBe(0);
    expect(without(2)).toBe(ENODEV);
    expect(without(16)).toBe(ENODEV);
    expect(run(emulationDriver, { handoff: { flags: 0 } }).status).toBe(ENODEV);
    // MMU-700 before r1p1 cannot nest.
    expect(run(emulationDriver, { ids: { IIDR: 0x4870_043b } }).status).toBe(ENODEV);
    expect(run(identityDriver, { ids: { IIDR: 0x4870_043b } }).status).toBe(0);
  });

  test("a non-coherent SMMU gets non-cacheable walks", () => {
    const { smmu, cpu, status } = run(identityDriver, { handoff: { flags: 0 } });
    expect(status).toBe(0);
    expect(smmu.log).toContain("CR1=820");
    cpu.call("__pkvm_iommu_set_state", 0, 5, 0, 1);
    const ste = readSte(cpu, 5);
    expect([STE.S2IR0, STE.S2OR0, STE.S2SH0].map((field) => getField(ste, 0, field))).toEqual([0, 0, 2]);
  });

  test.each([
    ["does not acknowledge CR0", (cpu: { smmu: { acknowledges: boolean } }) => { cpu.smmu.acknowledges = false; }, 1],
    ["does not consume commands", (cpu: { smmu: { consumes: boolean } }) => { cpu.smmu.consumes = false; }, 0],
  ])("an SMMU that %s is given back after 100 ms", (_what, prepare, enabled) => {
    const { status, core, cpu } = run(identityDriver, {
      prepare: (one) => {
        one.smmu.set("CR0ACK", enabled);
        one.smmu.set("GBPA", 7);
        prepare(one);
      },
    });
    expect(status).toBe(-ERRNO.ETIMEDOUT);
    expect(cpu.now()).toBeLessThan(250_000_000);
    expect(cpu.smmu.log.filter((entry) => entry !== "tlbiIpa").slice(-2)).toEqual(["CR0=0", "GBPA=80000007"]);
    expect(core.ownsMmio(SMMU_BASE)).toBe(false);
    expect(core.states.hostOwned(cpu.memory.pageIndex(STRTAB))).toBe(true);
    expect(cpu.call("__pkvm_host_share_hyp", HANDOFF_PAGE / PAGE_SIZE)).toBe(0);
  });

  test("a service failure from before is final", () => {
    expect(run(identityDriver, { prepare: ({ smmu }) => { smmu.set("GERROR", 1 << 8); } }).status).toBe(-ERRNO.EIO);
  });

  test("streams that are active at boot have the identity map when the SMMU starts", () => {
    const { cpu, smmu } = run(identityDriver, { bootDma: [0x123] });
    expect(getField(readSte(cpu, 0x123), 0, STE.Config)).toBe(STE_CONFIG.s2);
    expect(readSte(cpu, 0x124)[0]).toBe(1);
    expect(smmu.log.filter((entry) => entry === "CFGI_STE")).toEqual([]);
  });

  test("the host stays privileged while an SMMU is its own", () => {
    const { cpu } = run(identityDriver, { handoff: { mmioBase: 0 } });
    expect(cpu.call("__pkvm_prot_finalize")).toBe(ENODEV);
  });
});

describe("identity map", () => {
  const donate = (driver: (cpu: HypCpu) => ReturnType<typeof identityDriver>, ids = {}): string[] => {
    const { cpu, smmu } = run(driver, { ids });
    smmu.log.length = 0;
    expect(cpu.call("__pkvm_host_donate_hyp", HOST_PAGE / PAGE_SIZE)).toBe(0);
    return smmu.log.filter((entry) => !entry.startsWith("CMDQ_PROD"));
  };

  test("donation invalidates by address and waits", () => {
    expect(donate(identityDriver)).toEqual(["tlbiIpa", "TLBI_S2_IPA", "SYNC"]);
  });

  test("with stage 1 on top, combined entries go after the stage-2 entries are gone", () => {
    expect(donate(emulationDriver)).toEqual(["tlbiIpa", "TLBI_S2_IPA", "SYNC", "TLBI_NH_ALL", "SYNC"]);
  });

  test("the command names the page, VMID 0, leaf", () => {
    const { cpu, smmu } = run(identityDriver, { ids: { IDR3: 0 } });
    smmu.commands.length = 0;
    cpu.call("__pkvm_host_donate_hyp", HOST_PAGE / PAGE_SIZE);
    expect(smmu.commands).toEqual([[0x2a, 0, HOST_PAGE | 1, 0]]);
  });

  test("the map loses the page before the SMMU forgets it, the owner changes after", () => {
    const { cpu, smmu, core } = run(identityDriver);
    cpu.call("__pkvm_iommu_set_state", 0, 5, 0, 1);
    const seen: string[] = [];
    smmu.onCommand = (name) => {
      seen.push(`${name} ${leaf(cpu, HOST_PAGE) === 0 ? "unmapped" : "mapped"} ${core.states.owner(1000)}`);
    };
    expect(leaf(cpu, HOST_PAGE)).not.toBe(0);
    cpu.call("__pkvm_host_donate_hyp", HOST_PAGE / PAGE_SIZE);
    expect(seen).toEqual(["TLBI_S2_IPA unmapped 0", "SYNC unmapped 0"]);
    expect(core.states.owner(1000)).toBe(1);
    cpu.call("__pkvm_hyp_donate_host", HOST_PAGE / PAGE_SIZE);
    expect(leaf(cpu, HOST_PAGE)).not.toBe(0);
  });

  test("when the SMMU does not answer, the donation fails and the map is as before", () => {
    const { cpu, smmu, core } = run(identityDriver);
    cpu.call("__pkvm_iommu_set_state", 0, 5, 0, 1);
    smmu.consumes = false;
    expect(cpu.call("__pkvm_host_donate_hyp", HOST_PAGE / PAGE_SIZE)).toBe(-ERRNO.ETIMEDOUT);
    expect(core.states.hostOwned(1000)).toBe(true);
    expect(leaf(cpu, HOST_PAGE)).not.toBe(0);
  });

  test("without range invalidation, a large range invalidates everything", () => {
    const { core, smmu } = run(identityDriver, { ids: { IDR3: 0 } });
    smmu.commands.length = 0;
    expect(core.donateHostToHyp(HOST_PAGE, 512 * PAGE_SIZE)).toBe(0);
    expect(smmu.commands.length).toBe(512);
    smmu.commands.length = 0;
    expect(core.donateHostToHyp(HOST_PAGE + 512 * PAGE_SIZE, 513 * PAGE_SIZE)).toBe(0);
    expect(smmu.commands).toEqual([[0x28, 0, 0, 0]]);
  });

  test("part of a device that is mapped as a block cannot change its owner", () => {
    const { cpu, core } = run(identityDriver, { devices: [node("gpu", "gpu", 0x1000_0000, 0x40_0000)] });
    cpu.call("__pkvm_iommu_set_state", 0, 5, 0, 1);
    expect(core.donateMmio(0x1000_0000, PAGE_SIZE)).toBe(EINVAL);
    expect(core.ownsMmio(0x1000_0000)).toBe(false);
    expect(leaf(cpu, 0x1020_0000)).not.toBe(0);
  });

  test("has the host's RAM and devices, not EL2's", () => {
    const { cpu } = run(identityDriver);
    cpu.call("__pkvm_iommu_set_state", 0, 5, 0, 1);
    expect(leaf(cpu, RAM_BASE)).not.toBe(0);
    expect(leaf(cpu, CMDQ)).toBe(0);
    expect(leaf(cpu, STRTAB)).toBe(0);
    expect(leaf(cpu, HANDOFF_PAGE)).toBe(0);
    expect(leaf(cpu, 0x0808_0000)).not.toBe(0);
    expect(leaf(cpu, 0x0a00_0000)).not.toBe(0);
    expect(leaf(cpu, SMMU_BASE)).toBe(0);
  });
});

function readSte(cpu: { memory: { read(pa: number, out: Int32Array): void } }, sid: number): Int32Array {
  const desc = new Int32Array(L1STD_WORDS);
  cpu.memory.read(STRTAB + (sid >> 8) * 8, desc);
  expect(getField(desc, 0, L1STD.Span)).toBe(9);
  const ste = new Int32Array(STE_WORDS);
  cpu.memory.read((desc[0]! & ~63) + (sid & 255) * 64, ste);
  return ste;
}

/** Low word of the leaf for `ipa` in the identity map of stream 5: 32 address bits, three levels. */
function leaf(cpu: { memory: { load32(pa: number): number; read(pa: number, out: Int32Array): void } }, ipa: number): number {
  const ste = readSte(cpu, 5);
  expect(getField(ste, 0, STE.S2T0SZ)).toBe(32);
  let table = ste[6]! & ~15;
  for (const shift of [30, 21, 12]) {
    const entry = cpu.memory.load32(table + (Math.floor(ipa / 2 ** shift) % 512) * 8);
    if (shift === 12 || (entry & 3) !== 3) return entry;
    table = entry & ~0xfff;
  }
  return 0;
}
