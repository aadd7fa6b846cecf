import type { CacheSize } from "./config-cache.ts";
import type { SmmuPolicy } from "./policy.ts";
import { Tlb } from "./tlb.ts";
import { PolicyTlb } from "./tlb-policies.ts";
import { WitnessedTlb } from "./witness.ts";

/** Sizes of the caches; 0 entries keep nothing. */
export interface CacheProfile {
  readonly tlb: CacheSize;
  readonly stes: CacheSize;
  readonly cds: CacheSize;
  /** Table descriptors above the leaves; default: none are kept. Not for SMMUs with 52-bit addresses, or with a cache of 0 entries. */
  readonly walks?: CacheSize;
}

export type ProfileName = "lazy" | "eager" | "finite";

const unbounded: CacheSize = { entries: 1024, grows: true };
/** Keeps nothing. */
export const none: CacheSize = { entries: 0, grows: false };
const bounded: CacheSize = { entries: 4096, grows: false };

/**
 * Named profiles (IHI 0070 leaves caching open). A correct driver behaves alike under all of them: `lazy` keeps everything until
 * it is invalidated and so shows what is missing; `eager` keeps nothing; `finite` is of a real size and used for measuring.
 */
export const PROFILES: Readonly<Record<ProfileName, CacheProfile>> = {
  lazy: { tlb: unbounded, stes: unbounded, cds: unbounded, walks: unbounded },
  eager: { tlb: none, stes: none, cds: none },
  finite: { tlb: bounded, stes: bounded, cds: bounded },
};

/** The profile of a name, or the one given. Throws TypeError for a name that does not exist. */
export function chooseProfile(choice: ProfileName | CacheProfile): CacheProfile {
  if (typeof choice === "object") return choice;
  if (Object.hasOwn(PROFILES, choice)) return PROFILES[choice];
  throw new TypeError(`SmmuV3: profile must be one of ${Object.keys(PROFILES).join(", ")} or an object, got "${choice}"`);
}

/** One class for the common case: the look-up is the path of every translation. */
export function makeTlb(size: CacheSize, policy: SmmuPolicy, witnessed: boolean): Tlb {
  if (witnessed) return new WitnessedTlb(size, policy);
  return PolicyTlb.isNeeded(policy) ? new PolicyTlb(size, policy) : new Tlb(size);
}
