import { CD, definedBits, getField, maskOf, STE, STE_CONFIG, STE_EATS, STE_S1DSS, STE_WORDS } from "@smmuv3/smmu-v3-defs";
import type { AnyField } from "@smmuv3/smmu-v3-defs";

/** Which bits of an entry the SMMU looks at: fills `out`, 16 words. */
export type UsedBits = (entry: Int32Array, out: Int32Array) => void;

/** Which bits may change while the SMMU uses both entries, whatever the order: fills `out`, 16 words. */
export type SafeBits = (current: Int32Array, target: Int32Array, out: Int32Array) => void;

function maskWords(...fields: AnyField[]): Int32Array {
  return definedBits(Object.fromEntries(fields.map((field) => [field.name, field])), STE_WORDS);
}

function or(out: Int32Array, mask: Int32Array): void {
  for (let i = 0; i < STE_WORDS; i++) out[i] = out[i]! | mask[i]!;
}

const STE_V: Int32Array = /* @__PURE__ */ maskWords(STE.V);
const STE_V_CONFIG: Int32Array = /* @__PURE__ */ maskWords(STE.V, STE.Config);
const STE_S1: Int32Array = /* @__PURE__ */ maskWords(
  STE.S1Fmt, STE.S1ContextPtr, STE.S1CDMax,
  STE.S1DSS, STE.S1CIR, STE.S1COR, STE.S1CSH, STE.S1STALLD, STE.STRW, STE.EATS, STE.MEV, STE.INSTCFG,
  STE.S2VMID,
);
const STE_S2: Int32Array = /* @__PURE__ */ maskWords(
  STE.S2FWB, STE.EATS, STE.SHCFG, STE.MEV, STE.INSTCFG,
  STE.S2VMID, STE.S2T0SZ, STE.S2SL0, STE.S2IR0, STE.S2OR0, STE.S2SH0, STE.S2TG, STE.S2PS,
  STE.S2AA64, STE.S2ENDI, STE.S2PTW, STE.S2S, STE.S2R,
  STE.S2TTB,
);
const STE_SHCFG_ONLY: Int32Array = /* @__PURE__ */ maskWords(STE.SHCFG);
const CD_V: Int32Array = /* @__PURE__ */ maskWords(CD.V);
const CD_EPD0_UNUSED: Int32Array = /* @__PURE__ */ maskWords(CD.T0SZ, CD.TG0, CD.IR0, CD.OR0, CD.SH0, CD.TTB0);

const CONFIG_S1 = 1;
const CONFIG_S2 = 2;

/** Used bits of an STE, IHI 0070 5.2: of V = 0 only V; of the others those that Config brings into play. */
export const steUsed: UsedBits = (ste, out) => {
  if (getField(ste, 0, STE.V) === 0) {
    out.set(STE_V);
    return;
  }
  const config = getField(ste, 0, STE.Config);
  out.set(STE_V_CONFIG);
  if ((config & CONFIG_S1) !== 0) {
    or(out, STE_S1);
    if (getField(ste, 0, STE.S1DSS) === STE_S1DSS.bypass) or(out, STE_SHCFG_ONLY);
  }
  if ((config & CONFIG_S2) !== 0) or(out, STE_S2);
  if (config === STE_CONFIG.bypass) or(out, STE_SHCFG_ONLY);
};

/**
 * Bits of an STE that software may change at any time. MEV only merges events. EATS may go between abort and full, because
 * ATS is off at the device whenever it changes; not with S1CHK, and not with S2S, which together with ATS is illegal.
 */
export const steSafe: SafeBits = (current, target, out) => {
  out.fill(0);
  out[STE.MEV.word] = maskOf(STE.MEV);
  const blocked = (ste: Int32Array): boolean =>
    (getField(ste, 0, STE.EATS) & STE_EATS.s1chk) !== 0 || getField(ste, 0, STE.S2S) !== 0;
  if (!blocked(current) && !blocked(target)) {
    out[STE.EATS.word] = out[STE.EATS.word]! | (STE_EATS.full << STE.EATS.shift);
  }
};

/** Used bits of a CD, 5.4: of V = 0 only V; TTB0 and its attributes are not used where EPD0 disables them. */
export const cdUsed: UsedBits = (cd, out) => {
  if (getField(cd, 0, CD.V) === 0) {
    out.set(CD_V);
    return;
  }
  out.fill(-1);
  if (getField(cd, 0, CD.EPD0) === 0) return;
  for (let i = 0; i < STE_WORDS; i++) out[i] = out[i]! & ~CD_EPD0_UNUSED[i]!;
};
