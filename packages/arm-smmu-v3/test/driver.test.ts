import { EVENT, EVENTS, OFFSET, PRI, REG, maskOf, setAddress, setField } from "@smmuv3/smmu-v3-defs";
import { getField, STE, STE_CONFIG } from "@smmuv3/smmu-v3-defs";
import { describe, expect, test } from "vitest";
import { NativeBackend, registerArmSmmuV3, SmmuDomain } from "../src/index.ts";
import type { ArmSmmuV3 } from "../src/index.ts";
import { fakeKernel } from "./fake.ts";
import type { FakeKernel } from "./fake.ts";

const UNIQUE = { eventq: 10, priq: 11, gerror: 12 };

function setup(interrupts: Readonly<Record<string, number>> = UNIQUE): FakeKernel & {
  driver: ArmSmmuV3;
  native: NativeBackend;
} {
  const fake = fakeKernel(interrupts);
  const driver = registerArmSmmuV3(fake.kernel, fake.iommu);
  fake.kernel.core.registerDriver({ name: "client", bus: "platform", ids: ["client"], probe: () => 0 });
  fake.smmu.commands.length = 0;
  return { ...fake, driver, native: driver.smmus[0]!.backend as NativeBackend };
}

/** An event record of `type` for stream 5. */
function event(type: number, build: (record: Int32Array) => void = () => {}): Int32Array {
  const record = new Int32Array(8);
  setField(record, 0, EVENT.Type, type);
  setField(record, 0, EVENT.SID, 5);
  build(record);
  return record;
}

function deliver(fake: FakeKernel, native: NativeBackend, record: Int32Array): void {
  const prod = fake.smmu.read32(OFFSET.EVENTQ_PROD);
  fake.kernel.memory.write(native.evtq.pa + (prod & 127) * 32, record);
  fake.smmu.registers.set(OFFSET.EVENTQ_PROD, prod + 1);
  fake.irqs.get(UNIQUE.eventq)!();
}

describe("reset of an SMMU with PRI and ATS", () => {
  test("enables all queues and the ATS check", () => {
    const { smmu, irqs } = setup();
    const { CR0, IRQ_CTRL } = REG;
    expect(smmu.read32(OFFSET.CR0)).toBe(
      maskOf(CR0.SMMUEN) | maskOf(CR0.CMDQEN) | maskOf(CR0.EVENTQEN) | maskOf(CR0.PRIQEN) | maskOf(CR0.ATSCHK),
    );
    expect(smmu.read32(OFFSET.IRQ_CTRL)).toBe(
      maskOf(IRQ_CTRL.EVENTQ_IRQEN) | maskOf(IRQ_CTRL.PRIQ_IRQEN) | maskOf(IRQ_CTRL.GERROR_IRQEN),
    );
    expect([...irqs.keys()]).toEqual(Object.values(UNIQUE));
  });

  test("a combined interrupt is preferred", () => {
    expect([...setup({ ...UNIQUE, combined: 20 }).irqs.keys()]).toEqual([20]);
  });
});

describe("interrupts", () => {
  test("a stalled transaction is reported and terminated", () => {
    const fake = setup();
    deliver(fake, fake.native, event(EVENTS.F_TRANSLATION.type, (record) => {
      setField(record, 0, EVENT.Stall, 1);
      setField(record, 0, EVENT.STAG, 0x1234);
      setAddress(record, 0, EVENT.InputAddr, 0x5_0000_1000);
    }));
    expect(fake.smmu.commands).toEqual(["CMD_RESUME Ab=1 SID=5 STAG=0x1234"]);
    expect(fake.iommu.faults.reports[0]).toMatchObject({
      dev: { name: "client" }, fault: { reason: "F_TRANSLATION", iova: 0x5_0000_1000, sid: 5 },
    });
  });

  test("a fault without stall needs no answer", () => {
    const fake = setup();
    deliver(fake, fake.native, event(EVENTS.F_TRANSLATION.type));
    deliver(fake, fake.native, event(EVENTS.F_STE_FETCH.type));
    expect([fake.smmu.commands, fake.iommu.faults.count]).toEqual([[], 2]);
  });

  test("page requests are denied, once per group", () => {
    const fake = setup();
    const request = (last: number, ssv: number): void => {
      const record = new Int32Array(4);
      setField(record, 0, PRI.SID, 5);
      setField(record, 0, PRI.SSV, ssv);
      setField(record, 0, PRI.SSID, 3);
      setField(record, 0, PRI.PRGIndex, 9);
      setField(record, 0, PRI.LAST, last);
      const prod = fake.smmu.read32(OFFSET.PRIQ_PROD);
      fake.kernel.memory.write(fake.native.priq!.pa + prod * 16, record);
      fake.smmu.registers.set(OFFSET.PRIQ_PROD, prod + 1);
    };
    request(0, 1);
    request(1, 1);
    request(1, 0);
    fake.irqs.get(UNIQUE.priq)!();
    expect(fake.smmu.commands).toEqual(["CMD_PRI_RESP SSV=1 SSID=3 SID=5 PRGIndex=9", "CMD_PRI_RESP SID=5 PRGIndex=9"]);
    expect(fake.smmu.read32(OFFSET.PRIQ_CONS)).toBe(3);
  });

  test.each([
    ["EVENTQ_ABT_ERR", REG.GERROR.EVENTQ_ABT_ERR, true],
    ["PRIQ_ABT_ERR", REG.GERROR.PRIQ_ABT_ERR, true],
    ["MSI_GERROR_ABT_ERR", REG.GERROR.MSI_GERROR_ABT_ERR, true],
    ["SFM_ERR", REG.GERROR.SFM_ERR, false],
  ] as const)("%s is logged and acknowledged", (name, field, enabled) => {
    const fake = setup();
    fake.smmu.registers.set(OFFSET.GERROR, maskOf(field));
    fake.irqs.get(UNIQUE.gerror)!();
    expect(fake.kernel.log.lines("err")).toEqual([`arm-smmu-v3 smmu: global error: ${name}`]);
    expect(fake.smmu.read32(OFFSET.GERRORN)).toBe(maskOf(field));
    // Service failure mode: the SMMU is switched off.
    expect(fake.smmu.read32(OFFSET.CR0) !== 0).toBe(enabled);
    fake.irqs.get(UNIQUE.gerror)!();
    expect(fake.kernel.log.lines("err")).toHaveLength(1);
  });
});

describe("domains", () => {
  test("capabilities, reserved regions and the client's STE", () => {
    const { native, kernel, iommu, driver } = setup();
    const client = kernel.core.findByNode("client")!;
    const { ops } = driver.smmus[0]!.instance!;
    expect(ops.getResvRegions!(client)).toMatchObject([{ start: 0x800_0000, length: 0x10_0000, type: "sw-msi" }]);
    expect(ops.capable!(client, "cache-coherency")).toBe(true);
    expect(ops.capable!(client, "pci-ats")).toBe(false);
    expect(ops.probeDevice(client)).toBe(-16);
    const ste = new Int32Array(16);
    const config = (): number => {
      kernel.memory.read(native.strtab.ste(5), ste);
      return getField(ste, 0, STE.Config);
    };
    expect(config()).toBe(STE_CONFIG.bypass);
    const domain = iommu.allocPaging(client) as SmmuDomain;
    expect(domain).toBeInstanceOf(SmmuDomain);
    expect(iommu.attachGroup(iommu.groupOf(client)!, domain)).toBe(0);
    expect([config(), domain.apertureEnd, domain.pageSizes[0]]).toEqual([STE_CONFIG.s1, 2 ** 48 - 1, 4096]);
  });
});
