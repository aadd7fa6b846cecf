import { TRANSLATION } from "@smmuv3/platform";
import { OFFSET, REG, maskOf } from "@smmuv3/smmu-v3-defs";
import { PRESETS } from "@smmuv3/smmu-v3-model";
import { cfgiSte } from "@smmuv3/arm-smmu-v3-common";
import { describe, expect, test } from "vitest";
import { BUFFER, Rig, RW, withField } from "./fixture.ts";

const PAGE = 0x1000;
const SMALL_EVTQ = withField(PRESETS.qemuStage1, REG.IDR1.EVENTQS, 3);

/** Waits as a polling loop does: interrupts are taken. */
const idle = (rig: Rig): void => {
  rig.machine.takeInterrupts();
};

describe("events", () => {
  test("a fault is reported with its device, address, direction and reason", () => {
    const rig = new Rig();
    const [client] = rig.clients;
    const domain = rig.domain();
    rig.attach(client!, domain);
    rig.iommu.map(domain, PAGE, BUFFER, PAGE, RW & ~2);
    expect(rig.write(client!.sid, 0x7_0000_1234, 1)).toBe(TRANSLATION.abort);
    expect(rig.write(client!.sid, PAGE + 8, 1)).toBe(TRANSLATION.abort);
    expect(rig.machine.dmaMaster("r", client!.sid, rig.smmu).read(2 * PAGE, new Int32Array(1))).toBe(TRANSLATION.abort);
    expect(rig.iommu.faults.count).toBe(0);
    idle(rig);
    const seen = rig.iommu.faults.reports.map(({ dev, fault }) => [dev?.name, fault.reason, fault.iova, fault.write, fault.sid]);
    expect(seen).toEqual([
      ["client0", "F_TRANSLATION", 0x7_0000_1234, true, 8],
      ["client0", "F_PERMISSION", PAGE + 8, true, 8],
      ["client0", "F_TRANSLATION", 2 * PAGE, false, 8],
    ]);
    expect(rig.iommu.faults.reports[0]!.fault.ssid).toBeUndefined();
    expect(rig.smmu.decodeEvents()).toEqual([]);
  });

  test("a stream that nobody owns is reported without a device", () => {
    const rig = new Rig();
    rig.write(1000, 0, 1);
    idle(rig);
    expect(rig.iommu.faults.reports.map(({ dev, fault }) => [dev, fault.reason, fault.sid])).toEqual([
      [undefined, "C_BAD_STREAMID", 1000],
    ]);
  });

  test("E1 messages are limited to 10 in 5 seconds, reports are not", () => {
    const rig = new Rig();
    const fault = (): void => {
      rig.write(1000, 0, 1);
      idle(rig);
    };
    const messages = (): number => rig.kernel.log.lines("err").filter((line) => line.includes("C_BAD_STREAMID")).length;
    for (let i = 0; i < 25; i++) fault();
    expect([messages(), rig.device.suppressed, rig.iommu.faults.count]).toEqual([10, 15, 25]);
    rig.machine.clock.advance(5e9);
    fault();
    expect(messages()).toBe(11);
  });

  test("E2 overflow: what fits is reported, the loss is logged and acknowledged once", () => {
    const rig = new Rig({ id: SMALL_EVTQ });
    for (let i = 0; i < 20; i++) rig.write(1000 + i, 0, 1);
    idle(rig);
    expect(rig.iommu.faults.count).toBe(8);
    const overflows = (): number => rig.kernel.log.lines("err").filter((line) => line.includes("EVTQ overflow")).length;
    expect(overflows()).toBe(1);
    const pointers = [OFFSET.EVENTQ_PROD, OFFSET.EVENTQ_CONS].map((offset) => rig.smmu.registers.read32(offset) >>> 31);
    expect(pointers[0]).toBe(pointers[1]);
    rig.write(2000, 0, 1);
    idle(rig);
    expect([rig.iommu.faults.count, overflows()]).toEqual([9, 1]);
  });

  test("a handler of faults may change the domain that faulted", () => {
    const rig = new Rig();
    const client = rig.clients[0]!;
    const domain = rig.domain();
    rig.attach(client, domain);
    rig.iommu.faults.listen(({ fault }) => {
      rig.iommu.map(domain, fault.iova!, BUFFER, PAGE, RW);
    });
    expect(rig.write(client.sid, 5 * PAGE, 7)).toBe(TRANSLATION.abort);
    idle(rig);
    expect(rig.write(client.sid, 5 * PAGE, 7)).toBe(TRANSLATION.ok);
  });
});

describe("global errors", () => {
  test.each(["immediate", "clocked"] as const)("Q7 an illegal command is skipped, the rest runs: %s", (progress) => {
    const rig = new Rig({ model: { progress, commandsPerTick: 2 } });
    const words = new Int32Array(12);
    cfgiSte(words, 0, 8, true);
    words[4] = 0xff;
    cfgiSte(words, 8, 9, true);
    expect(rig.native.cmdq.issue(words, 3, true)).toBe(0);
    expect(rig.kernel.log.lines("err")).toEqual([
      "arm-smmu-v3 smmuv3@9050000: CMDQ error 0x1, skipping reserved opcode 0xff",
      "arm-smmu-v3 smmuv3@9050000: global error: CMDQ_ERR",
    ]);
    const [gerror, gerrorn] = [OFFSET.GERROR, OFFSET.GERRORN].map((offset) => rig.smmu.registers.read32(offset));
    expect(gerror).toBe(gerrorn);
    expect(gerror! & maskOf(REG.GERROR.CMDQ_ERR)).not.toBe(0);
    expect(rig.smmu.registers.read32(OFFSET.CMDQ_CONS) & 0xfffff).toBe(rig.native.cmdq.prod);
  });

  test("Q6 an SMMU that stops: attaching a domain that cannot fail is logged, and works when it is back", () => {
    let running = true;
    const rig = new Rig({ model: { progress: "manual" }, before: ({ machine, smmu }) => {
      machine.onRelax(() => {
        if (running) smmu.step(8);
      });
    } });
    const client = rig.clients[0]!;
    running = false;
    rig.attach(client, "blocked");
    expect(rig.kernel.log.lines("err").join()).toMatch(/CMD_SYNC: ETIMEDOUT/);
    running = true;
    rig.attach(client, "identity");
    expect(rig.write(client.sid, BUFFER, 1)).toBe(TRANSLATION.ok);
  });
});
