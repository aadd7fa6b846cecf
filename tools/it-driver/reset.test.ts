import { OFFSET, REG } from "@smmuv3/smmu-v3-defs";
import { PRESETS } from "@smmuv3/smmu-v3-model";
import { describe, expect, test } from "vitest";
import { BUFFER, Rig, SMMU_BASE, withField } from "./fixture.ts";
import type { RigOptions } from "./fixture.ts";

/** Register writes of probe: no client attaches. */
function probe(options: RigOptions = {}): Rig {
  return new Rig({ clients: [], ...options });
}

const RESET = [
  "CR0=0x0",
  "CR1=0xd75",
  "CR2=0x6",
  "STRTAB_BASE=0x4000000040800000",
  "STRTAB_BASE_CFG=0x10210",
  "CMDQ_BASE=0x4000000040000012",
  "CMDQ_PROD=0x0",
  "CMDQ_CONS=0x0",
  "CR0=0x8",
  "CMDQ_PROD=0x2",
  "CMDQ_PROD=0x4",
  "EVENTQ_BASE=0x4000000040400011",
  "EVENTQ_PROD=0x0",
  "EVENTQ_CONS=0x0",
  "CR0=0xc",
  "IRQ_CTRL=0x0",
  "GERROR_IRQ_CFG0=0x0",
  "EVENTQ_IRQ_CFG0=0x0",
  "IRQ_CTRL=0x5",
  "CR0=0xd",
];

/** The addresses differ in their low bits with the allocator's mood; sizes are in them too. */
const log = (rig: Rig): string[] => rig.registers.map((line) => line.replace(/(BASE=0x)4[0-9a-f]*/, "$1*"));
const masked = (lines: readonly string[]): string[] => lines.map((line) => line.replace(/(BASE=0x)4[0-9a-f]*/, "$1*"));

describe("reset", () => {
  test("R3 register order", () => {
    expect(log(probe())).toEqual(masked(RESET));
  });

  test("invalidates everything before the SMMU is enabled", () => {
    const rig = probe();
    expect(rig.registers.indexOf("CMDQ_PROD=0x4")).toBeLessThan(rig.registers.indexOf("CR0=0xd"));
    const commands = rig.trace(() => {});
    expect(commands).toEqual([]);
    const names: string[] = [];
    for (let i = 0; i < 4; i++) names.push((rig.machine.memory.load32(rig.native.cmdq.pa + i * 16) & 0xff).toString(16));
    expect(names).toEqual(["4", "46", "30", "46"]);
  });

  test("an SMMU with EL2 streams has those invalidated too", () => {
    const rig = probe({ id: PRESETS.reference });
    const names: string[] = [];
    for (let i = 0; i < 6; i++) names.push((rig.machine.memory.load32(rig.native.cmdq.pa + i * 16) & 0xff).toString(16));
    // MSI polling: completed SYNCs were overwritten by zero.
    expect(names).toEqual(["4", "0", "20", "0", "30", "0"]);
  });

  test("an SMMU that is enabled already aborts everything meanwhile", () => {
    const rig = probe({
      before({ smmu }) {
        smmu.registers.write32(OFFSET.CR0, 1);
      },
    });
    expect(log(rig).slice(0, 2)).toEqual(["GBPA=0x80100000", "CR0=0x0"]);
    expect(log(rig).slice(1)).toEqual(masked(RESET));
    expect(rig.kernel.log.lines("warn")).toEqual([
      "arm-smmu-v3 smmuv3@9050000: SMMU currently enabled! Resetting...",
    ]);
  });

  test("acknowledgements that come late are waited for", () => {
    const rig = probe({ model: { progress: "clocked", commandsPerTick: 1 } });
    expect(log(rig)).toEqual(masked(RESET));
    expect(rig.driver.smmus).toHaveLength(1);
  });

  test("an SMMU that never acknowledges is given up, disabled", () => {
    const rig = probe({ model: { progress: "manual" } });
    expect(rig.driver.smmus).toEqual([]);
    expect(rig.registers.slice(-2)).toEqual(["CR0=0x8", "CR0=0x0"]);
    expect(rig.kernel.pages.allocated).toBe(0);
    expect(rig.machine.clock.now()).toBeGreaterThanOrEqual(1e9);
    expect(rig.kernel.log.lines("err").join()).toMatch(/probe failed: ETIMEDOUT/);
  });

  test("registers with the core and sysfs", () => {
    const rig = probe();
    expect(rig.device.name).toBe(`smmu3.0x${SMMU_BASE.toString(16)}`);
    expect(rig.iommu.instances.map(({ name }) => name)).toEqual([rig.device.name]);
    expect(rig.kernel.core.findByNode("smmuv3@9050000")!.driver!.name).toBe("arm-smmu-v3");
  });
});

describe("R2 what the driver refuses", () => {
  const { IDR0, IDR1 } = REG;
  test.each([
    ["a command queue that cannot hold a batch", withField(PRESETS.qemuStage1, IDR1.CMDQS, 6), /command queue size <= 64/],
    ["big endian tables", withField(PRESETS.qemuStage1, IDR0.TTENDIAN, 3), /TTENDIAN/],
    ["neither stage", withField(PRESETS.qemuStage1, IDR0.S1P, 0), /no translation/],
    ["preset tables", withField(PRESETS.qemuStage1, IDR1.TABLES_PRESET, 1), /embedded/],
  ])("%s", (_, id, message) => {
    const rig = probe({ id });
    expect(rig.driver.smmus).toEqual([]);
    expect(rig.registers).toEqual([]);
    expect(rig.kernel.log.lines("err").join()).toMatch(message);
    expect(rig.kernel.pages.allocated).toBe(0);
  });
});

describe("geometry", () => {
  test.each([
    [5, "linear", 0x5],
    [8, "linear", 0x8],
    [9, "two levels", 0x10209],
    [32, "two levels, as much as fits", 0x10219],
  ])("%i bits of StreamID: %s", (bits, _, cfg) => {
    const rig = probe({ id: withField(PRESETS.qemuStage1, REG.IDR1.SIDSIZE, bits) });
    expect(rig.registers).toContain(`STRTAB_BASE_CFG=0x${cfg.toString(16)}`);
  });

  test("streams that nobody claimed abort, whether their table exists or not", () => {
    const rig = new Rig();
    const [known] = rig.clients;
    expect(rig.write(known!.sid, BUFFER, 1)).toBe(0);
    expect(rig.write(100, BUFFER, 1)).not.toBe(0);
    expect(rig.smmu.explainLast()).toBeUndefined();
    expect(rig.write(1000, BUFFER, 1)).not.toBe(0);
    expect(rig.smmu.explainLast()).toBe("C_BAD_STREAMID");
  });
});
