import { describe, expect, test } from "vitest";
import { OFFSET } from "@smmuv3/smmu-v3-defs";
import { GERROR_BIT, PRESETS } from "../src/index.ts";
import type { MsiTarget } from "../src/index.ts";
import { BASE, Rig } from "./rig.ts";
import type { RigOptions } from "./rig.ts";

const DOORBELL = BASE + 0x9_0000;
const OUTSIDE = 0x808_0040;
const PRIQ = BASE + 0xa_0000;

type Source = "gerror" | "evtq" | "priq";

const { full } = PRESETS;
const noMsi = { ...full, IDR0: full.IDR0 & ~(1 << 13), IDR1: full.IDR1 & 0x7fff_ffff };

/** [first of the IRQ_CFG registers, enable in IRQ_CTRL, error of the MSI, how the interrupt is caused] */
const SOURCES: Readonly<Record<Source, readonly [cfg: number, enable: number, error: number, cause: (rig: Rig) => void]>> = {
  gerror: [OFFSET.GERROR_IRQ_CFG0, 1, GERROR_BIT.MSI_GERROR_ABT_ERR, (rig) => { rig.smmu.enterServiceFailure(); }],
  evtq: [OFFSET.EVENTQ_IRQ_CFG0, 4, GERROR_BIT.MSI_EVENTQ_ABT_ERR, (rig) => { rig.access(63, 0); }],
  priq: [OFFSET.PRIQ_IRQ_CFG0, 2, GERROR_BIT.MSI_PRIQ_ABT_ERR, (rig) => {
    rig.smmu.pri.pageRequest({ sid: 1, address: 0x1000, prgIndex: 0, read: true });
  }],
};
const NAMES = Object.keys(SOURCES) as Source[];

interface Fixture {
  readonly rig: Rig;
  readonly pulses: Record<Source, number>;
}

/** All interrupts enabled in IRQ_CTRL as given, one of them with an MSI address. */
function fixture(source: Source, options: RigOptions, address: number, enables = 7): Fixture {
  const pulses: Record<Source, number> = { gerror: 0, evtq: 0, priq: 0 };
  const line = (name: Source): { pulse: () => void } => ({
    pulse: () => {
      pulses[name]++;
    },
  });
  const irq = { gerror: line("gerror"), evtq: line("evtq"), priq: line("priq") };
  const rig = new Rig({ id: full, irq, ...options, cr0: 0xc });
  rig.write("IRQ_CTRL", 0);
  rig.write64("PRIQ_BASE", PRIQ + 2);
  const [cfg] = SOURCES[source];
  rig.smmu.registers.write64(cfg, address, 0);
  rig.smmu.registers.write32(cfg + 8, 0xabc);
  // Attributes of the write, which this model has no use for.
  rig.smmu.registers.write32(cfg + 12, 0x3f);
  rig.write("IRQ_CTRL", enables);
  rig.write("CR0", 0xf);
  return { rig, pulses };
}

describe.each(NAMES)("3.18: %s", (source) => {
  const [cfg, enable, error, cause] = SOURCES[source];

  test("wired where the address is 0", () => {
    const { rig, pulses } = fixture(source, {}, 0);
    cause(rig);
    expect(pulses[source]).toBe(1);
  });

  test("wired where there are no MSIs, and the address cannot be written", () => {
    const { rig, pulses } = fixture(source, { id: noMsi }, DOORBELL);
    cause(rig);
    expect([pulses[source], rig.smmu.registers.read32(cfg), rig.memory.load32(DOORBELL)]).toEqual([1, 0, 0]);
  });

  test("an MSI to RAM, whatever its attributes, and no wire", () => {
    const { rig, pulses } = fixture(source, {}, DOORBELL);
    cause(rig);
    expect([rig.memory.load32(DOORBELL), pulses[source]]).toEqual([0xabc, 0]);
  });

  test("an MSI to a target", () => {
    const sent: number[] = [];
    const msi: MsiTarget = (lo, _hi, data) => sent.push(lo, data) > 0;
    const { rig } = fixture(source, { msi }, OUTSIDE);
    cause(rig);
    expect(sent).toEqual([OUTSIDE, 0xabc]);
  });

  test("an MSI that aborts is its own global error", () => {
    const { rig, pulses } = fixture(source, {}, OUTSIDE);
    const before = rig.read("GERROR");
    cause(rig);
    expect(((rig.read("GERROR") ^ before) & error) !== 0).toBe(true);
    // That of GERROR raises nothing; that of a queue raises the wire of GERROR (6.3.19).
    expect(pulses.gerror).toBe(source === "gerror" ? 0 : 1);
  });

  test("nothing without its enable, nor later for what was before", () => {
    const { rig, pulses } = fixture(source, {}, 0, 7 & ~enable);
    cause(rig);
    rig.write("IRQ_CTRL", 7);
    expect(pulses[source]).toBe(0);
  });
});

describe("3.18.2: edges", () => {
  test("a queue interrupts when it becomes not empty, and not again until it was emptied", () => {
    const { rig, pulses } = fixture("evtq", {}, 0);
    rig.access(63, 0);
    rig.access(62, 0);
    expect(pulses.evtq).toBe(1);
    rig.events();
    rig.access(61, 0);
    expect(pulses.evtq).toBe(2);
  });

  test("an error that is active interrupts once; acknowledged, again", () => {
    const { rig, pulses } = fixture("gerror", {}, 0);
    rig.memory.fill(BASE + 0x2_0000, 16, 0xff);
    rig.ring();
    rig.push("SYNC", { CS: 3 });
    rig.ring();
    expect(pulses.gerror).toBe(1);
    rig.write("GERRORN", rig.read("GERROR"));
    expect(pulses.gerror).toBe(2);
  });
});
