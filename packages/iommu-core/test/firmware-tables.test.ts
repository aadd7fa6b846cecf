import { describe, expect, test } from "vitest";
import { fromDeviceTree, fromIort, IORT_MODEL } from "../src/index.ts";

const none = { compatible: ["x"], reg: [], interrupts: {}, properties: {} };

describe("device tree", () => {
  test("iommus: one cell is a StreamID, another number of cells is none", () => {
    const { nodes, rmrs } = fromDeviceTree([
      { ...none, name: "smmu" },
      { ...none, name: "nic", iommus: [{ iommu: "smmu", cells: [5] }, { iommu: "smmu", cells: [6] }] },
      { ...none, name: "odd", iommus: [{ iommu: "smmu", cells: [1, 2] }] },
    ]);
    expect(nodes.map(({ name, iommus }) => [name, iommus.map(({ id }) => id)])).toEqual([["smmu", []], ["nic", [5, 6]], ["odd", [-1]]]);
    expect(rmrs).toEqual([]);
  });

  test("iommu-map and its mask: requester IDs become StreamIDs", () => {
    const { nodes } = fromDeviceTree([
      {
        ...none, name: "pcie", properties: { "ats-supported": true }, iommuMapMask: 0xff,
        iommuMap: [{ idBase: 0, length: 0x10, iommu: "a", outputBase: 0x100 }, { idBase: 0x10, length: 0xf0, iommu: "b", outputBase: 0x10 }],
        functions: [
          { ...none, name: "0000:00:01.0", requesterId: 8 },
          { ...none, name: "0000:01:02.0", requesterId: 0x110 },
        ],
      },
    ]);
    expect(nodes.slice(1).map(({ iommus, properties }) => [iommus, properties])).toEqual([
      [[{ iommu: "a", id: 0x108 }], { "ats-supported": true }], [[{ iommu: "b", id: 0x10 }], { "ats-supported": true }],
    ]);
  });
});

describe("IORT", () => {
  const mappings = [{ idBase: 0, length: 0x100, iommu: "smmu", outputBase: 0x1000 }];

  test("SMMUv3 nodes: coherency, HTTU and models", () => {
    const { nodes } = fromIort([
      { kind: "smmuv3", name: "a", base: 0x1000_0000, interrupts: { gerror: 5 }, cohaccOverride: true, httuOverride: 2 },
      { kind: "smmuv3", name: "b", base: 0x2000_0000, interrupts: {}, cohaccOverride: false, model: IORT_MODEL.caviumCn99xx },
      { kind: "smmuv3", name: "c", base: 0x3000_0000, interrupts: {}, cohaccOverride: false, model: IORT_MODEL.hisiliconHi161x },
    ]);
    expect(nodes.map(({ reg, properties }) => [reg[0]!.size, properties])).toEqual([
      [0x2_0000, { "dma-coherent": true, "httu-override": 2 }],
      [0x1_0000, { "dma-coherent": false, "cavium,cn9900-broken-page1-regspace": true }],
      [0x2_0000, { "dma-coherent": false, "hisilicon,broken-prefetch-cmd": true }],
    ]);
  });

  test("named components, root complexes and RMRs", () => {
    const { nodes, rmrs } = fromIort([
      {
        kind: "named", device: { ...none, name: "gpu" }, ids: [1, 2, 0x200], mappings, stallSupported: true, ssidBits: 8, canwbs: true,
      },
      { kind: "root-complex", functions: [{ ...none, name: "0000:00:02.0", requesterId: 0x10 }], mappings, atsSupported: true, coherent: true },
      { kind: "rmr", mappings: [{ idBase: 0, length: 2, iommu: "smmu", outputBase: 0x1010 }], base: 0x8000_0000, size: 0x1000, remapPermitted: true },
    ]);
    expect(nodes[0]).toMatchObject({
      iommus: [{ iommu: "smmu", id: 0x1001 }, { iommu: "smmu", id: 0x1002 }],
      properties: { "dma-can-stall": true, "pasid-num-bits": 8, canwbs: true },
    });
    expect(nodes[1]).toMatchObject({
      iommus: [{ iommu: "smmu", id: 0x1010 }], properties: { "ats-supported": true, "dma-coherent": true },
    });
    expect(rmrs).toEqual([{ iommu: "smmu", ids: [0x1010, 0x1011], base: 0x8000_0000, size: 0x1000, remapPermitted: true }]);
  });
});
