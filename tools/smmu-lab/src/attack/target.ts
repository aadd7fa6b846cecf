import { readFile } from "node:fs/promises";
import type { BootKernel, StartHypervisor } from "@smmuv3/arch-common";
import { loadArchitecture } from "../lab/architectures.ts";
import type { ArchitectureName } from "../lab/architectures.ts";
import { applyDefect, DefectError, loadText } from "../lab/defects.ts";
import type { Defect } from "../lab/defects.ts";
import { withTwins } from "./twins.ts";

/** An architecture that has a hypervisor, and which of its hypervisors. */
export type TargetName =
  | "pkvm-unprotected"
  | "single-driver"
  | "single-driver-paging"
  | "three-driver"
  | "three-driver-paging"
  | "trap-emulate"
  | "kvm-driver";

interface Variant {
  readonly architecture: ArchitectureName;
  /** Bundle of EL2. */
  readonly el2: "el2" | "el2-paging";
}

const VARIANTS: Readonly<Record<TargetName, Variant>> = {
  "pkvm-unprotected": { architecture: "pkvm-unprotected", el2: "el2" },
  "single-driver": { architecture: "single-driver", el2: "el2" },
  "single-driver-paging": { architecture: "single-driver", el2: "el2-paging" },
  "three-driver": { architecture: "three-driver", el2: "el2" },
  "three-driver-paging": { architecture: "three-driver", el2: "el2-paging" },
  "trap-emulate": { architecture: "trap-emulate", el2: "el2" },
  "kvm-driver": { architecture: "kvm-driver", el2: "el2" },
};

export const TARGETS: readonly TargetName[] = Object.keys(VARIANTS) as TargetName[];

/** An architecture as the campaign runs it. */
export interface Target {
  readonly name: TargetName;
  readonly bootKernel: BootKernel;
  readonly startHypervisor: StartHypervisor;
  /** Names of the mistakes that were put into it. */
  readonly defects: readonly string[];
  /** Where EL2 tells of its locks; undefined: it runs in one piece only. */
  readonly hooks?: LockHooks;
}

/** Called by the twins of EL2's functions. */
export interface LockHooks {
  /** The CPU that asks holds the lock. */
  mine: (lock: object) => boolean;
  lock: (lock: object) => void;
  unlock: (lock: object) => void;
}

/** What the module of an EL2 exports. */
interface HypModule {
  readonly startHypervisor: StartHypervisor;
  /** Of one with twins. */
  readonly $hooks?: LockHooks;
}

/** Text of one level of a target as it was built. */
export function bundleText(name: TargetName, level: Defect["level"]): Promise<string> {
  const { architecture, el2 } = VARIANTS[name];
  return readFile(new URL(import.meta.resolve(`@smmuv3/arch-${architecture}/${level === "el2" ? el2 : level}`)), "utf8");
}

/** The target's bundles with `defects`, in memory. Throws DefectError when one does not fit. */
async function patched(name: TargetName, level: Defect["level"], defects: readonly Defect[]): Promise<string> {
  return defects.filter((defect) => defect.level === level).reduce(applyDefect, await bundleText(name, level));
}

/**
 * Loads a target with `defects`. Throws DefectError when one does not fit.
 * @param twins EL2 can be run step by step, see twins.ts
 */
export async function loadTarget(name: TargetName, defects: readonly Defect[] = [], twins: boolean = false): Promise<Target> {
  const { bootKernel } = await loadArchitecture(VARIANTS[name].architecture);
  const el1 = defects.some(({ level }) => level === "el1")
    ? ((await loadText(await patched(name, "el1", defects))) as { readonly bootKernel: BootKernel })
    : { bootKernel };
  const text = await patched(name, "el2", defects);
  return { ...hypTarget(name, (await loadText(twins ? withTwins(text) : text)) as HypModule), ...el1, defects: defects.map((defect) => defect.name) };
}

function hypTarget(name: TargetName, { startHypervisor, $hooks }: HypModule): Pick<Target, "name" | "startHypervisor" | "hooks"> {
  if (typeof startHypervisor !== "function") throw new DefectError(`${name}: its EL2 does not export startHypervisor`);
  return { name, startHypervisor, ...($hooks === undefined ? {} : { hooks: $hooks }) };
}
