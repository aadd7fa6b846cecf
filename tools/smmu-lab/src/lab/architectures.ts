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
}

interface JsonModule {
  readonly default: unknown;
}

function stats(module: JsonModule): BundleStats {
  return module.default as BundleStats;
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

export type ArchitectureName = keyof typeof LOADERS;
export const ARCHITECTURES: readonly ArchitectureName[] = Object.keys(LOADERS) as ArchitectureName[];

export function isArchitecture(name: string): name is ArchitectureName {
  return Object.hasOwn(LOADERS, name);
}

/** Loads the bundles of an architecture. */
export function loadArchitecture(name: ArchitectureName): Promise<BuiltArchitecture> {
  return LOADERS[name]();
}

/** The EL2 without IOMMU support over which growth of the trusted base is measured. */
export async function loadBaseline(): Promise<BundleStats> {
  const el2 = await import("@smmuv3/arch-pkvm-unprotected/bundles/el2.stats.json", { with: { type: "json" } });
  return stats(el2);
}
