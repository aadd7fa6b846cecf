import type { BootOptions, Translation } from "@smmuv3/arch-common";
import { ARCHITECTURES, canPage, isArchitecture, loadArchitecture, loadPaging } from "./architectures.ts";
import type { ArchitectureName, BuiltArchitecture } from "./architectures.ts";

/** An architecture as it is booted: with which EL2, and how the kernel is asked to translate. */
export interface Variant {
  /** `three-driver`, `three-driver/paging`: unique. */
  readonly name: string;
  readonly architecture: ArchitectureName;
  /** EL2 translates for the host, by hypercalls. */
  readonly paging: boolean;
  /** What the kernel is asked for; it gives the nearest that it has. */
  readonly translation: Translation;
}

/**
 * Which variants are compared. `identity`: the hypercall designs behind EL2's identity map. `paging`: these with EL2's domains. `both`:
 * those and these. `strict`: everything that translates, invalidating at once. `fq`: everything that translates, through the flush queue. `all`: every translation that each design has.
 */
export const DOMAINS = ["identity", "paging", "both", "strict", "fq", "all"] as const;
export type DomainChoice = (typeof DOMAINS)[number];

/** No EL2 code of it translates for the host, and no kernel code does. */
const IDENTITY_ONLY: ReadonlySet<ArchitectureName> = new Set(["kvm-driver"]);

function own(architecture: ArchitectureName): Variant {
  return { name: architecture, architecture, paging: false, translation: "strict" };
}

function paging(architecture: ArchitectureName): Variant {
  return { name: `${architecture}/paging`, architecture, paging: true, translation: "strict" };
}

/** With another translation than the design's own. */
function other(architecture: ArchitectureName, translation: "fq" | "identity"): Variant {
  return { name: `${architecture}/${translation}`, architecture, paging: canPage(architecture) && translation === "fq", translation };
}

function variantsOf(architecture: ArchitectureName, choice: DomainChoice): Variant[] {
  const fixed = IDENTITY_ONLY.has(architecture);
  const pages = canPage(architecture);
  switch (choice) {
    case "identity":
      return [own(architecture)];
    case "paging":
      return [pages ? paging(architecture) : own(architecture)];
    case "strict":
      return fixed ? [] : [pages ? paging(architecture) : own(architecture)];
    case "both":
      return [own(architecture), ...(pages ? [paging(architecture)] : [])];
    case "fq":
      return fixed ? [] : [other(architecture, "fq")];
    case "all":
      if (fixed) return [own(architecture)];
      return [own(architecture), pages ? paging(architecture) : other(architecture, "identity"), other(architecture, "fq")];
  }
}

/** Variants of `architectures` for a choice, each once, in their order. */
export function chooseVariants(architectures: readonly ArchitectureName[], choice: DomainChoice): readonly Variant[] {
  return [...new Set(architectures)].flatMap((architecture) => variantsOf(architecture, choice));
}

/** Every variant that there is, by name. */
export const VARIANTS: ReadonlyMap<string, Variant> = new Map(chooseVariants(ARCHITECTURES, "all").map((variant) => [variant.name, variant]));

/** Variants by name: `three-driver/paging`, or an architecture for all of its that `choice` has. Undefined for an unknown name. */
export function namedVariants(name: string, choice: DomainChoice): readonly Variant[] | undefined {
  if (isArchitecture(name)) return chooseVariants([name], choice);
  const variant = VARIANTS.get(name);
  return variant === undefined ? undefined : [variant];
}

/** `built`, whose kernel boots with the options of `variant`. */
export function asVariant(built: BuiltArchitecture, { translation, paging: pages }: Variant): BuiltArchitecture {
  const own: BootOptions = { translation, paging: pages };
  return { ...built, bootKernel: (cpu, firmware, options) => built.bootKernel(cpu, firmware, { ...own, ...options }) };
}

/** Loads the bundles of a variant. */
export async function loadVariant(variant: Variant): Promise<BuiltArchitecture> {
  return asVariant(await (variant.paging ? loadPaging : loadArchitecture)(variant.architecture), variant);
}
