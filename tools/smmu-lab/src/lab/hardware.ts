import { maskOf, place, REG } from "@smmuv3/smmu-v3-defs";
import { PRESETS } from "@smmuv3/smmu-v3-model";
import type { IdRegisters } from "@smmuv3/smmu-v3-model";

/** An SMMU that a machine may have. */
export interface HardwarePreset {
  /** One line. */
  readonly title: string;
  readonly id: IdRegisters;
  /** It snoops the caches: IDR0.COHACC and the `dma-coherent` property. */
  readonly coherent: boolean;
}

const { qemuNested, qemuStage1, qemuStage2, mmu600, reference } = PRESETS;
const { IDR0, IDR1, IDR3, IIDR } = REG;
/** Variant and revision of the first MMU-600, whose stages must not be combined. */
const MMU600_R0P0: number = (mmu600.IIDR ?? 0) & ~(maskOf(IIDR.Variant) | maskOf(IIDR.Revision));

/** PASIDs, ATS and page requests besides what `nested` has. */
export const RICH: IdRegisters = {
  ...reference,
  IDR0: reference.IDR0 | place(IDR0.ATS, 1) | place(IDR0.PRI, 1),
  IDR1: reference.IDR1 | place(IDR1.PRIQS, 8),
};

export const HARDWARE_NAMES = ["nested", "s1-only", "s2-only", "no-ril", "non-coherent", "errata"] as const;
export type HardwareName = (typeof HARDWARE_NAMES)[number];

/** Hardware of `compare --hw`. */
export const HARDWARE: Readonly<Record<HardwareName, HardwarePreset>> = {
  nested: { title: "both stages, range invalidation, coherent", id: qemuNested, coherent: true },
  "s1-only": { title: "stage 1 only", id: qemuStage1, coherent: true },
  "s2-only": { title: "stage 2 only", id: qemuStage2, coherent: true },
  "no-ril": {
    title: "both stages, no range invalidation",
    id: { ...qemuNested, IDR3: qemuNested.IDR3 & ~maskOf(IDR3.RIL) },
    coherent: true,
  },
  "non-coherent": {
    title: "both stages; does not snoop the caches",
    id: { ...qemuNested, IDR0: qemuNested.IDR0 & ~maskOf(IDR0.COHACC) },
    coherent: false,
  },
  errata: { title: "MMU-600 r0p0: an erratum forbids combining the stages", id: { ...mmu600, IIDR: MMU600_R0P0 }, coherent: true },
};
