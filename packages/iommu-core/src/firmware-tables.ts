import type { FirmwareNode } from "@smmuv3/platform";

/** Memory that firmware wants a device to reach one to one, as an RMR node of IORT has it. */
export interface Rmr {
  /** Node of the IOMMU, and the streams behind it. */
  readonly iommu: string;
  readonly ids: readonly number[];
  readonly base: number;
  /** Bytes. */
  readonly size: number;
  /** The OS may use another mapping once it has taken over the device. */
  readonly remapPermitted?: boolean;
  readonly privileged?: boolean;
  /** How the memory is accessed; normal non-cacheable unless given. */
  readonly attributes?: "device" | "non-cacheable" | "write-back";
}

/** What both kinds of firmware description become. */
export interface FirmwareTables {
  readonly nodes: readonly FirmwareNode[];
  readonly rmrs: readonly Rmr[];
}

/** Requester or input IDs `[idBase, idBase + length)` are StreamIDs from `outputBase` on, of `iommu`. */
export interface IdMap {
  readonly idBase: number;
  readonly length: number;
  readonly iommu: string;
  readonly outputBase: number;
}

/** A device tree node with the properties that lead to an IOMMU: `iommus`, or `iommu-map` of a PCI host. */
export interface DtNode extends Omit<FirmwareNode, "iommus"> {
  /** Specifiers: the cells after the phandle. */
  readonly iommus?: readonly { readonly iommu: string; readonly cells: readonly number[] }[];
  /** Of a PCI host: `iommu-map` and `iommu-map-mask`. */
  readonly iommuMap?: readonly IdMap[];
  readonly iommuMapMask?: number;
  /** Functions below a PCI host, by requester ID (bus 8, device 5, function 3 bits). */
  readonly functions?: readonly (Omit<FirmwareNode, "iommus"> & { readonly requesterId: number })[];
}

function lookUp(maps: readonly IdMap[], id: number): { iommu: string; id: number } | undefined {
  const map = maps.find(({ idBase, length }) => id >= idBase && id < idBase + length);
  return map === undefined ? undefined : { iommu: map.iommu, id: map.outputBase + (id - map.idBase) };
}

function pick({ name, compatible, reg, interrupts, properties }: Omit<FirmwareNode, "iommus">): Omit<FirmwareNode, "iommus"> {
  return { name, compatible, reg, interrupts, properties };
}

/**
 * Firmware nodes of a device tree. `#iommu-cells` of an SMMU is 1: a specifier of another length is kept as a StreamID that no
 * table has (-1), so that the device does not bind. Functions of a PCI host get the host's `ats-supported`.
 */
export function fromDeviceTree(tree: readonly DtNode[]): FirmwareTables {
  const nodes: FirmwareNode[] = [];
  for (const node of tree) {
    const iommus = (node.iommus ?? []).map(({ iommu, cells }) => ({ iommu, id: cells.length === 1 ? cells[0]! : -1 }));
    nodes.push({ ...pick(node), iommus });
    for (const child of node.functions ?? []) {
      const stream = lookUp(node.iommuMap ?? [], child.requesterId & (node.iommuMapMask ?? 0xffff));
      const ats = node.properties["ats-supported"] === true;
      const properties = ats ? { "ats-supported": true, ...child.properties } : child.properties;
      nodes.push({ ...pick(child), properties, iommus: stream === undefined ? [] : [stream] });
    }
  }
  return { nodes, rmrs: [] };
}

/** Models of an SMMUv3 node. */
export const IORT_MODEL = { generic: 0, hisiliconHi161x: 1, caviumCn99xx: 2 } as const;

/** SMMUv3 node. */
export interface IortSmmuV3 {
  readonly kind: "smmuv3";
  readonly name: string;
  readonly base: number;
  readonly interrupts: Readonly<Record<string, number>>;
  readonly cohaccOverride: boolean;
  /** 0 none, 1 access flag, 2 dirty state too. */
  readonly httuOverride?: number;
  /** {@link IORT_MODEL}. */
  readonly model?: number;
  /** Bytes of its register pages; default 128K. */
  readonly size?: number;
}

/** A device with a name (a platform device), or a root complex with its functions; `mappings` lead to SMMUv3 nodes. */
export interface IortNamedComponent {
  readonly kind: "named";
  readonly device: Omit<FirmwareNode, "iommus">;
  /** Input IDs that the device has. */
  readonly ids: readonly number[];
  readonly mappings: readonly IdMap[];
  /** Node flags: stalls; bits of a SubstreamID; the memory access properties say that it snoops (CCA, CPM, DACS). */
  readonly stallSupported?: boolean;
  readonly ssidBits?: number;
  readonly coherent?: boolean;
  /** Writes of shared memory are coherent whatever the attributes (CANWBS). */
  readonly canwbs?: boolean;
}

export interface IortRootComplex {
  readonly kind: "root-complex";
  readonly functions: readonly (Omit<FirmwareNode, "iommus"> & { readonly requesterId: number })[];
  readonly mappings: readonly IdMap[];
  readonly atsSupported: boolean;
  readonly coherent?: boolean;
  readonly canwbs?: boolean;
}

/** RMR node: `ids` are those that `mappings` give. */
export interface IortRmr extends Omit<Rmr, "ids" | "iommu"> {
  readonly kind: "rmr";
  readonly mappings: readonly IdMap[];
}

export type IortNode = IortSmmuV3 | IortNamedComponent | IortRootComplex | IortRmr;

const PAGE_64K = 0x1_0000;

function smmuNode(node: IortSmmuV3): FirmwareNode {
  const { model = IORT_MODEL.generic, httuOverride } = node;
  const cavium = model === IORT_MODEL.caviumCn99xx;
  return {
    name: node.name,
    compatible: ["arm,smmu-v3"],
    reg: [{ base: node.base, size: node.size ?? (cavium ? PAGE_64K : 2 * PAGE_64K) }],
    interrupts: node.interrupts,
    iommus: [],
    properties: {
      "dma-coherent": node.cohaccOverride,
      ...(httuOverride === undefined ? {} : { "httu-override": httuOverride }),
      ...(cavium ? { "cavium,cn9900-broken-page1-regspace": true } : {}),
      ...(model === IORT_MODEL.hisiliconHi161x ? { "hisilicon,broken-prefetch-cmd": true } : {}),
    },
  };
}

function access(node: { readonly coherent?: boolean; readonly canwbs?: boolean }): Record<string, boolean> {
  return { ...(node.coherent === true ? { "dma-coherent": true } : {}), ...(node.canwbs === true ? { canwbs: true } : {}) };
}

/** Firmware nodes of an IORT (ACPI): the same that a device tree would give. */
export function fromIort(table: readonly IortNode[]): FirmwareTables {
  const nodes: FirmwareNode[] = [];
  const rmrs: Rmr[] = [];
  for (const node of table) {
    if (node.kind === "smmuv3") nodes.push(smmuNode(node));
    else if (node.kind === "named") {
      const iommus = node.ids.flatMap((id) => lookUp(node.mappings, id) ?? []);
      const properties = {
        ...node.device.properties, ...access(node),
        ...(node.stallSupported === true ? { "dma-can-stall": true } : {}),
        ...(node.ssidBits === undefined ? {} : { "pasid-num-bits": node.ssidBits }),
      };
      nodes.push({ ...pick(node.device), properties, iommus });
    } else if (node.kind === "root-complex") {
      for (const child of node.functions) {
        const stream = lookUp(node.mappings, child.requesterId);
        const properties = { ...child.properties, ...access(node), "ats-supported": node.atsSupported };
        nodes.push({ ...pick(child), properties, iommus: stream === undefined ? [] : [stream] });
      }
    } else {
      const { base, size, remapPermitted, privileged, attributes } = node;
      const options = {
        ...(remapPermitted === undefined ? {} : { remapPermitted }),
        ...(privileged === undefined ? {} : { privileged }),
        ...(attributes === undefined ? {} : { attributes }),
      };
      for (const { iommu, outputBase, length } of node.mappings) {
        rmrs.push({ base, size, ...options, iommu, ids: Array.from({ length }, (_id, i) => outputBase + i) });
      }
    }
  }
  return { nodes, rmrs };
}
