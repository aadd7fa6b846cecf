import { expect, test } from "vitest";
import { Sysfs } from "../src/index.ts";

test("directories, attributes and links", () => {
  const sysfs = new Sysfs();
  let value = "1";
  sysfs.mkdir("devices/platform/smmu/iommu/smmu3.0x9050000");
  sysfs.attribute("devices/platform/smmu/iommu/smmu3.0x9050000/idr0", () => value);
  sysfs.link("class/iommu/smmu3.0x9050000", "devices/platform/smmu/iommu/smmu3.0x9050000");
  expect(sysfs.list("class/iommu")).toEqual(["smmu3.0x9050000"]);
  expect(sysfs.list("class/iommu/smmu3.0x9050000")).toEqual(["idr0"]);
  value = "2";
  expect(sysfs.read("class/iommu/smmu3.0x9050000/idr0")).toBe("2");
  expect(sysfs.readlink("class/iommu/smmu3.0x9050000")).toBe("devices/platform/smmu/iommu/smmu3.0x9050000");
  sysfs.remove("devices/platform/smmu");
  expect(sysfs.exists("class/iommu/smmu3.0x9050000")).toBe(false);
  expect(sysfs.list("class/iommu")).toEqual(["smmu3.0x9050000"]);
  sysfs.remove("class/iommu/smmu3.0x9050000");
  expect(sysfs.list("class/iommu")).toEqual([]);
});

test("edges: missing, duplicate, looping, not a directory", () => {
  const sysfs = new Sysfs();
  expect(sysfs.list("none")).toEqual([]);
  expect(sysfs.read("none")).toBeUndefined();
  expect(sysfs.readlink("none/x")).toBeUndefined();
  sysfs.remove("none/x");
  sysfs.link("a", "b");
  sysfs.link("b", "a");
  expect(sysfs.exists("a")).toBe(false);
  expect(() => {
    sysfs.link("a", "c");
  }).toThrow(/exists/);
  sysfs.attribute("d/value", () => "");
  expect(() => {
    sysfs.mkdir("d/value/below");
  }).toThrow(/not a directory/);
});
