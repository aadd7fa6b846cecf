import type { Architecture, BootKernel, StartHypervisor } from "@smmuv3/arch-common";

/** What the bundler measured of one level, see the `stats.json` beside each bundle. */
export interface BundleStats {
  readonly bytes: number;
  readonly minifiedBytes: number;
  readonly statements: number;
  readonly lines: number;
  readonly modules: readonly {
    readonly package: string;
    readonly file: string;
    readonly bytesInOutput: number;
    readonly lines: number;
    readonly statements: number;
  }[];
  readonly exports: readonly string[];
}

/** An architecture as it was built: what runs is what was measured. */
export interface BuiltArchitecture {
  readonly architecture: Architecture;
  readonly bootKernel: BootKernel;
  readonly el1Stats: BundleStats;
  /** Absent without a hypervisor. */
  readonly startHypervisor?: StartHypervisor;
  readonly el2Stats?: BundleStats;
  /** EL2 translates for the host. */
  readonly paging?: boolean;
  /** The same design on a machine that also has an IOMMU of another vendor, where somebody has built that. */
  readonly twoVendors?: () => Promise<BuiltArchitecture>;
}

interface JsonModule {
  readonly default: unknown;
}

function stats(module: JsonModule): BundleStats {
  return module.default as BundleStats;
}

/** The three-driver design with SMMUv3 and RISC-V IOMMUs. */
async function loadTwoVendors(): Promise<BuiltArchitecture> {
  const { architecture } = await import("@smmuv3/arch-two-vendors");
  const { bootKernel } = await import("@smmuv3/arch-two-vendors/el1");
  const { startHypervisor } = await import("@smmuv3/arch-two-vendors/el2");
  const el1 = await import("@smmuv3/arch-two-vendors/bundles/el1.stats.json", { with: { type: "json" } });
  const el2 = await import("@smmuv3/arch-two-vendors/bundles/el2.stats.json", { with: { type: "json" } });
  return { architecture, bootKernel, startHypervisor, el1Stats: stats(el1), el2Stats: stats(el2) };
}

const LOADERS = {
  native: async (): Promise<BuiltArchitecture> => {
    const { architecture } = await import("@smmuv3/arch-native");
    const { bootKernel } = await import("@smmuv3/arch-native/el1");
    const el1 = await import("@smmuv3/arch-native/bundles/el1.stats.json", { with: { type: "json" } });
    return { architecture, bootKernel, el1Stats: stats(el1) };
  },
  "pkvm-unprotected": async (): Promise<BuiltArchitecture> => {
    const { architecture } = await import("@smmuv3/arch-pkvm-unprotected");
    const { bootKernel } = await import("@smmuv3/arch-pkvm-unprotected/el1");
    const { startHypervisor } = await import("@smmuv3/arch-pkvm-unprotected/el2");
    const el1 = await import("@smmuv3/arch-pkvm-unprotected/bundles/el1.stats.json", { with: { type: "json" } });
    const el2 = await import("@smmuv3/arch-pkvm-unprotected/bundles/el2.stats.json", { with: { type: "json" } });
    return { architecture, bootKernel, startHypervisor, el1Stats: stats(el1), el2Stats: stats(el2) };
  },
  "single-driver": async (): Promise<BuiltArchitecture> => {
    const { architecture } = await import("@smmuv3/arch-single-driver");
    const { bootKernel } = await import("@smmuv3/arch-single-driver/el1");
    const { startHypervisor } = await import("@smmuv3/arch-single-driver/el2");
    const el1 = await import("@smmuv3/arch-single-driver/bundles/el1.stats.json", { with: { type: "json" } });
    const el2 = await import("@smmuv3/arch-single-driver/bundles/el2.stats.json", { with: { type: "json" } });
    return { architecture, bootKernel, startHypervisor, el1Stats: stats(el1), el2Stats: stats(el2) };
  },
  "three-driver": async (): Promise<BuiltArchitecture> => {
    const { architecture } = await import("@smmuv3/arch-three-driver");
    const { bootKernel } = await import("@smmuv3/arch-three-driver/el1");
    const { startHypervisor } = await import("@smmuv3/arch-three-driver/el2");
    const el1 = await import("@smmuv3/arch-three-driver/bundles/el1.stats.json", { with: { type: "json" } });
    const el2 = await import("@smmuv3/arch-three-driver/bundles/el2.stats.json", { with: { type: "json" } });
    const own = { architecture, bootKernel, startHypervisor, el1Stats: stats(el1), el2Stats: stats(el2) };
    return { ...own, twoVendors: loadTwoVendors };
  },
  "kvm-driver": async (): Promise<BuiltArchitecture> => {
    const { architecture } = await import("@smmuv3/arch-kvm-driver");
    const { bootKernel } = await import("@smmuv3/arch-kvm-driver/el1");
    const { startHypervisor } = await import("@smmuv3/arch-kvm-driver/el2");
    const el1 = await import("@smmuv3/arch-kvm-driver/bundles/el1.stats.json", { with: { type: "json" } });
    const el2 = await import("@smmuv3/arch-kvm-driver/bundles/el2.stats.json", { with: { type: "json" } });
    return { architecture, bootKernel, startHypervisor, el1Stats: stats(el1), el2Stats: stats(el2) };
  },
  "trap-emulate": async (): Promise<BuiltArchitecture> => {
    const { architecture } = await import("@smmuv3/arch-trap-emulate");
    const { bootKernel } = await import("@smmuv3/arch-trap-emulate/el1");
    const { startHypervisor } = await import("@smmuv3/arch-trap-emulate/el2");
    const el1 = await import("@smmuv3/arch-trap-emulate/bundles/el1.stats.json", { with: { type: "json" } });
    const el2 = await import("@smmuv3/arch-trap-emulate/bundles/el2.stats.json", { with: { type: "json" } });
    return { architecture, bootKernel, startHypervisor, el1Stats: stats(el1), el2Stats: stats(el2) };
  },
} as const;

/** EL2 of the designs that can translate by domains of EL2: another bundle. */
const PAGING = {
  "single-driver": async (): Promise<PagingHypervisor> => {
    const { startHypervisor } = await import("@smmuv3/arch-single-driver/el2-paging");
    const el2 = await import("@smmuv3/arch-single-driver/bundles/el2-paging.stats.json", { with: { type: "json" } });
    return { startHypervisor, el2Stats: stats(el2) };
  },
  "three-driver": async (): Promise<PagingHypervisor> => {
    const { startHypervisor } = await import("@smmuv3/arch-three-driver/el2-paging");
    const el2 = await import("@smmuv3/arch-three-driver/bundles/el2-paging.stats.json", { with: { type: "json" } });
    return { startHypervisor, el2Stats: stats(el2) };
  },
} as const;

type PagingHypervisor = Required<Pick<BuiltArchitecture, "startHypervisor" | "el2Stats">>;

export type ArchitectureName = keyof typeof LOADERS;
export const ARCHITECTURES: readonly ArchitectureName[] = Object.keys(LOADERS) as ArchitectureName[];

export function isArchitecture(name: string): name is ArchitectureName {
  return Object.hasOwn(LOADERS, name);
}

/** Loads the bundles of an architecture. */
export function loadArchitecture(name: ArchitectureName): Promise<BuiltArchitecture> {
  return LOADERS[name]();
}

/** True for a design that has a variant in which EL2 translates for the host. */
export function canPage(name: ArchitectureName): name is keyof typeof PAGING {
  return Object.hasOwn(PAGING, name);
}

/** Loads an architecture with the EL2 that translates for the host, where it has one. */
export async function loadPaging(name: ArchitectureName): Promise<BuiltArchitecture> {
  const built = await loadArchitecture(name);
  return canPage(name) ? { ...built, ...(await PAGING[name]()), paging: true } : built;
}

/** The EL2 without IOMMU support over which growth of the trusted base is measured. */
export async function loadBaseline(): Promise<BundleStats> {
  const el2 = await import("@smmuv3/arch-pkvm-unprotected/bundles/el2.stats.json", { with: { type: "json" } });
  return stats(el2);
}
