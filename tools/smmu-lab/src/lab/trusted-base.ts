import type { BundleStats, BuiltArchitecture } from "./architectures.ts";

/** Growth of the code that runs at EL2 over the same EL2 without IOMMU support. */
export interface TrustedBase {
  /** Statements, non-blank non-comment lines, bytes and minified bytes of the EL2 bundle. */
  readonly statements: number;
  readonly lines: number;
  readonly bytes: number;
  readonly minifiedBytes: number;
  readonly growth: {
    readonly statements: number;
    readonly lines: number;
    readonly bytes: number;
    readonly minifiedBytes: number;
  };
  /** Packages in the EL2 bundle, with their lines in it. */
  readonly packages: Readonly<Record<string, number>>;
  /** Packages that are in both bundles: code that EL1 and EL2 share. */
  readonly shared: readonly string[];
  /** Packages that the EL2 without IOMMU support lacks; none: nothing there could isolate DMA. */
  readonly added: readonly string[];
}

/** Entry points of an architecture, which each has for itself. */
const COMPOSITION = "/arch-";

/** Undefined without an EL2. */
export function trustedBase(built: BuiltArchitecture, baseline: BundleStats): TrustedBase | undefined {
  const el2 = built.el2Stats;
  if (el2 === undefined) return undefined;
  const packages: Record<string, number> = {};
  for (const module of el2.modules) packages[module.package] = (packages[module.package] ?? 0) + module.lines;
  const el1 = packagesOf(built.el1Stats);
  const before = packagesOf(baseline);
  return {
    statements: el2.statements,
    lines: el2.lines,
    bytes: el2.bytes,
    minifiedBytes: el2.minifiedBytes,
    growth: {
      statements: el2.statements - baseline.statements,
      lines: el2.lines - baseline.lines,
      bytes: el2.bytes - baseline.bytes,
      minifiedBytes: el2.minifiedBytes - baseline.minifiedBytes,
    },
    packages,
    shared: Object.keys(packages).filter((name) => el1.has(name)),
    added: Object.keys(packages).filter((name) => !before.has(name) && !name.includes(COMPOSITION)),
  };
}

function packagesOf({ modules }: BundleStats): ReadonlySet<string> {
  return new Set(modules.map((module) => module.package));
}
