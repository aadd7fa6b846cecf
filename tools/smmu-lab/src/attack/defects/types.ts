import type { Defect } from "../../lab/defects.ts";
import type { TargetName } from "../target.ts";

/** A mistake that the campaign has to find. */
export interface SeededDefect extends Defect {
  /** Where it fits. */
  readonly architectures: readonly TargetName[];
  /** What it is: a hole of a posted revision, a race, or a check that is missing. */
  readonly about: string;
  /** `sequence`: operations find it; `schedule`: it takes several CPUs. */
  readonly needs: "sequence" | "schedule";
}

/** Designs in which the host asks by hypercall. */
export const HYPERCALL: readonly TargetName[] = ["single-driver", "single-driver-paging", "three-driver", "three-driver-paging", "kvm-driver"];
/** Those of them in which EL2 pages for the host. */
export const PAGING: readonly TargetName[] = ["single-driver-paging", "three-driver-paging"];
export const EMULATION: readonly TargetName[] = ["trap-emulate"];
/** Every design that protects DMA. */
export const PROTECTED: readonly TargetName[] = [...HYPERCALL, ...EMULATION];

/** A mistake at EL2 that operations find. */
export function defect(
  architectures: readonly TargetName[], name: string, about: string, find: string, replace: string, needs: SeededDefect["needs"] = "sequence",
): SeededDefect {
  return { name, level: "el2", architectures, about, find, replace, needs };
}
