import { readFile } from "node:fs/promises";
import type { BootKernel, StartHypervisor } from "@smmuv3/arch-common";
import { loadArchitecture } from "./architectures.ts";
import type { ArchitectureName, BuiltArchitecture } from "./architectures.ts";

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

/** Runs the text of a self-contained bundle as a module. */
async function loadText(text: string): Promise<unknown> {
  const url = `data:text/javascript;base64,${Buffer.from(text).toString("base64")}`;
  // eslint-disable-next-line no-restricted-syntax -- the module is the bundle's own text
  return import(url);
}

/** An architecture whose bundles have `defects`. */
export async function loadDefective(name: ArchitectureName, defects: readonly Defect[]): Promise<BuiltArchitecture> {
  const built = await loadArchitecture(name);
  const patched = async (level: Defect["level"]): Promise<unknown> => {
    const mine = defects.filter((defect) => defect.level === level);
    if (mine.length === 0) return undefined;
    const path = new URL(import.meta.resolve(`@smmuv3/arch-${name}/${level}`));
    return loadText(mine.reduce(applyDefect, await readFile(path, "utf8")));
  };
  const el1 = (await patched("el1")) as { readonly bootKernel: BootKernel } | undefined;
  const el2 = (await patched("el2")) as { readonly startHypervisor: StartHypervisor } | undefined;
  return { ...built, ...el1, ...el2 };
}
