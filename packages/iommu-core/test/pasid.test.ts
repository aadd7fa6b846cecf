import { expect, test } from "vitest";
import { IommuDomain } from "../src/index.ts";
import { client, setUp } from "./fake-iommu.ts";

const NAME = "0000:00:01.0";

test("PASIDs: attach, refuse, detach, and detach at release", () => {
  const { kernel, iommu, fake, dev } = setUp([client(NAME, [1], { "pasid-num-bits": 4 }), client("0000:00:02.0", [2])]);
  const nic = dev(NAME);
  const calls: string[] = [];
  let status = 0;
  const setDevPasid = (domain: IommuDomain, _dev: unknown, pasid: number, old: IommuDomain | undefined): number => {
    calls.push(`${pasid}: ${old?.type ?? "none"} -> ${domain.type}`);
    return status;
  };
  const domain = new IommuDomain({ type: "paging", ops: { attachDev: () => 0, setDevPasid } });
  fake.ops.blockedDomain.ops.setDevPasid = setDevPasid;

  for (const pasid of [0, -1, 16]) expect(iommu.attachPasid(nic, pasid, domain)).toBe(-22);
  expect(iommu.attachPasid(dev("0000:00:02.0"), 1, domain)).toBe(-22);
  expect(iommu.attachPasid(nic, 1, iommu.domainOf(nic)!)).toBe(-95);
  expect(iommu.attachPasid(dev("smmu"), 1, domain)).toBe(-19);
  status = -12;
  expect(iommu.attachPasid(nic, 1, domain)).toBe(-12);
  status = 0;
  expect(iommu.attachPasid(nic, 1, domain)).toBe(0);
  expect(iommu.attachPasid(nic, 1, domain)).toBe(-16);
  expect(iommu.attachPasid(nic, 15, domain)).toBe(0);
  expect(domain.users).toBe(2);
  expect(iommu.detachPasid(nic, 15)).toBe(0);
  expect(iommu.detachPasid(nic, 15)).toBe(-2);
  calls.length = 0;
  kernel.core.removeDevice(nic);
  expect(calls).toEqual(["1: paging -> blocked"]);
  expect([domain.users, iommu.freeDomain(domain)]).toEqual([0, 0]);
});
