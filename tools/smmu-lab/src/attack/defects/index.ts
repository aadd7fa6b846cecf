import { EMULATION_DEFECTS } from "./emulation.ts";
import { HYP_DEFECTS } from "./hyp.ts";
import { PAGING_DEFECTS } from "./paging.ts";
import { SMMU_DEFECTS } from "./smmu.ts";
import type { SeededDefect } from "./types.ts";

export type { SeededDefect } from "./types.ts";

/** Every seeded defect. None is part of a bundle that is measured. */
export const SEEDED_DEFECTS: readonly SeededDefect[] = [...HYP_DEFECTS, ...PAGING_DEFECTS, ...SMMU_DEFECTS, ...EMULATION_DEFECTS];
