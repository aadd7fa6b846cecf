import { extract, getField, STALL_MODEL, STE, STE_CONFIG, STE_EATS, STE_S1FMT, STE_STRW, TTENDIAN, TTF } from "@smmuv3/smmu-v3-defs";
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

/** Bits [55:bits] of an address in the word pair at `word` are not all zero. */
function beyond(words: Int32Array, word: number, bits: number): boolean {
  return bits < 56 && (words[word + 1]! & 0x00ff_ffff & ~((1 << (bits - 32)) - 1)) !== 0;
}

/** TTENDIAN against an ENDI bit. */
export function endiannessUnsupported(endi: number, ttEndian: number): boolean {
  return endi === 0 ? ttEndian === TTENDIAN.big : ttEndian === TTENDIAN.little;
}

/**
 * Start level of stage 2 by S2TG and S2SL0; undefined where reserved. 4K counts down from 2 and has level 3 only with small
 * translation tables (5.2, STE.S2SL0).
 */
function startLevel(tg: number, sl0: number, stt: boolean): number | undefined {
  if (tg === GRANULE.K4) return sl0 === 3 ? (stt ? 3 : undefined) : 2 - sl0;
  return sl0 === 3 ? undefined : 3 - sl0;
}

/** Highest start level that the output size allows, VMSAv8-64: large tables need large physical addresses. */
function startLevelTooHigh(tg: number, level: number, oasBits: number): boolean {
  switch (tg) {
    case GRANULE.K4:
      return level === 0 && oasBits <= 42;
    case GRANULE.K16:
      return level === 0 || (level === 1 && oasBits <= 40);
    default:
      return level === 0 || (level === 1 && oasBits <= 42);
  }
}

function badStage2Size(ste: Subject): boolean {
  const t0sz = get(ste, STE.S2T0SZ);
  const tg = get(ste, STE.S2TG);
  const { stt, iasBits } = ste.features;
  const upper = stt ? (tg === GRANULE.K64 ? 47 : 48) : 39;
  const lower = Math.max(tg === GRANULE.K64 ? 12 : 16, 64 - iasBits);
  return t0sz > upper || t0sz < lower;
}

function inconsistentStart(ste: Subject): boolean {
  const tg = get(ste, STE.S2TG);
  const granule = GRANULES[tg];
  const level = startLevel(tg, get(ste, STE.S2SL0), ste.features.stt);
  if (granule === undefined || level === undefined || startLevelTooHigh(tg, level, ste.features.oasBits)) return true;
  const startBits = 64 - get(ste, STE.S2T0SZ) - (granule.pageShift + (3 - level) * granule.stride);
  return startBits < 1 || startBits > granule.stride + 4;
}

/** A field of a stage that is not used is IGNORED; every rule says itself what it depends on. In the order of 5.2.2. */
export const STE_RULES: readonly SteRule[] = [
  { name: "V = 0", section: "5.2.2", illegal: (ste) => get(ste, STE.V) === 0 },
  { name: "stage 1 is not implemented", section: "5.2 Config", illegal: (ste) => ste.s1 && !ste.features.s1p },
  { name: "stage 2 is not implemented", section: "5.2 Config", illegal: (ste) => ste.s2 && !ste.features.s2p },
  {
    name: "STRW is reserved or needs EL2",
    section: "5.2 STRW",
    illegal: (ste) => {
      const strw = get(ste, STE.STRW);
      // IGNORED unless stage 1 alone translates on an SMMU that has EL2 streams.
      if (!ste.features.s1p || !ste.features.hyp || ste.s2 || !ste.s1) return false;
      return strw !== STE_STRW.nsEl1 && strw !== STE_STRW.el2;
    },
  },
  {
    name: "EATS = split needs both stages and S2S = 0",
    section: "5.2 EATS",
    illegal: (ste) =>
      ste.features.ats &&
      get(ste, STE.EATS) === STE_EATS.s1chk &&
      (!(ste.s1 && ste.s2) || get(ste, STE.S2S) === 1),
  },
  {
    name: "EATS = full with S2S",
    section: "5.2 EATS",
    illegal: (ste) => ste.features.ats && get(ste, STE.EATS) === STE_EATS.full && ste.s2 && get(ste, STE.S2S) === 1,
  },
  {
    name: "S1STALLD without the choice of stalling",
    section: "5.2 S1STALLD",
    illegal: (ste) => ste.s1 && get(ste, STE.S1STALLD) === 1 && ste.features.stallModel !== STALL_MODEL.both,
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
      if (!ste.s1 || !ste.substreams) return false;
      const fmt = get(ste, STE.S1Fmt);
      return fmt !== STE_S1FMT.linear && (fmt > STE_S1FMT.l2_64k || !ste.features.cd2l);
    },
  },
  {
    name: "S1ContextPtr out of range",
    section: "3.4.3",
    // The CD is fetched from an IPA where stage 2 is used, whose range is stage 2's to check.
    illegal: (ste) => ste.s1 && beyond(ste.words, ste.at + STE.S1ContextPtr.word, ste.s2 ? ste.features.iasBits : ste.features.oasBits),
  },
  {
    name: "S2AA64 does not match TTF",
    section: "5.2 S2AA64",
    illegal: (ste) => ste.s2 && (ste.features.ttf & (get(ste, STE.S2AA64) === 1 ? TTF.vmsav8_64 : TTF.lpae)) === 0,
  },
  {
    name: "S2S against STALL_MODEL",
    section: "5.2 S2S",
    illegal: (ste) =>
      ste.s2 &&
      ((get(ste, STE.S2S) === 1 && ste.features.stallModel === STALL_MODEL.none) ||
        (get(ste, STE.S2S) === 0 && ste.features.stallModel === STALL_MODEL.forced)),
  },
  {
    name: "S2HA or S2HD beyond HTTU",
    section: "5.2 S2HA",
    illegal: (ste) =>
      ste.s2 &&
      ((get(ste, STE.S2HA) === 1 && ste.features.httu < 1) ||
        (get(ste, STE.S2HD) === 1 && (ste.features.httu < 2 || get(ste, STE.S2HA) === 0))),
  },
  {
    name: "S2TG is reserved or not supported",
    section: "5.2 S2TG",
    illegal: (ste) => ste.s2 && ste.features.granules[get(ste, STE.S2TG)] !== true,
  },
  { name: "S2T0SZ out of range", section: "5.2 S2T0SZ", illegal: (ste) => ste.s2 && badStage2Size(ste) },
  { name: "S2T0SZ, S2SL0 and S2TG do not fit", section: "5.2 S2SL0", illegal: (ste) => ste.s2 && inconsistentStart(ste) },
  {
    name: "S2TTB out of range",
    section: "5.2 S2TTB",
    illegal: (ste) =>
      ste.s2 && beyond(ste.words, ste.at + STE.S2TTB.word, effectiveSize(get(ste, STE.S2PS), ste.features)),
  },
  {
    name: "S2ENDI against TTENDIAN",
    section: "5.2 S2ENDI",
    illegal: (ste) => ste.s2 && endiannessUnsupported(get(ste, STE.S2ENDI), ste.features.ttEndian),
  },
  {
    name: "S2VMID[15:8] without VMID16",
    section: "5.2 S2VMID",
    illegal: (ste) => ste.s2 && (get(ste, STE.S2VMID) & ~ste.features.vmidMask) !== 0,
  },
];

const SIZES: readonly number[] = [32, 36, 40, 42, 44, 48, 52, 56];

/** Bits of an IPS or S2PS in effect: the lesser of it and OAS. */
export function effectiveSize(encoded: number, features: Features): number {
  return Math.min(SIZES[encoded]!, features.oasBits);
}

/** The first rule that makes the STE at `at` ILLEGAL, or undefined. */
export function findSteViolation(words: Int32Array, at: number, features: Features): SteRule | undefined {
  const config = getField(words, at, STE.Config);
  // Config 0xx terminates: nothing else of the STE is looked at (5.2).
  const valid = getField(words, at, STE.V) === 1;
  if (valid && config < STE_CONFIG.bypass) return undefined;
  const s1 = config === STE_CONFIG.s1 || config === STE_CONFIG.nested;
  const s2 = config === STE_CONFIG.s2 || config === STE_CONFIG.nested;
  const substreams = features.ssidSize > 0 && extract(words[at + STE.S1CDMax.word]!, STE.S1CDMax) > 0;
  const subject = { words, at, features, s1, s2, substreams };
  return STE_RULES.find((rule) => rule.illegal(subject));
}

/**
 * Checks STEs, remembering the last legal one: the rules depend on nothing but the words compared here, in which the streams of
 * one driver agree.
 */
export class SteChecker {
  readonly #features: Features;
  readonly #vmidMask: number;
  readonly #legal = new Int32Array(7).fill(-1);

  constructor(features: Features) {
    this.#features = features;
    this.#vmidMask = ~features.vmidMask & 0xffff;
  }

  /** True where the STE at `at` is not ILLEGAL. */
  check(words: Int32Array, at: number): boolean {
    const legal = this.#legal;
    const shape = words[at]! & 63;
    const vmid = words[at + 4]! & this.#vmidMask;
    if (
      legal[0] === shape &&
      legal[1] === words[at + 1] &&
      legal[2] === words[at + 2] &&
      legal[3] === vmid &&
      legal[4] === words[at + 5] &&
      legal[5] === words[at + 7] &&
      legal[6] === words[at + 6]! << 28
    ) {
      return true;
    }
    if (findSteViolation(words, at, this.#features) !== undefined) return false;
    legal[0] = shape;
    legal[1] = words[at + 1]!;
    legal[2] = words[at + 2]!;
    legal[3] = vmid;
    legal[4] = words[at + 5]!;
    legal[5] = words[at + 7]!;
    legal[6] = words[at + 6]! << 28;
    return true;
  }
}
