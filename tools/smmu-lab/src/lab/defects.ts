import { readFile } from "node:fs/promises";
import type { BootKernel, StartHypervisor } from "@smmuv3/arch-common";
import { loadArchitecture } from "./architectures.ts";
import type { ArchitectureName, BuiltArchitecture } from "./architectures.ts";
import { asVariant, loadVariant } from "./variants.ts";
import type { Variant } from "./variants.ts";

/** A mistake put into a bundle before it runs. The measured bundle stays as it is. */
export interface Defect {
  readonly name: string;
  readonly level: "el1" | "el2";
  /** Text of the bundle that the mistake replaces; it must occur exactly once. */
  readonly find: string;
  readonly replace: string;
}

/** Thrown when a defect does not fit the bundle: it would prove nothing. */
export class DefectError extends Error {
  constructor(message: string) {
    super(message);
    this.name = "DefectError";
  }
}

/** `text` with the defect in it. Throws DefectError unless {@link Defect.find} occurs exactly once. */
export function applyDefect(text: string, { name, find, replace }: Defect): string {
  const occurrences = text.split(find).length - 1;
  if (occurrences !== 1) throw new DefectError(`defect ${name}: its text occurs ${occurrences} times in the bundle, expected once`);
  return text.replace(find, () => replace);
}

/** URL of a module with the text of a self-contained bundle. */
export function moduleUrl(text: string): string {
  return `data:text/javascript;base64,${Buffer.from(text).toString("base64")}`;
}

/** Runs the text of a self-contained bundle as a module. */
export async function loadText(text: string): Promise<unknown> {
  const url = moduleUrl(text);
  // eslint-disable-next-line no-restricted-syntax -- the module is the bundle's own text
  return import(url);
}

/** The entries of an architecture's bundles that have a defect, with it. */
async function patch(
  name: ArchitectureName, defects: readonly Defect[], el2Entry: string,
): Promise<Partial<Pick<BuiltArchitecture, "bootKernel" | "startHypervisor">>> {
  const patched = async (level: Defect["level"], entry: string): Promise<unknown> => {
    const mine = defects.filter((defect) => defect.level === level);
    if (mine.length === 0) return undefined;
    const path = new URL(import.meta.resolve(`@smmuv3/arch-${name}/${entry}`));
    return loadText(mine.reduce(applyDefect, await readFile(path, "utf8")));
  };
  const el1 = (await patched("el1", "el1")) as { readonly bootKernel: BootKernel } | undefined;
  const el2 = (await patched("el2", el2Entry)) as { readonly startHypervisor: StartHypervisor } | undefined;
  return { ...el1, ...el2 };
}

/** An architecture whose bundles have `defects`. */
export async function loadDefective(name: ArchitectureName, defects: readonly Defect[]): Promise<BuiltArchitecture> {
  return { ...(await loadArchitecture(name)), ...(await patch(name, defects, "el2")) };
}

/** A variant whose bundles have `defects`. */
export async function loadDefectiveVariant(variant: Variant, defects: readonly Defect[]): Promise<BuiltArchitecture> {
  const { architecture, paging } = variant;
  const built = await loadVariant(variant);
  const { bootKernel, startHypervisor } = await patch(architecture, defects, paging ? "el2-paging" : "el2");
  return {
    ...built,
    ...(bootKernel === undefined ? {} : { bootKernel: asVariant({ ...built, bootKernel }, variant).bootKernel }),
    ...(startHypervisor === undefined ? {} : { startHypervisor }),
  };
}
