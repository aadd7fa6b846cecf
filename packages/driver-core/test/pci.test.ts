import { firmware, node } from "@smmuv3/fake-cpu";
import { expect, test } from "vitest";
import { DriverCore, KernelLog } from "../src/index.ts";

test("capabilities come from firmware; switches reach the port, PASIDs before ATS", () => {
  const calls: string[] = [];
  const core = new DriverCore(new KernelLog(() => 0), {
    setAts: (dev, on, stu) => void calls.push(`${dev.name} ats ${on} ${stu}`),
    setPasid: (dev, on) => void calls.push(`${dev.name} pasid ${on}`),
  });
  const [gpu, nic, disk] = core.populate(
    firmware(
      [
        node("0000:01:00.0", { properties: { "ats-required": true, "pci-pasid-bits": 8, "vendor-id": 0x10de, "device-id": 1 } }),
        node("0000:02:00.0", { properties: { "no-acs": true } }),
        node("disk"),
      ],
      { base: 0x4000_0000, size: 1 << 20 },
    ),
  );
  expect(disk!.pci).toBeUndefined();
  expect(nic!.pci).toMatchObject({ atsCapable: false, acs: false, pasidBits: 0, vendor: 0 });
  expect(nic!.pci!.enablePasid()).toBe(false);
  expect(() => { nic!.pci!.enableAts(12); }).toThrow(/ATS is not there/);
  const pci = gpu!.pci!;
  expect(pci).toMatchObject({ atsCapable: true, atsRequired: true, acs: true, pasidBits: 8, vendor: 0x10de, device: 1 });
  expect(pci.enablePasid()).toBe(true);
  pci.enableAts(12);
  expect([pci.atsEnabled, pci.pasidEnabled, pci.enablePasid()]).toEqual([true, true, false]);
  expect(() => { pci.enableAts(12); }).toThrow(/ATS is on/);
  pci.disableAts();
  pci.disableAts();
  pci.disablePasid();
  pci.disablePasid();
  expect(calls).toEqual(["0000:01:00.0 pasid true", "0000:01:00.0 ats true 12", "0000:01:00.0 ats false 12", "0000:01:00.0 pasid false"]);
});
