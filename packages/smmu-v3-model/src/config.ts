import type { Memory } from "@smmuv3/platform";
import { CD_WORDS, EVENTS, getField, L1CD, L1CD_WORDS, L1STD, L1STD_WORDS, maskOf, OFFSET, REG, STE, STE_S1DSS, STE_S1FMT, STE_WORDS, STRTAB_FMT } from "@smmuv3/smmu-v3-defs";
import { PERM, WALK } from "@smmuv3/vmsa-walk";
import type { Stage2Walker } from "@smmuv3/vmsa-walk";
import type { ConfigCache } from "./config-cache.ts";
import type { Features } from "./presets.ts";
import type { RegisterFile } from "./registers.ts";

const { STRTAB_BASE, STRTAB_BASE_CFG } = REG;
// Of this module, for the compiler to see them as constants.
const BASE_OFFSET = OFFSET.STRTAB_BASE;
const CFG_OFFSET = OFFSET.STRTAB_BASE_CFG;
const { loMask: BASE_LO, hiMask: BASE_HI } = STRTAB_BASE.ADDR;
const { shift: LOG2_SHIFT, mask: LOG2_MASK } = STRTAB_BASE_CFG.LOG2SIZE;
const { shift: SPLIT_SHIFT, mask: SPLIT_MASK } = STRTAB_BASE_CFG.SPLIT;
const { shift: FMT_SHIFT, mask: FMT_MASK } = STRTAB_BASE_CFG.FMT;
const TWO_LEVEL = STRTAB_FMT.twoLevel;
const { loMask: L2_LO, hiMask: L2_HI } = L1STD.L2Ptr;
const SPAN_MASK = L1STD.Span.mask;
const { word: CD_POINTER, loMask: CD_LO, hiMask: CD_HI } = STE.S1ContextPtr;
const CDMAX_WORD = STE.S1CDMax.word;
const CDMAX_SHIFT = STE.S1CDMax.shift;
const DSS_WORD = STE.S1DSS.word;
const PTW_WORD = STE.S2PTW.word;
const PTW = maskOf(STE.S2PTW);
const READ = PERM.READ;
const READ_NORMAL = PERM.READ | PERM.NOT_DEVICE;
const { linear: LINEAR, l2_4k: L2_4K, l2_64k: L2_64K } = STE_S1FMT;

/** Outcome of a fetch that is not an event type: stage 2 refused the address of a CD; the walker has the details. */
export const STAGE2_FAULT = -1;

/** Outcome of {@link selectSubstream}: no CD is used. */
export const STAGE1_BYPASS = -1;

/**
 * Which CD a transaction uses (5.2 S1CDMax, S1DSS; 7.3.7, 7.3.9): its index, {@link STAGE1_BYPASS}, or minus the type of an event.
 * @param ssid substream, -1 without one
 * @param stage1 the STE uses stage 1
 */
export function selectSubstream(words: Int32Array, ste: number, ssid: number, stage1: boolean, features: Features): number {
  const cdMax = features.ssidSize === 0 ? 0 : words[ste + CDMAX_WORD]! >>> CDMAX_SHIFT;
  const dss = words[ste + DSS_WORD]! & 3;
  if (ssid >= 0) {
    if (!stage1 || cdMax === 0 || ssid >= 2 ** cdMax) return -EVENTS.C_BAD_SUBSTREAMID.type;
    // CD 0 belongs to the traffic without a SubstreamID.
    return ssid === 0 && dss === STE_S1DSS.ssid0 ? -EVENTS.F_STREAM_DISABLED.type : ssid;
  }
  if (!stage1 || (cdMax > 0 && dss === STE_S1DSS.bypass)) return STAGE1_BYPASS;
  return cdMax === 0 || dss === STE_S1DSS.ssid0 ? 0 : -EVENTS.F_STREAM_DISABLED.type;
}

/**
 * Called for every structure read: its name, the index of its first word in `Memory.words`, and how many words were read. For
 * those of CDs under stage 2 the fetcher has the IPA.
 */
export type ConfigTrace = (what: "L1STD" | "STE" | "L1CD" | "CD", index: number, words: number) => void;

/** Splits that exist are 6, 8 and 10; others behave as 6 (6.3.25). */
const OTHER_SPLIT = 6;

/**
 * Fetches STEs and CDs, through the configuration caches. Results are an index into the cache's `data`, in
 * {@link ConfigFetcher.at}; what was fetched is cached even where it is invalid (IHI 0070 4.3), a failed fetch is not.
 */
export class ConfigFetcher {
  /** Index of the structure found. */
  at = 0;
  /** Physical address of a failed fetch. */
  faultLo = 0;
  faultHi = 0;
  /** Input of stage 2 where that refused the address of a CD. */
  ipaLo = 0;
  ipaHi = 0;
  /** Status of stage 2 with {@link STAGE2_FAULT}, one of WALK. */
  walkStatus = 0;
  /** The STE or CD of the last call came out of its cache. */
  hit = false;
  trace: ConfigTrace | null = null;

  readonly #file: RegisterFile;
  readonly #memory: Memory;
  readonly #features: Features;
  readonly #stes: ConfigCache;
  readonly #cds: ConfigCache;
  readonly #stage2: Stage2Walker;
  /** Bits of a high word beyond OAS; pointers that have them abort where `abortsBeyond`, and else lose them (3.4.3). */
  readonly #beyondHi: number;
  readonly #abortsBeyond: boolean;
  /** What a fetch of a CD needs of stage 2. */
  #need: number = PERM.READ;

  constructor(
    file: RegisterFile,
    features: Features,
    memory: Memory,
    stes: ConfigCache,
    cds: ConfigCache,
    stage2: Stage2Walker,
    abortsBeyond: boolean = false,
  ) {
    this.#beyondHi = ~((1 << (features.oasBits - 32)) - 1);
    this.#abortsBeyond = abortsBeyond;
    this.#file = file;
    this.#features = features;
    this.#memory = memory;
    this.#stes = stes;
    this.#cds = cds;
    this.#stage2 = stage2;
  }

  /** Finds the STE of a stream. Returns 0 or the type of the event (5.2, 3.3.1). */
  ste(sid: number): number {
    const known = this.#stes.find(sid, -1);
    this.hit = known >= 0;
    if (known >= 0) {
      this.at = known;
      return 0;
    }
    const file = this.#file;
    const { sidSize, twoLevelStreams } = this.#features;
    const cfg = file.get(CFG_OFFSET);
    const asked = (cfg >>> LOG2_SHIFT) & LOG2_MASK;
    const log2 = asked < sidSize ? asked : sidSize;
    if (sid < 0 || (log2 < 32 && sid >>> log2 !== 0)) return EVENTS.C_BAD_STREAMID.type;
    const twoLevel = ((cfg >>> FMT_SHIFT) & FMT_MASK) === TWO_LEVEL && twoLevelStreams;
    let lo = file.get(BASE_OFFSET) & BASE_LO;
    let hi = file.high(BASE_OFFSET) & BASE_HI;
    let index = sid;
    if (twoLevel) {
      const requested = (cfg >>> SPLIT_SHIFT) & SPLIT_MASK;
      const split = requested === 8 || requested === 10 ? requested : OTHER_SPLIT;
      // The table is aligned to its size, at least 64 bytes (6.3.24).
      const first = this.#readPointed(alignTable(lo, (log2 > split ? log2 - split : 0) + 3), hi, (sid >>> split) * 8);
      if (first < 0) return EVENTS.F_STE_FETCH.type;
      if (this.trace !== null) this.trace("L1STD", first, L1STD_WORDS);
      const descriptor = this.#memory.words;
      const span = descriptor[first]! & SPAN_MASK;
      index = sid & ((1 << split) - 1);
      if (span === 0 || span > split + 1 || index >>> (span - 1) !== 0) return EVENTS.C_BAD_STREAMID.type;
      // L2Ptr is aligned to the size of its table (5.1).
      lo = alignTable(descriptor[first]! & L2_LO, 5 + span);
      hi = descriptor[first + 1]! & L2_HI;
    } else {
      lo = alignTable(lo, log2 + 6);
    }
    const source = this.#readPointed(lo, hi, index * 64);
    if (source < 0) return EVENTS.F_STE_FETCH.type;
    if (this.trace !== null) this.trace("STE", source, STE_WORDS);
    this.at = this.#keep(this.#stes, sid, -1, source);
    return 0;
  }

  /**
   * Finds the CD of a stream and substream. The stage-2 walker is set up for the stream if `nested`.
   * @param ssid substream, 0 where the stream has none
   * @param steWords,ste words of the STE and the index of its first
   * @returns 0, {@link STAGE2_FAULT} or the type of the event
   */
  cd(sid: number, ssid: number, steWords: Int32Array, ste: number, nested: boolean): number {
    const known = this.#cds.find(sid, ssid);
    this.hit = known >= 0;
    if (known >= 0) {
      this.at = known;
      return 0;
    }
    let lo = steWords[ste + CD_POINTER]! & CD_LO;
    let hi = steWords[ste + CD_POINTER + 1]! & CD_HI;
    const cdMax = this.#features.ssidSize === 0 ? 0 : steWords[ste + CDMAX_WORD]! >>> CDMAX_SHIFT;
    this.#need = (steWords[ste + PTW_WORD]! & PTW) === 0 ? READ : READ_NORMAL;
    const fmt = cdMax === 0 ? LINEAR : getField(steWords, ste, STE.S1Fmt);
    let index = ssid;
    if (fmt !== L2_4K && fmt !== L2_64K) {
      // A table is aligned to its size (5.2, S1ContextPtr); the reserved format behaves as linear.
      lo = alignTable(lo, cdMax + 6);
    } else {
      const leafBits = fmt === L2_4K ? 6 : 10;
      const first = this.#readCd(alignTable(lo, Math.max(cdMax - leafBits, 0) + 3), hi, (ssid >>> leafBits) * 8, nested);
      if (first < 0) return first === STAGE2_FAULT ? STAGE2_FAULT : EVENTS.F_CD_FETCH.type;
      this.trace?.("L1CD", first, L1CD_WORDS);
      const words = this.#memory.words;
      lo = words[first]! & L1CD.L2Ptr.loMask;
      hi = words[first + 1]! & L1CD.L2Ptr.hiMask;
      const limit = nested ? this.#features.iasBits : this.#features.oasBits;
      if (getField(words, first, L1CD.V) === 0 || (limit < 56 && hi >>> (limit - 32) !== 0)) {
        return EVENTS.C_BAD_SUBSTREAMID.type;
      }
      if (fmt === L2_64K) lo = alignTable(lo, 16);
      index = ssid & ((1 << leafBits) - 1);
    }
    const source = this.#readCd(lo, hi, index * 64, nested);
    if (source < 0) return source === STAGE2_FAULT ? STAGE2_FAULT : EVENTS.F_CD_FETCH.type;
    if (this.trace !== null) this.trace("CD", source, CD_WORDS);
    this.at = this.#keep(this.#cds, sid, ssid, source);
    return 0;
  }

  /** RECINVSID: a transaction with a bad StreamID is recorded (6.3.12). */
  get recordsBadStreams(): boolean {
    return (this.#file.get(OFFSET.CR2) & maskOf(REG.CR2.RECINVSID)) !== 0;
  }

  /** Copies a structure, which is aligned to its 16 words, into its cache. */
  #keep(cache: ConfigCache, sid: number, ssid: number, source: number): number {
    const at = cache.insert(sid, ssid);
    const words = this.#memory.words;
    const data = cache.data;
    // Written out: this is most of what a stream costs that no cache has.
    data[at] = words[source]!;
    data[at | 1] = words[source | 1]!;
    data[at | 2] = words[source | 2]!;
    data[at | 3] = words[source | 3]!;
    data[at | 4] = words[source | 4]!;
    data[at | 5] = words[source | 5]!;
    data[at | 6] = words[source | 6]!;
    data[at | 7] = words[source | 7]!;
    data[at | 8] = words[source | 8]!;
    data[at | 9] = words[source | 9]!;
    data[at | 10] = words[source | 10]!;
    data[at | 11] = words[source | 11]!;
    data[at | 12] = words[source | 12]!;
    data[at | 13] = words[source | 13]!;
    data[at | 14] = words[source | 14]!;
    data[at | 15] = words[source | 15]!;
    return at;
  }

  /**
   * Fetches the VMS of a STE that uses one (5.6.1). Returns 0 or the type of the event.
   * @param steWords,ste words of the STE and the index of its first
   */
  vms(steWords: Int32Array, ste: number): number {
    const lo = steWords[ste + STE.VMSPtr.word]! & STE.VMSPtr.loMask;
    const hi = steWords[ste + STE.VMSPtr.word + 1]! & STE.VMSPtr.hiMask;
    return this.#read(lo, hi, 0) < 0 ? EVENTS.F_VMS_FETCH.type : 0;
  }

  /** {@link #read} through a pointer of STRTAB_BASE or a L1STD, which may be beyond OAS (3.4.3). */
  #readPointed(lo: number, hi: number, offset: number): number {
    if ((hi & this.#beyondHi) !== 0 && this.#abortsBeyond) {
      this.faultLo = lo + offset;
      this.faultHi = hi;
      return -2;
    }
    return this.#read(lo, hi & ~this.#beyondHi, offset);
  }

  /** Index of the word at `base + offset`, or -2 for an external abort. */
  #read(lo: number, hi: number, offset: number): number {
    const low = (lo >>> 0) + offset;
    const carry = low >= 0x1_0000_0000 ? 1 : 0;
    const memory = this.#memory;
    const page = memory.pageOf(low | 0, hi + carry);
    if (page >= 0 && (memory.perm[page]! & 1) !== 0) return (page << 10) | ((low & 0xfff) >>> 2);
    this.faultLo = low | 0;
    this.faultHi = hi + carry;
    return -2;
  }

  /** The same through stage 2 where nested: {@link STAGE2_FAULT}, -2 for an abort. */
  #readCd(lo: number, hi: number, offset: number, nested: boolean): number {
    if (!nested) return this.#read(lo, hi, offset);
    const low = (lo >>> 0) + offset;
    const stage2 = this.#stage2;
    this.ipaLo = low | 0;
    this.ipaHi = hi + (low >= 0x1_0000_0000 ? 1 : 0);
    this.walkStatus = stage2.walk(this.ipaLo, this.ipaHi, this.#need);
    return this.walkStatus === WALK.OK ? this.#read(stage2.paLo, stage2.paHi, 0) : STAGE2_FAULT;
  }
}

/** `lo` aligned to 2^log2 bytes, but at least 64. */
function alignTable(lo: number, log2: number): number {
  return log2 >= 32 ? 0 : lo & -(1 << (log2 > 6 ? log2 : 6));
}
