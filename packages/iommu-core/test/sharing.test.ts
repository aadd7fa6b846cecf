import { ERRNO } from "@smmuv3/platform";
import { describe, expect, test } from "vitest";
import { DirtyBitmap, DOMAIN_FLAG, IommuDomain, Mm } from "../src/index.ts";
import type { DomainOps, IommuOps, PageRequest } from "../src/index.ts";
import { client, K4, setUp } from "./fake-iommu.ts";
import type { Setup } from "./fake-iommu.ts";

const NAME = "0000:00:01.0";

type Mutable = { -readonly [K in keyof IommuOps]: IommuOps[K] };

/** A device with PASIDs whose driver has SVA domains and answers page requests. */
function shared(): Setup & { answers: string[]; calls: string[]; ops: Mutable } {
  const setup = setUp([client(NAME, [1], { "pasid-num-bits": 4 }), client("0000:00:02.0", [2], { "pasid-num-bits": 4 })]);
  const ops = setup.fake.ops as Mutable;
  const answers: string[] = [];
  const calls: string[] = [];
  const setDevPasid: NonNullable<DomainOps["setDevPasid"]> = (domain, dev, pasid) => {
    calls.push(`${dev.name.at(-3)} ${pasid} ${domain.type}`);
    return 0;
  };
  ops.blockedDomain.ops.setDevPasid = setDevPasid;
  ops.domainAllocSva = () => new IommuDomain({ type: "sva", ops: { attachDev: () => -22, setDevPasid } });
  ops.pageResponse = (_, { grpid }: PageRequest, response) => void answers.push(`${grpid} ${response}`);
  return { ...setup, answers, calls, ops };
}

const table = { ttb: 0x1000, vaBits: 48, granule: K4, unmap: () => {}, free: () => {} };

describe("processes", () => {
  test("one PASID for all devices, one binding for all users of a device", () => {
    const { iommu, dev, calls } = shared();
    const [a, b] = [dev(NAME), dev("0000:00:02.0")];
    const [one, two] = [new Mm(table), new Mm(table)];
    const handles = [iommu.bindSva(a, one), iommu.bindSva(b, one), iommu.bindSva(a, two), iommu.bindSva(a, one)];
    expect(handles.map((handle) => (typeof handle === "number" ? handle : handle.pasid))).toEqual([1, 1, 2, 1]);
    expect(handles[3]).toBe(handles[0]);
    for (const handle of handles) if (typeof handle !== "number") expect(iommu.unbindSva(handle)).toBe(0);
    expect(calls).toEqual(["1 1 sva", "2 1 sva", "1 2 sva", "2 1 blocked", "1 2 blocked", "1 1 blocked"]);
  });

  test("what goes away is unbound; what cannot, is refused", () => {
    const { iommu, dev, calls, kernel, ops } = shared();
    const nic = dev(NAME);
    iommu.bindSva(nic, new Mm(table));
    calls.length = 0;
    kernel.core.removeDevice(nic);
    expect(calls).toEqual(["1 1 blocked"]);
    delete ops.domainAllocSva;
    expect(iommu.bindSva(dev("0000:00:02.0"), new Mm(table))).toBe(-ERRNO.EOPNOTSUPP);
    expect(iommu.bindSva(dev("smmu"), new Mm(table))).toBe(-ERRNO.EOPNOTSUPP);
  });

  test("notifiers hear of what goes before it is freed, and of the exit before the tables are", () => {
    const calls: string[] = [];
    const mm = new Mm({
      ...table, unmap: (start, size) => void calls.push(`unmap ${start} ${size}`), free: () => void calls.push("free"),
    });
    const notifier = {
      invalidateSecondaryTlbs: (start: number, end: number) => void calls.push(`invalidate ${start} ${end}`),
      release: () => void calls.push("release"),
    };
    mm.register(notifier);
    mm.munmap(K4, K4);
    mm.exit();
    mm.exit();
    mm.munmap(K4, K4);
    expect([calls, mm.alive]).toEqual([["unmap 4096 4096", "invalidate 4096 8192", "release", "free"], false]);
    mm.unregister(notifier);
    expect(mm.notifiers).toBe(0);
  });
});

describe("page requests", () => {
  test("are served by the domain of their PASID, a nested one serves all", () => {
    const { iommu, dev, answers } = shared();
    const nic = dev(NAME);
    const mm = new Mm(table, (address) => (address === K4 ? 0 : -ERRNO.EFAULT));
    iommu.bindSva(nic, mm);
    const request = (grpid: number, addr: number, pasid?: number): number =>
      iommu.reportPageRequest(nic, { grpid, addr, perm: 1, ...(pasid === undefined ? {} : { pasid }) });
    expect([request(1, K4, 1), request(2, 2 * K4, 1), request(3, K4, 9), request(4, K4)]).toEqual([0, 0, -22, -22]);
    expect(answers).toEqual(["1 success", "2 invalid", "3 invalid", "4 invalid"]);
    mm.exit();
    expect([request(5, K4, 1), answers.at(-1)]).toEqual([0, "5 invalid"]);
    const nested = new IommuDomain({ type: "nested", ops: { attachDev: () => 0 } });
    nested.iopfHandler = () => -ERRNO.ENOMEM;
    iommu.attachGroup(iommu.groupOf(nic)!, nested);
    expect([request(6, K4, 9), answers.at(-1)]).toEqual([0, "6 failure"]);
    expect(iommu.reportPageRequest(dev("smmu"), { grpid: 7, addr: 0, perm: 1 })).toBe(-ERRNO.ENODEV);
  });
});

describe("dirty tracking", () => {
  test("reads, and invalidates what was made clean", () => {
    const { iommu, dev, fake } = shared();
    const domain = iommu.allocPaging(dev(NAME)) as IommuDomain;
    expect(iommu.setDirtyTracking(domain, true)).toBe(-ERRNO.EOPNOTSUPP);
    expect(iommu.readAndClearDirty(domain, new DirtyBitmap(0, K4, K4))).toBe(-ERRNO.EOPNOTSUPP);
    domain.tracksDirty = true;
    domain.ops.readAndClearDirty = (of, iova, _size, noClear, visit, gather) => {
      visit(iova + K4, 2 * K4);
      if (!noClear) gather.addPage(of, iova + K4, K4);
      return 0;
    };
    const bitmap = new DirtyBitmap(8 * K4, 4 * K4, K4);
    expect(iommu.readAndClearDirty(domain, bitmap)).toBe(0);
    expect([8, 9, 10, 11].map((page) => bitmap.has(page * K4))).toEqual([false, true, true, false]);
    expect(fake.syncs).toEqual([{ start: 9 * K4, end: 10 * K4 - 1, pgsize: K4 }]);
    iommu.readAndClearDirty(domain, bitmap, true);
    expect([fake.syncs.length, iommu.setDirtyTracking(domain, true)]).toEqual([1, 0]);
    expect(() => new DirtyBitmap(0, 100, K4)).toThrow(/positive multiple of 4096, got 100/);
  });

  test("and other wishes of a domain need a driver that has them", () => {
    const { iommu, dev, ops } = shared();
    const nic = dev(NAME);
    expect(iommu.allocPaging(nic, DOMAIN_FLAG.pasid)).toBe(-ERRNO.EOPNOTSUPP);
    ops.domainAllocPagingFlags = () => new IommuDomain({ type: "paging", ops: { attachDev: () => 0 } });
    expect(iommu.allocPaging(nic, DOMAIN_FLAG.pasid)).toBeInstanceOf(IommuDomain);
    expect(iommu.allocPaging(nic, DOMAIN_FLAG.dirtyTracking)).toBe(-ERRNO.EOPNOTSUPP);
    ops.capable = (_, capability) => capability === "dirty-tracking";
    expect(iommu.allocPaging(nic, DOMAIN_FLAG.dirtyTracking)).toBeInstanceOf(IommuDomain);
  });
});

test("a region that must always be reachable: mapped, and never blocked", () => {
  const nodes = [client(NAME, [1]), client("0000:00:02.0", [2])];
  const { iommu, dev, fake, kernel, instance } = setUp(nodes, { late: true, rmrs: [
    { iommu: "smmu", ids: [1], base: 0x1_0000, size: K4 }, { iommu: "other", ids: [1], base: 0, size: K4 },
  ] });
  const region = { start: 0x1_0000, length: K4, prot: 3, type: "direct" } as const;
  fake.resv = [region];
  iommu.register(instance);
  const group = iommu.groupOf(dev(NAME))!;
  expect(iommu.rmrsOf("smmu", [1])).toHaveLength(1);
  expect(iommu.rmrsOf("smmu", [2])).toEqual([]);
  expect(iommu.iovaToPhys(group.domain!, 0x1_0000)).toBe(0x1_0000);
  expect(iommu.attachGroup(group, fake.ops.blockedDomain)).toBe(-ERRNO.EINVAL);
  expect(kernel.core.sysfs.read(`${group.path}/type`)).toBe("DMA");
  expect(kernel.core.sysfs.read(`${group.path}/reserved_regions`)).toBe("0x0000000000010000 0x0000000000010fff direct");
});
