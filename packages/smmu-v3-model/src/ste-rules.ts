import { getField, STALL_MODEL, STE, STE_CONFIG, STE_EATS, STE_S1FMT, STE_WORDS, TTENDIAN, TTF } from "@smmuv3/smmu-v3-defs";
import type { Field } from "@smmuv3/smmu-v3-defs";
import { GRANULE, GRANULES } from "@smmuv3/vmsa-walk";
import type { Features } from "./presets.ts";

/** A STE under test. */
interface Subject {
  readonly words: Int32Array;
  readonly at: number;
  readonly features: Features;
  /** Stages that the STE uses. */
  readonly s1: boolean;
  readonly s2: boolean;
  /** Substreams are in use: STE.S1CDMax in effect is not 0. */
  readonly substreams: boolean;
  /** Format of the stage-2 tables, where they are used: VMSAv8-32 LPAE, and otherwise VMSAv8-64. */
  readonly lpae: boolean;
  /** STE.STRW has an effect (IgnoreSTESTRW of 5.2.2). */
  readonly strw: boolean;
}

/** One reason for which a STE is ILLEGAL. */
export interface SteRule {
  readonly name: string;
  /** Section of the manual. */
  readonly section: string;
  readonly illegal: (ste: Subject) => boolean;
}

function get(ste: Subject, field: Field<"STE">): number {
  return getField(ste.words, ste.at, field);
}

function has(ste: Subject, field: Field<"STE">): boolean {
  return get(ste, field) !== 0;
}

/** Some bit of `hi` at or above bit `bits` of the address is one; `mask` has the bits that the field holds. */
export function beyond(hi: number, mask: number, bits: number): boolean {
  return (hi & mask & ~(bits >= 64 ? -1 : (1 << (bits - 32)) - 1)) !== 0;
}

/** TTENDIAN against an ENDI bit. */
export function endiannessUnsupported(endi: number, ttEndian: number): boolean {
  return endi === 0 ? ttEndian === TTENDIAN.big : ttEndian === TTENDIAN.little;
}

/** Bits of addresses that the tables of one stage can output: all a table pointer can have (5.2 S2TTB, 5.4 TTB0). */
export function tableRange(outputBits: number, granule: number | undefined, ds: boolean): number {
  return ds || granule === GRANULE.K64 ? outputBits : Math.min(outputBits, 48);
}

/** High word of the address bits that a base pointer of VMSAv8-64 or LPAE tables has: [51:32], or [47:32] in SMMUv3.0. */
export function ttbHighMask(features: Features): number {
  return features.minor === 0 ? 0xffff : 0xf_ffff;
}

/** The largest TxSZ (5.2 S2T0SZ, 5.4 T0SZ). */
export function largestTxsz(granule: number | undefined, features: Features): number {
  if (!features.stt) return 39;
  return granule === GRANULE.K64 ? 47 : 48;
}

/** S2DS in effect: RES0 with 64K and without IDR5.DS. */
function usesDs(ste: Subject): boolean {
  return ste.features.ds && has(ste, STE.S2DS) && get(ste, STE.S2TG) !== GRANULE.K64;
}

/** Bits of the input range of LPAE stage 2: T0SZ is four bits with a sign (5.2 S2T0SZ). */
function lpaeInputBits(t0sz: number): number {
  return 32 - ((t0sz << 28) >> 28);
}

/** {S2SL0_2, S2SL0} to the start level; undefined where reserved, or where the SMMU has no such level (VTCR_EL2.SL0). */
function startLevel(ste: Subject): number | undefined {
  const sl0 = get(ste, STE.S2SL0);
  if (ste.lpae) return sl0 > 1 ? undefined : 2 - sl0;
  const ds = usesDs(ste);
  const { oasBits, stt } = ste.features;
  switch (get(ste, STE.S2TG)) {
    case GRANULE.K4:
      if (ds && has(ste, STE.S2SL0_2)) return sl0 === 0 ? -1 : undefined;
      if (sl0 === 3) return stt ? 3 : undefined;
      return sl0 === 2 && oasBits < 44 ? undefined : 2 - sl0;
    case GRANULE.K16:
      if (sl0 === 3) return ds ? 0 : undefined;
      return sl0 === 2 && oasBits < 42 ? undefined : 3 - sl0;
    default:
      return sl0 === 3 || (sl0 === 2 && oasBits < 44) ? undefined : 3 - sl0;
  }
}

function badStage2Size(ste: Subject): boolean {
  const t0sz = get(ste, STE.S2T0SZ);
  const tg = get(ste, STE.S2TG);
  const { features } = ste;
  const bound = tg === GRANULE.K64 || usesDs(ste) ? 12 : 16;
  const lower = Math.max(features.minor === 0 ? 0 : bound, 64 - features.iasBits);
  return t0sz > largestTxsz(tg, features) || t0sz < lower;
}

function inconsistentStart(ste: Subject): boolean {
  const granule = GRANULES[ste.lpae ? GRANULE.K4 : get(ste, STE.S2TG)];
  const level = startLevel(ste);
  if (granule === undefined || level === undefined) return true;
  const t0sz = get(ste, STE.S2T0SZ);
  const inputBits = ste.lpae ? lpaeInputBits(t0sz) : 64 - t0sz;
  // Up to 16 tables are concatenated at the start level.
  const startBits = inputBits - (granule.pageShift + (3 - level) * granule.stride);
  return startBits < 1 || startBits > granule.stride + 4;
}

/** Bits of the output of stage 2 (5.2 S2PS). */
function outputBits(ste: Subject): number {
  return ste.lpae ? 40 : effectiveSize(get(ste, STE.S2PS), ste.features);
}

function badStage2Table(ste: Subject): boolean {
  const bits = outputBits(ste);
  const range = ste.lpae ? bits : tableRange(bits, get(ste, STE.S2TG), usesDs(ste));
  return beyond(ste.words[ste.at + STE.S2TTB.word + 1]!, ttbHighMask(ste.features), range);
}

/** An overlay interpretation is reserved: nibbles 1 and 5 of S2POI. */
function badOverlay(ste: Subject): boolean {
  for (let bit = 0; bit < 64; bit += 4) {
    const nibble = (ste.words[ste.at + STE.S2POI.word + (bit >> 5)]! >>> (bit & 31)) & 15;
    if (nibble === 1 || nibble === 5) return true;
  }
  return false;
}

/** S2VMID tags translations (IgnoreSTES2VMID of 5.2.2). */
function usesVmid(ste: Subject): boolean {
  return ste.features.s2p && (ste.s1 || ste.s2) && !(ste.strw && has(ste, STE.STRW));
}

/** STE.VMSPtr is used: both stages, and stage 1 chooses the partition among more than one (5.2 VMSPtr, 5.6.1). */
export function usesVms(words: Int32Array, at: number, features: Features): boolean {
  return (
    features.mpam &&
    features.partidMax !== 0 &&
    getField(words, at, STE.Config) === STE_CONFIG.nested &&
    getField(words, at, STE.S1MPAM) === 1
  );
}

/** A field of a stage that is not used is IGNORED; every rule says itself what it depends on. In the order of 5.2.2. */
export const STE_RULES: readonly SteRule[] = [
  { name: "V = 0", section: "5.2.2", illegal: (ste) => !has(ste, STE.V) },
  { name: "stage 1 is not implemented", section: "5.2 Config", illegal: (ste) => ste.s1 && !ste.features.s1p },
  { name: "stage 2 is not implemented", section: "5.2 Config", illegal: (ste) => ste.s2 && !ste.features.s2p },
  {
    name: "EATS = split needs both stages, S2S = 0 and NS1ATS = 0",
    section: "5.2 EATS",
    illegal: (ste) =>
      ste.features.ats &&
      (ste.s1 || ste.s2) &&
      get(ste, STE.EATS) === STE_EATS.s1chk &&
      (!ste.s1 || !ste.s2 || has(ste, STE.S2S) || ste.features.ns1ats),
  },
  {
    name: "EATS = full with S2S",
    section: "5.2 EATS",
    illegal: (ste) => ste.features.ats && get(ste, STE.EATS) === STE_EATS.full && ste.s2 && has(ste, STE.S2S),
  },
  {
    name: "EATS = DPT with S2S",
    section: "5.2 EATS",
    illegal: (ste) =>
      ste.features.ats && ste.features.dpt && get(ste, STE.EATS) === STE_EATS.dpt && ste.s2 && has(ste, STE.S2S),
  },
  {
    name: "EATS = DPT outside of EL1",
    section: "5.2 EATS",
    illegal: (ste) =>
      ste.features.ats && ste.features.dpt && get(ste, STE.EATS) === STE_EATS.dpt && ste.strw && has(ste, STE.STRW),
  },
  { name: "STRW is reserved", section: "5.2 STRW", illegal: (ste) => ste.strw && (get(ste, STE.STRW) & 1) !== 0 },
  {
    name: "S1STALLD without the choice of stalling",
    section: "5.2 S1STALLD",
    illegal: (ste) => ste.s1 && has(ste, STE.S1STALLD) && ste.features.stallModel !== STALL_MODEL.both,
  },
  {
    name: "S1CDMax exceeds SSIDSIZE",
    section: "5.2 S1CDMax",
    illegal: (ste) => ste.s1 && ste.substreams && get(ste, STE.S1CDMax) > ste.features.ssidSize,
  },
  {
    name: "S1Fmt needs 2-level CD tables",
    section: "5.2 S1Fmt",
    illegal: (ste) => {
      const fmt = get(ste, STE.S1Fmt);
      // 0b11 is reserved and behaves as linear.
      return ste.s1 && ste.substreams && !ste.features.cd2l && (fmt === STE_S1FMT.l2_4k || fmt === STE_S1FMT.l2_64k);
    },
  },
  {
    name: "S1ContextPtr out of range",
    section: "3.4.3",
    // The CD is fetched from an IPA where stage 2 is used.
    illegal: (ste) =>
      ste.s1 &&
      beyond(
        ste.words[ste.at + STE.S1ContextPtr.word + 1]!,
        STE.S1ContextPtr.hiMask,
        ste.s2 ? ste.features.iasBits : ste.features.oasBits,
      ),
  },
  {
    name: "S2FWB with VMSAv8-32",
    section: "5.2 S2FWB",
    illegal: (ste) => ste.s2 && ste.lpae && ste.features.fwb && has(ste, STE.S2FWB),
  },
  {
    name: "S2S against STALL_MODEL",
    section: "5.2 S2S",
    illegal: (ste) =>
      ste.s2 && ste.features.stallModel === (has(ste, STE.S2S) ? STALL_MODEL.none : STALL_MODEL.forced),
  },
  {
    name: "S2AA64 does not match TTF",
    section: "5.2 S2AA64",
    // With D128, 0 is VMSAv9-128, which is not built.
    illegal: (ste) => ste.s2 && (ste.lpae ? ste.features.d128 || (ste.features.ttf & TTF.lpae) === 0 : (ste.features.ttf & TTF.vmsav8_64) === 0),
  },
  {
    name: "S2HA or S2HD without HTTU or with VMSAv8-32",
    section: "5.2 S2HA",
    illegal: (ste) => ste.s2 && (has(ste, STE.S2HA) || has(ste, STE.S2HD)) && (ste.lpae || ste.features.httu === 0),
  },
  {
    name: "S2HD where only access flags are updated",
    section: "5.2 S2HA",
    illegal: (ste) => ste.s2 && has(ste, STE.S2HD) && ste.features.httu === 1,
  },
  {
    name: "S2HAFT without S2HA",
    section: "5.2 S2HAFT",
    illegal: (ste) => ste.s2 && has(ste, STE.S2HAFT) && !has(ste, STE.S2HA) && ste.features.httu === 3,
  },
  {
    name: "S2TG is reserved or not supported",
    section: "5.2 S2TG",
    illegal: (ste) => ste.s2 && !ste.lpae && ste.features.granules[get(ste, STE.S2TG)] !== true,
  },
  { name: "S2TTB out of range", section: "5.2 S2TTB", illegal: (ste) => ste.s2 && badStage2Table(ste) },
  { name: "S2T0SZ out of range", section: "5.2 S2T0SZ", illegal: (ste) => ste.s2 && !ste.lpae && badStage2Size(ste) },
  { name: "S2T0SZ, S2SL0 and S2TG do not fit", section: "5.2 S2SL0", illegal: (ste) => ste.s2 && inconsistentStart(ste) },
  {
    name: "S2ENDI against TTENDIAN",
    section: "5.2 S2ENDI",
    illegal: (ste) => ste.s2 && endiannessUnsupported(get(ste, STE.S2ENDI), ste.features.ttEndian),
  },
  {
    name: "S2PIE with VMSAv8-32",
    section: "5.2.2",
    illegal: (ste) => ste.s2 && ste.lpae && ste.features.s2pi && has(ste, STE.S2PIE),
  },
  {
    name: "S2POE without S2PIE",
    section: "5.2 S2POE",
    illegal: (ste) => ste.s2 && ste.features.s2po && has(ste, STE.S2POE) && !has(ste, STE.S2PIE),
  },
  {
    name: "S2POE with page-based hardware attributes",
    section: "5.2 S2POE",
    illegal: (ste) =>
      ste.s2 &&
      ste.features.s2po &&
      ste.features.pbha &&
      has(ste, STE.S2POE) &&
      [STE.S2HWU59, STE.S2HWU60, STE.S2HWU61, STE.S2HWU62].some((field) => has(ste, field)),
  },
  {
    name: "S2POI is reserved",
    section: "5.2 S2POI",
    illegal: (ste) => ste.s2 && ste.features.s2po && has(ste, STE.S2POE) && badOverlay(ste),
  },
  {
    name: "S2VMID[15:8] without VMID16",
    section: "5.2 S2VMID",
    illegal: (ste) => usesVmid(ste) && (get(ste, STE.S2VMID) & ~ste.features.vmidMask) !== 0,
  },
  {
    name: "VMSPtr out of range",
    section: "5.2 VMSPtr",
    illegal: (ste) =>
      usesVms(ste.words, ste.at, ste.features) &&
      beyond(ste.words[ste.at + STE.VMSPtr.word + 1]!, STE.VMSPtr.hiMask, ste.features.oasBits),
  },
];

const SIZES: readonly number[] = [32, 36, 40, 42, 44, 48, 52, 56];

/** Bits of an IPS or S2PS in effect: the lesser of it and OAS. */
export function effectiveSize(encoded: number, features: Features): number {
  return Math.min(SIZES[encoded]!, features.oasBits);
}

/** Stage 2 of the STE is in use, with tables of VMSAv8-32 LPAE. */
export function usesLpaeStage2(words: Int32Array, at: number): boolean {
  return (getField(words, at, STE.Config) & 6) === 6 && getField(words, at, STE.S2AA64) === 0;
}

/** The first rule that makes the STE at `at` ILLEGAL, or undefined. */
export function findSteViolation(words: Int32Array, at: number, features: Features): SteRule | undefined {
  const config = getField(words, at, STE.Config);
  // Config 0xx terminates: nothing else of the STE is looked at (5.2).
  const valid = getField(words, at, STE.V) === 1;
  if (valid && config < STE_CONFIG.bypass) return undefined;
  const s1 = config === STE_CONFIG.s1 || config === STE_CONFIG.nested;
  const s2 = config === STE_CONFIG.s2 || config === STE_CONFIG.nested;
  const substreams = features.ssidSize > 0 && getField(words, at, STE.S1CDMax) > 0;
  const strw = features.s1p && features.hyp && config === STE_CONFIG.s1;
  const subject = { words, at, features, s1, s2, substreams, lpae: usesLpaeStage2(words, at), strw };
  return STE_RULES.find((rule) => rule.illegal(subject));
}

/** Words of a STE that rules look at in any case, besides 1 and 7. */
const SAME: readonly number[] = [0, 2, 4, 5, 6];
/** Bits [55:32] of an address, in word 1 S1ContextPtr and in word 7 S2TTB: the more of them are one, the less it is legal. */
const ADDRESS = 0x00ff_ffff;

/**
 * Checks STEs, remembering a legal one for each choice of stages: the rules depend on nothing but the bits compared here, in which
 * the streams of one driver agree. Of addresses it remembers all bits that were legal.
 */
export class SteChecker {
  readonly #features: Features;
  /** Which bits of words rules look at. */
  readonly #masks = new Int32Array(STE_WORDS);
  /** {@link STE_WORDS} for each Config[1:0]. */
  readonly #legal = new Int32Array(4 * STE_WORDS);
  /** A bit for each Config[1:0]: there is a legal STE. */
  #primed = 0;
  /** Rules look at words beyond 7, too. */
  readonly #long: boolean;

  constructor(features: Features) {
    this.#features = features;
    const masks = this.#masks;
    masks[0] = 0x3f;
    masks[2] = -1;
    masks[4] = ~features.vmidMask & 0xffff;
    masks[5] = -1;
    masks[6] = 0xf;
    this.#long = features.mpam || features.s2po;
  }

  /** True where the STE at `at` is not ILLEGAL. */
  check(words: Int32Array, at: number): boolean {
    const legal = this.#legal;
    const masks = this.#masks;
    const stages = (words[at]! >>> 1) & 3;
    const base = stages << 4;
    const changed =
      ((words[at]! ^ legal[base]!) & masks[0]!) |
      (words[at + 2]! ^ legal[base | 2]!) |
      ((words[at + 4]! ^ legal[base | 4]!) & masks[4]!) |
      (words[at + 5]! ^ legal[base | 5]!) |
      ((words[at + 6]! ^ legal[base | 6]!) & masks[6]!) |
      ((words[at + 1]! ^ legal[base | 1]!) & ~ADDRESS) |
      ((words[at + 7]! ^ legal[base | 7]!) & ~ADDRESS);
    const known = changed === 0 && ((this.#primed >>> stages) & 1) !== 0 && !this.#long;
    const more = ((words[at + 1]! & ~legal[base | 1]!) | (words[at + 7]! & ~legal[base | 7]!)) & ADDRESS;
    if (known && more === 0) return true;
    if (findSteViolation(words, at, this.#features) !== undefined) return false;
    for (const word of SAME) legal[base | word] = words[at + word]!;
    legal[base | 1] = words[at + 1]! | (known ? legal[base | 1]! : 0);
    legal[base | 7] = words[at + 7]! | (known ? legal[base | 7]! : 0);
    this.#primed |= 1 << stages;
    return true;
  }
}
