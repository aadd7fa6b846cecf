import { ERRNO } from "@smmuv3/platform";
import { definedBits, getField, setField, STE, STE_CONFIG, STE_EATS } from "@smmuv3/smmu-v3-defs";
import { makeAbortSte, makeS2Ste } from "./ste.ts";
import type { Stage2, SteOptions } from "./ste.ts";

/** Words of an STE that a guest chooses: its first two quadwords. */
export const VSTE_WORDS = 4;

/** Fields of a virtual STE that a guest may set. */
const VSTE_MASK: Int32Array = /* @__PURE__ */ definedBits(
  {
    V: STE.V, Config: STE.Config, S1Fmt: STE.S1Fmt, S1ContextPtr: STE.S1ContextPtr, S1CDMax: STE.S1CDMax, S1DSS: STE.S1DSS,
    S1CIR: STE.S1CIR, S1COR: STE.S1COR, S1CSH: STE.S1CSH, S1STALLD: STE.S1STALLD, EATS: STE.EATS,
  },
  VSTE_WORDS,
);
/** S1ContextPtr of a virtual STE is 52 bits wide. */
const VSTE_PTR_HI = 0xf_ffff;

/** What {@link checkVste} found out. */
export interface Vste {
  /** STE_CONFIG: abort, bypass or s1. */
  readonly config: number;
  /** The guest wants ATS. */
  readonly ats: boolean;
}

/**
 * Checks the virtual STE of a guest, and takes out what is not the guest's to keep: EATS, and of an invalid STE everything.
 * @param vste four words, changed
 * @returns -EIO for what no guest may ask for
 */
export function checkVste(vste: Int32Array): Vste | number {
  if (getField(vste, 0, STE.V) === 0) {
    vste.fill(0);
    return { config: STE_CONFIG.abort, ats: false };
  }
  for (let i = 0; i < VSTE_WORDS; i++) if ((vste[i]! & ~VSTE_MASK[i]!) !== 0) return -ERRNO.EIO;
  if ((vste[1]! & STE.S1ContextPtr.hiMask & ~VSTE_PTR_HI) !== 0) return -ERRNO.EIO;
  const config = getField(vste, 0, STE.Config);
  if (config !== STE_CONFIG.abort && config !== STE_CONFIG.bypass && config !== STE_CONFIG.s1) return -ERRNO.EIO;
  const eats = getField(vste, 0, STE.EATS);
  if (eats !== STE_EATS.abort && eats !== STE_EATS.full) return -ERRNO.EIO;
  setField(vste, 0, STE.EATS, 0);
  return { config, ats: config === STE_CONFIG.s1 && eats === STE_EATS.full };
}

/**
 * The STE for a virtual STE that {@link checkVste} let pass: the guest's stage 1 over stage 2, stage 2 alone for its bypass, or
 * abort. Events of nested streams may be merged, since a guest can cause them at any rate.
 * @param options `ats`: as decided for the device, from the guest's wish
 */
export function makeNestedSte(
  ste: Int32Array, vste: Int32Array, s2: Stage2, options: SteOptions, s2fwb: boolean = false,
): void {
  const config = getField(vste, 0, STE.V) === 0 ? STE_CONFIG.abort : getField(vste, 0, STE.Config);
  if (config !== STE_CONFIG.s1 && config !== STE_CONFIG.bypass) {
    makeAbortSte(ste);
    return;
  }
  makeS2Ste(ste, s2, options, s2fwb);
  if (config === STE_CONFIG.bypass) return;
  for (let i = 0; i < VSTE_WORDS; i++) ste[i] = (i < 2 ? 0 : ste[i]!) | vste[i]!;
  setField(ste, 0, STE.Config, STE_CONFIG.nested);
  setField(ste, 0, STE.MEV, 1);
}
