import { ERRNO, PAGE_SIZE } from "@smmuv3/platform";
import { describe, expect, test } from "vitest";
import { identityDriver } from "../src/index.ts";
import { HOST_PAGE, POOL_BASE, run } from "./el2.ts";
import type { Running } from "./el2.ts";

const EINVAL = -ERRNO.EINVAL;
const ENODEV = -ERRNO.ENODEV;
const EPERM = -ERRNO.EPERM;
const BLOCKING = 0;
const IDENTITY = 1;
const ATTACH = 0;
const CONSUME = 1;
const GERROR = 2;
const LOG2 = 9;
const QUEUE = 0x4038_0000;

function share(cpu: Running["cpu"], pa = QUEUE): void {
  for (let at = 0; at < 4; at++) cpu.call("__pkvm_host_share_hyp", pa / PAGE_SIZE + at);
}

describe("set_state", () => {
  test.each<[string, number[], number]>([
    ["identity", [0, 0x42, 0, IDENTITY], 0],
    ["blocking", [0, 0x42, 0, BLOCKING], 0],
    ["the last stream", [0, 0xffff, 0, IDENTITY], 0],
    ["a stream beyond the table", [0, 0x1_0000, 0, IDENTITY], EINVAL],
    ["a stream beyond 32 bits", [0, 2 ** 32, 0, IDENTITY], EINVAL],
    ["a PASID", [0, 0x42, 1, IDENTITY], EINVAL],
    ["a domain that does not exist", [0, 0x42, 0, 2], EINVAL],
    ["an IOMMU that does not exist", [1, 0x42, 0, IDENTITY], ENODEV],
    ["an IOMMU number beyond any array", [2 ** 53 - 1, 0x42, 0, IDENTITY], ENODEV],
  ])("%s", (_what, args, status) => {
    expect(run(identityDriver).cpu.call("__pkvm_iommu_set_state", ...args)).toBe(status);
  });

  test("blocking a stream that was never used costs nothing", () => {
    const { cpu, smmu, core } = run(identityDriver);
    const free = core.pool.freePages;
    smmu.log.length = 0;
    expect(cpu.call("__pkvm_iommu_set_state", 0, 0x9999, 0, BLOCKING)).toBe(0);
    expect(smmu.log).toEqual([]);
    expect(core.pool.freePages).toBe(free);
  });

  test("a second-level table is four pages, made once and known to the SMMU", () => {
    const { cpu, smmu, core } = run(identityDriver);
    const free = core.pool.freePages;
    cpu.call("__pkvm_iommu_set_state", 0, 0x100, 0, IDENTITY);
    cpu.call("__pkvm_iommu_set_state", 0, 0x1ff, 0, IDENTITY);
    expect(free - core.pool.freePages).toBe(4);
    expect(cpu.counters.read("pool.streamTables").el2).toBe(4 * PAGE_SIZE);
    // Leaf 0 for the descriptor, then leaf 1 for the STEs.
    const leaves = smmu.commands.filter(([opcode]) => opcode === 3).map((command) => command[2]);
    expect(leaves[0]).toBe(0);
    expect(leaves.slice(1).every((one) => one === 1)).toBe(true);
  });

  test("running out of tables is an errno", () => {
    const { cpu } = run(identityDriver);
    let status = 0;
    for (let sid = 0; sid < 0x1_0000 && status === 0; sid += 256) {
      status = cpu.call("__pkvm_iommu_set_state", 0, sid, 0, IDENTITY);
    }
    expect(status).toBe(-ERRNO.ENOMEM);
    expect(cpu.call("__pkvm_iommu_set_state", 0, 0, 0, BLOCKING)).toBe(0);
  });

  test("an SMMU that does not answer is an errno", () => {
    const { cpu, smmu } = run(identityDriver);
    smmu.consumes = false;
    expect(cpu.call("__pkvm_iommu_set_state", 0, 1, 0, IDENTITY)).toBe(-ERRNO.ETIMEDOUT);
  });
});

describe("event queue", () => {
  test("attach pins the shared memory and programs the SMMU", () => {
    const { cpu, smmu } = run(identityDriver);
    share(cpu);
    smmu.log.length = 0;
    expect(cpu.call("__pkvm_iommu_event_queue", 0, ATTACH, QUEUE + LOG2)).toBe(0);
    expect(smmu.log).toEqual([
      "EVENTQ_BASE=40000000:40380009",
      "EVENTQ_PROD=0",
      "EVENTQ_CONS=0",
      "CR0=1d",
      "IRQ_CTRL=5",
    ]);
    expect(cpu.call("__pkvm_host_unshare_hyp", QUEUE / PAGE_SIZE)).toBe(-ERRNO.EBUSY);
    expect(cpu.call("__pkvm_host_donate_hyp", QUEUE / PAGE_SIZE + 3)).toBe(-ERRNO.EBUSY);
    expect(cpu.call("__pkvm_iommu_event_queue", 0, ATTACH, QUEUE + LOG2)).toBe(-ERRNO.EBUSY);
  });

  test.each<[string, number, number]>([
    ["memory that is not shared", HOST_PAGE, EPERM],
    ["EL2's memory", POOL_BASE, EPERM],
    ["memory that is not RAM", 0, EINVAL],
    ["a queue that is not aligned to its size", QUEUE + PAGE_SIZE + LOG2, EINVAL],
    ["a queue larger than the hardware takes", QUEUE + 20, EINVAL],
    ["2^63 entries", QUEUE + 63, EINVAL],
  ])("attach of %s", (_what, value, status) => {
    const { cpu, smmu } = run(identityDriver);
    share(cpu);
    smmu.log.length = 0;
    expect(cpu.call("__pkvm_iommu_event_queue", 0, ATTACH, value)).toBe(status);
    expect(smmu.log).toEqual([]);
  });

  test("consume writes CONS and returns PROD, with their flags", () => {
    const { cpu, smmu } = run(identityDriver);
    expect(cpu.call("__pkvm_iommu_event_queue", 0, CONSUME, 0)).toBe(ENODEV);
    share(cpu);
    cpu.call("__pkvm_iommu_event_queue", 0, ATTACH, QUEUE + LOG2);
    smmu.set("EVENTQ_PROD", 0x8000_0005 | 0);
    expect(cpu.call("__pkvm_iommu_event_queue", 0, CONSUME, 0x8000_0003)).toBe(0x8000_0005);
    expect(smmu.get("EVENTQ_CONS")).toBe(0x8000_0003 | 0);
    expect(cpu.call("__pkvm_iommu_event_queue", 0, CONSUME, 2 ** 32)).toBe(EINVAL);
  });

  test("gerror acknowledges and returns what was active", () => {
    const { cpu, smmu } = run(identityDriver);
    smmu.set("GERROR", 4);
    expect(cpu.call("__pkvm_iommu_event_queue", 0, GERROR, 0)).toBe(4);
    expect(smmu.get("GERRORN")).toBe(4);
    expect(cpu.call("__pkvm_iommu_event_queue", 0, GERROR, 0)).toBe(0);
  });

  test("a refused command is EL2's business", () => {
    const { cpu, smmu } = run(identityDriver);
    smmu.set("GERROR", 1);
    expect(cpu.call("__pkvm_iommu_event_queue", 0, GERROR, 0)).toBe(0);
    expect(smmu.get("GERRORN")).toBe(1);
  });

  test.each([[3], [2 ** 40]])("operation %i does not exist", (op) => {
    expect(run(identityDriver).cpu.call("__pkvm_iommu_event_queue", 0, op, 0)).toBe(EINVAL);
  });
});

test("accesses of the host to the registers abort", () => {
  const { cpu } = run(identityDriver);
  for (const offset of [0, 0x20, 0x80, 0x100a8]) {
    expect(cpu.access(offset, 4, false).action).toBe(2);
    expect(cpu.access(offset, 4, true).action).toBe(2);
  }
});
