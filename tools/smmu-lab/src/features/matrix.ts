import { loadVariant } from "../lab/variants.ts";
import type { Variant } from "../lab/variants.ts";
import type { BuiltArchitecture } from "../lab/architectures.ts";
import { FEATURES } from "./index.ts";
import { absent } from "./feature.ts";
import type { Cell, Feature } from "./feature.ts";
import { Lab } from "./lab.ts";

/** One row of the matrix. */
export interface FeatureRow {
  readonly feature: Feature;
  /** By name of the variant. */
  readonly cells: ReadonlyMap<string, Cell>;
}

/** What is told to {@link probeFeatures}. */
export interface FeatureOptions {
  readonly variants: readonly Variant[];
  /** Default: all. */
  readonly features?: readonly Feature[];
  readonly onProgress?: (variant: string, done: number, total: number) => void;
}

/** Runs one probe. A probe that throws shows that the feature does not work. */
export async function probeFeature(feature: Feature, built: BuiltArchitecture): Promise<Cell> {
  try {
    return await feature.probe(new Lab(built));
  } catch (error) {
    return absent(`the probe ended early: ${error instanceof Error ? error.message : String(error)}`);
  }
}

/** Probes every feature on every variant. */
export async function probeFeatures({ variants, features = FEATURES, onProgress }: FeatureOptions): Promise<FeatureRow[]> {
  const rows = features.map((feature) => ({ feature, cells: new Map<string, Cell>() }));
  for (const variant of variants) {
    const built = await loadVariant(variant);
    for (const [done, { feature, cells }] of rows.entries()) {
      onProgress?.(variant.name, done, rows.length);
      cells.set(variant.name, await probeFeature(feature, built));
    }
  }
  return rows;
}
