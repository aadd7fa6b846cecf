import * as abi from "@smmuv3/pkvm-abi";
import { createKernel } from "@smmuv3/driver-core";
import type { Device, KernelContext } from "@smmuv3/driver-core";
import { IommuCore, IommuDomain, PROT } from "@smmuv3/iommu-core";
import { HOST_DOMAINS, IOMMU_STATE, POOL, REQUEST } from "@smmuv3/pkvm-abi";
import { ERRNO, PAGE_SIZE } from "@smmuv3/platform";
import { describe, expect, test } from "vitest";
import { DomainIds, PvDomain, PvIommu } from "../src/index.ts";
import type { PagingLimits } from "../src/index.ts";
import { FakeCpu, firmware, node } from "@smmuv3/fake-cpu";

const { blocking, identity } = IOMMU_STATE;
const LIMITS: PagingLimits = { pgsizeBitmap: 0x4020_1000, s1Bits: 48, s2Bits: 44 };
const RW = PROT.READ | PROT.WRITE;
const PA = 0x4010_0000;

interface Setup {
  readonly cpu: FakeCpu<abi.HypercallName>;
  readonly kernel: KernelContext;
  readonly core: IommuCore;
  readonly pv: PvIommu;
  readonly dev: Device;
}

function setUp(limits: Partial<PagingLimits> = {}, properties: Record<string, boolean> = {}): Setup {
  const cpu = new FakeCpu(abi);
  cpu.answers.__pkvm_iommu_map_pages = (_domain, _iova, _pa, size, count) => size * count;
  cpu.answers.__pkvm_iommu_unmap_pages = (_domain, _iova, size, count) => size * count;
  const kernel = createKernel({ cpu, firmware: firmware([]) });
  const paging = { ids: new DomainIds(), limits: { ...LIMITS, ...limits } };
  const pv = new PvIommu(kernel, { iommu: 1, idsOf: (dev) => (dev.name === "nic" ? [8, 9] : []), paging });
  const dev = kernel.core.addDevice({ name: "nic", bus: "platform", node: node("nic", { properties }) });
  return { cpu, kernel, core: new IommuCore(kernel), pv, dev };
}

function domainOf({ pv, dev }: Setup): PvDomain {
  const domain = pv.allocPaging(dev);
  if (typeof domain === "number") throw new Error(`allocPaging: ${domain}`);
  return domain;
}

describe("streams", () => {
  test("change together, RID and PASID, and go back together", () => {
    const one = setUp();
    const domain = domainOf(one);
    const states = (): number[][] => one.cpu.argsOf("__pkvm_iommu_set_state");
    expect(one.pv.attach(one.dev, 0, domain, one.pv.identityDomain)).toBe(0);
    expect(one.pv.attach(one.dev, 5, domain, undefined)).toBe(0);
    expect(states()).toEqual([[1, 8, 0, 2], [1, 9, 0, 2], [1, 8, 5, 2], [1, 9, 5, 2]]);
    one.cpu.calls.length = 0;
    one.cpu.answers.__pkvm_iommu_set_state = (_iommu, sid, _pasid, state) => (sid === 9 && state === identity ? -ERRNO.EBUSY : 0);
    expect(one.pv.attach(one.dev, 0, one.pv.identityDomain, domain)).toBe(-ERRNO.EBUSY);
    expect(states()).toEqual([[1, 8, 0, identity], [1, 9, 0, identity], [1, 8, 0, 2]]);
    expect(one.pv.attach(one.dev, 0, one.pv.blockedDomain, domain)).toBe(0);
    expect(states().slice(3)).toEqual([[1, 8, 0, blocking], [1, 9, 0, blocking]]);
  });

  test("a device that is behind another IOMMU is none of it", () => {
    const one = setUp();
    const other = one.kernel.core.addDevice({ name: "other", bus: "platform" });
    expect(one.pv.attach(other, 0, one.pv.identityDomain, undefined)).toBe(-ERRNO.EINVAL);
    expect(one.cpu.calls).toEqual([]);
  });
});

describe("domains", () => {
  test.each<[string, Partial<PagingLimits> | undefined, Record<string, boolean>, number[][]]>([
    ["stage 1 first", {}, {}, [[1, 2, 1]]],
    ["stage 2 without stage 1", { s1Bits: 0 }, {}, [[1, 2, 2]]],
    ["none without paging", undefined, {}, []],
    ["none for DMA that is active at boot", {}, { "iommu-addresses": true }, []],
    ["none without stages", { s1Bits: 0, s2Bits: 0 }, {}, []],
  ])("%s", (_what, limits, properties, calls) => {
    const one = limits === undefined ? setUp() : setUp(limits, properties);
    const pv = limits === undefined ? new PvIommu(one.kernel, { iommu: 1, idsOf: () => [8] }) : one.pv;
    const domain = pv.allocPaging(one.dev);
    expect(one.cpu.argsOf("__pkvm_iommu_alloc_domain")).toEqual(calls);
    if (calls.length === 0) expect(domain).toBe(-ERRNO.EOPNOTSUPP);
    else expect(domain).toMatchObject({ id: 2, type: "paging", pgsizeBitmap: LIMITS.pgsizeBitmap });
  });

  test("an EL2 that lacks stage 1 is asked for stage 2; one without paging gives none, and ids come back", () => {
    const one = setUp();
    one.cpu.answers.__pkvm_iommu_alloc_domain = (_iommu, _id, type) => (type === 1 ? -ERRNO.EOPNOTSUPP : 0);
    expect(domainOf(one).apertureEnd).toBe(2 ** 44 - 1);
    one.cpu.answers.__pkvm_iommu_alloc_domain = -ERRNO.EOPNOTSUPP;
    expect(one.pv.allocPaging(one.dev)).toBe(-ERRNO.EOPNOTSUPP);
    one.cpu.answers.__pkvm_iommu_alloc_domain = 0;
    expect(domainOf(one).id).toBe(3);
  });

  test("ids end where EL2's half begins, and are used again", () => {
    const ids = new DomainIds();
    const all = Array.from({ length: HOST_DOMAINS - IOMMU_STATE.firstDomain }, () => ids.alloc());
    expect([all[0], all.at(-1), ids.alloc()]).toEqual([2, HOST_DOMAINS - 1, -ERRNO.ENOSPC]);
    ids.free(7);
    expect(ids.alloc()).toBe(7);
  });

  test("map and unmap are one call for pages of a size, and complete on return", () => {
    const one = setUp();
    const domain = domainOf(one);
    expect(one.core.map(domain, 0x20_0000, 0x4020_0000, 0x20_3000, RW)).toBe(0);
    expect(one.cpu.argsOf("__pkvm_iommu_map_pages")).toEqual([
      [2, 0x20_0000, 0x4020_0000, 0x20_0000, 1, RW],
      [2, 0x40_0000, 0x4040_0000, PAGE_SIZE, 3, RW],
    ]);
    expect(one.core.unmap(domain, 0x20_0000, 0x20_3000)).toBe(0x20_3000);
    const { calls } = one.cpu;
    domain.ops.flushIotlbAll?.(domain);
    expect(one.cpu.calls).toBe(calls);
    one.cpu.answers.__pkvm_iommu_iova_to_phys = PA + 8;
    expect(one.core.iovaToPhys(domain, 8)).toBe(PA + 8);
    one.cpu.answers.__pkvm_iommu_iova_to_phys = -ERRNO.ENOENT;
    expect(one.core.iovaToPhys(domain, 8)).toBe(0);
  });

  test("EL2 asks for memory: it gets a block, and the map goes on from where it was", () => {
    const one = setUp();
    const domain = domainOf(one);
    const asking = [REQUEST.memory, POOL.iommu, 1] as const;
    const replies: (readonly number[])[] = [[-ERRNO.ENOMEM, ...asking], [PAGE_SIZE, ...asking], [2 * PAGE_SIZE, 0, 0, 0]];
    one.cpu.answers.__pkvm_iommu_map_pages = () => replies.shift()!;
    expect(one.core.map(domain, 0, PA, 3 * PAGE_SIZE, RW)).toBe(0);
    expect(one.cpu.argsOf("__pkvm_iommu_map_pages").map(([, iova, , , count]) => [iova, count])).toEqual([
      [0, 3], [0, 3], [PAGE_SIZE, 2],
    ]);
    expect(one.cpu.argsOf("__pkvm_topup_hyp").map(([pool]) => pool)).toEqual([POOL.iommu, POOL.iommu]);
    expect(one.kernel.pages.allocated).toBeGreaterThan(0);
  });

  test.each<[string, number | readonly number[]]>([
    ["refuses", -ERRNO.EPERM],
    ["stops half-way", [PAGE_SIZE, 0, 0, 0]],
  ])("a map that EL2 %s leaves nothing mapped", (_what, reply) => {
    const one = setUp();
    const domain = domainOf(one);
    const replies = [reply];
    one.cpu.answers.__pkvm_iommu_map_pages = () => replies.shift() ?? -ERRNO.EPERM;
    expect(one.core.map(domain, 0, PA, 2 * PAGE_SIZE, RW)).toBe(-ERRNO.EPERM);
    const unmapped = one.cpu.argsOf("__pkvm_iommu_unmap_pages").map(([, iova, size, count]) => [iova, size! * count!]);
    expect(unmapped).toEqual(reply === -ERRNO.EPERM ? [] : [[0, PAGE_SIZE]]);
  });

  test("what EL2 does not unmap or free is reported, and its id stays in use", () => {
    const one = setUp();
    const domain = domainOf(one);
    one.cpu.answers.__pkvm_iommu_unmap_pages = -ERRNO.ETIMEDOUT;
    expect(one.core.unmap(domain, 0, PAGE_SIZE)).toBe(0);
    one.cpu.answers.__pkvm_iommu_free_domain = -ERRNO.EBUSY;
    expect(one.core.freeDomain(domain)).toBe(0);
    expect(one.kernel.log.lines("err")).toEqual(["iommu 1 of EL2: unmap: ETIMEDOUT", "iommu 1 of EL2: free domain 2: EBUSY"]);
    expect(domainOf(one).id).toBe(3);
  });

  test("operations of these domains are not for others", () => {
    const one = setUp();
    const { ops } = domainOf(one);
    const stranger = new IommuDomain({ type: "paging", ops });
    expect(() => ops.unmapPages?.(stranger, 0, PAGE_SIZE, 1, undefined as never)).toThrow(TypeError);
  });
});
