import { addStage2, makeAbortSte, steUsed, STRTAB_L2_STES } from "@smmuv3/arm-smmu-v3-common";
import type { Stage2 } from "@smmuv3/arm-smmu-v3-common";
import type { HypCore } from "@smmuv3/pkvm-hyp";
import { ERRNO, join } from "@smmuv3/platform";
import {
  definedBits,
  extract,
  getAddress,
  getField,
  L1STD,
  L1STD_BYTES,
  L1STD_WORDS,
  maskOf,
  REG,
  setField,
  STE,
  STE_BYTES,
  STE_CONFIG,
  STE_SHCFG,
  STE_WORDS,
  STRTAB_FMT,
} from "@smmuv3/smmu-v3-defs";

import type { HypSmmu } from "./smmu.ts";

/**
 * Fields of the host's STE that reach the hardware; everything else is EL2's or zero. What is left out: EATS (translated
 * requests would skip stage 2), STRW (no EL2 streams), CONT (would spread one STE over its neighbours), MPAM and VMS (memory
 * that the SMMU would read), every field of stage 2.
 */
const HOST_FIELDS: Int32Array = /* @__PURE__ */ definedBits(
  {
    V: STE.V,
    Config: STE.Config,
    S1Fmt: STE.S1Fmt,
    S1ContextPtr: STE.S1ContextPtr,
    S1CDMax: STE.S1CDMax,
    S1DSS: STE.S1DSS,
    S1CIR: STE.S1CIR,
    S1COR: STE.S1COR,
    S1CSH: STE.S1CSH,
    S1STALLD: STE.S1STALLD,
    MEV: STE.MEV,
    PRIVCFG: STE.PRIVCFG,
    INSTCFG: STE.INSTCFG,
  },
  STE_WORDS,
);

/** Config values with this bit clear abort. */
const CONFIG_TRANSLATES = 4;

/**
 * What the hardware gets for the host's STE (in place, 16 words): invalid stays invalid, abort stays abort, bypass becomes the
 * identity map, stage 1 is nested on it. A stage 2 of the host's is what it would be on an SMMU without one: illegal, so
 * invalid.
 */
export function shadowSte(ste: Int32Array, stage2: Stage2): void {
  const config = getField(ste, 0, STE.Config);
  if (getField(ste, 0, STE.V) === 0) ste.fill(0);
  else if ((config & CONFIG_TRANSLATES) === 0) makeAbortSte(ste);
  else if (config === STE_CONFIG.bypass || config === STE_CONFIG.s1) {
    for (let i = 0; i < STE_WORDS; i++) ste[i] = ste[i]! & HOST_FIELDS[i]!;
    setField(ste, 0, STE.SHCFG, STE_SHCFG.incoming);
    addStage2(ste, stage2);
    // A host that changes an STE in steps leaves old fields in it for a while that the new Config does not use. As part of the
    // entry they would be one more thing to change, and make a hitless change one that is not.
    const used = new Int32Array(STE_WORDS);
    steUsed(ste, used);
    used[STE.PRIVCFG.word] = used[STE.PRIVCFG.word]! | maskOf(STE.PRIVCFG);
    for (let i = 0; i < STE_WORDS; i++) ste[i] = ste[i]! & used[i]!;
  } else ste.fill(0);
}

/** Errors that concern one stream leave it blocked; the others concern the SMMU. */
function timeoutOnly(status: number): number {
  return status === -ERRNO.ETIMEDOUT ? status : 0;
}

/** The host's stream table while its SMMUEN is 1. */
interface HostTable {
  readonly base: number;
  readonly bytes: number;
  readonly twoLevel: boolean;
  readonly split: number;
  readonly log2size: number;
}

/**
 * Copies the host's stream table into EL2's, STE by STE, whenever the host says that one changed. The host's first level (or
 * linear table) stays pinned while it is in use; second levels are pinned for the time of a copy. Each descriptor and STE is
 * read once. What cannot be read or has no place stays blocked.
 */
export class ShadowStrtab {
  /** STEs copied so far. */
  copies = 0;
  readonly #core: HypCore;
  readonly #smmu: HypSmmu;
  readonly #stage2: Stage2;
  readonly #ste: Int32Array = new Int32Array(STE_WORDS);
  readonly #desc: Int32Array = new Int32Array(L1STD_WORDS);
  #table: HostTable | undefined = undefined;

  constructor(core: HypCore, smmu: HypSmmu, stage2: Stage2) {
    this.#core = core;
    this.#smmu = smmu;
    this.#stage2 = stage2;
  }

  /**
   * The host enabled its SMMU with these STRTAB_BASE and STRTAB_BASE_CFG. A table that is not the host's memory cannot be read:
   * its streams stay blocked, as they would with an SMMU that gets an abort.
   */
  enable(baseLo: number, baseHi: number, cfg: number): number {
    const { STRTAB_BASE, STRTAB_BASE_CFG } = REG;
    const twoLevel = extract(cfg, STRTAB_BASE_CFG.FMT) === STRTAB_FMT.twoLevel && this.#smmu.geometry.twoLevel;
    const split = extract(cfg, STRTAB_BASE_CFG.SPLIT);
    const log2size = Math.min(extract(cfg, STRTAB_BASE_CFG.LOG2SIZE), this.#smmu.geometry.log2size);
    const bytes = twoLevel ? L1STD_BYTES * 2 ** Math.max(log2size - split, 0) : STE_BYTES * 2 ** log2size;
    const address = join(baseLo & STRTAB_BASE.ADDR.loMask, baseHi & STRTAB_BASE.ADDR.hiMask);
    // The SMMU takes the bits below the table's size as zero (6.3.24).
    const base = address - (address % Math.max(bytes, STE_BYTES));
    const legalSplit = split === 6 || split === 8 || split === 10;
    if ((!twoLevel || legalSplit) && this.#core.pinLent(base, bytes) === 0) {
      this.#table = { base, bytes, twoLevel, split, log2size };
      const status = this.updateRange(0, 2 ** log2size);
      if (status < 0) return status;
    }
    this.#smmu.lock.lock(this.#core.cpu);
    const status = this.#smmu.invalidateAll(true);
    this.#smmu.lock.unlock(this.#core.cpu);
    return status;
  }

  /** The host disabled its SMMU: everything is blocked. */
  disable(): number {
    if (this.#table !== undefined) this.#core.unpin(this.#table.base, this.#table.bytes);
    this.#table = undefined;
    this.#smmu.lock.lock(this.#core.cpu);
    const status = this.#smmu.blockAll();
    this.#smmu.lock.unlock(this.#core.cpu);
    return status;
  }

  /** CMD_CFGI_STE: `leaf` 0 means that the level-1 descriptor may have changed as well. */
  update(sid: number, leaf: boolean): number {
    const table = this.#table;
    if (table === undefined || sid >= 2 ** table.log2size) return 0;
    const { geometry } = this.#smmu;
    const whole = geometry.twoLevel && (!leaf || this.#smmu.steAddress(sid) < 0);
    if (whole) return this.updateRange(sid - (sid % STRTAB_L2_STES), STRTAB_L2_STES);
    return timeoutOnly(this.#copy(sid));
  }

  /** CMD_CFGI_STE_RANGE: `count` streams from `first`, or as many of them as there are. */
  updateRange(first: number, count: number): number {
    const table = this.#table;
    if (table === undefined) return 0;
    const end = Math.min(first + count, 2 ** table.log2size);
    for (let sid = first; sid < end; ) {
      const status = this.#exists(sid) ? this.#copy(sid) : -ERRNO.ENOENT;
      if (timeoutOnly(status) < 0) return status;
      // Neither side has a table for the rest of the span, or there is no memory for one.
      sid += status < 0 ? this.#span - (sid % this.#span) : 1;
    }
    return 0;
  }

  /** Streams that share a second-level table on both sides. */
  get #span(): number {
    const { twoLevel, split } = this.#table ?? { twoLevel: false, split: 0 };
    return Math.min(twoLevel ? 2 ** split : STRTAB_L2_STES, STRTAB_L2_STES);
  }

  #exists(sid: number): boolean {
    return this.#smmu.steAddress(sid) >= 0 || this.#hostSte(sid) >= 0;
  }

  /** Brings the hardware's STE of `sid` in line with the host's. 0, -ENOMEM (it stays blocked), or -ETIMEDOUT. */
  #copy(sid: number): number {
    const ste = this.#ste;
    this.copies++;
    this.#readHost(sid);
    shadowSte(ste, this.#stage2);
    // A new table starts with abort STEs: no need for one to hold another.
    const abort = getField(ste, 0, STE.V) === 1 && (getField(ste, 0, STE.Config) & CONFIG_TRANSLATES) === 0;
    if (abort && this.#smmu.steAddress(sid) < 0) return 0;
    this.#smmu.lock.lock(this.#core.cpu);
    const status = this.#smmu.writeSte(sid, ste);
    this.#smmu.lock.unlock(this.#core.cpu);
    return status;
  }

  /** The host's STE, once; an abort STE when it cannot be read. */
  #readHost(sid: number): void {
    const pa = this.#hostSte(sid);
    if (pa < 0 || this.#core.pinLent(pa, STE_BYTES) < 0) {
      makeAbortSte(this.#ste);
      return;
    }
    this.#core.cpu.memory.read(pa, this.#ste);
    this.#core.unpin(pa, STE_BYTES);
  }

  /** Address of the host's STE of `sid`, -1 when its tables have none. */
  #hostSte(sid: number): number {
    const table = this.#table;
    if (table === undefined) return -1;
    if (!table.twoLevel) return table.base + sid * STE_BYTES;
    const desc = this.#desc;
    this.#core.cpu.memory.read(table.base + Math.floor(sid / 2 ** table.split) * L1STD_BYTES, desc);
    const span = getField(desc, 0, L1STD.Span);
    const index = sid % 2 ** table.split;
    if (span === 0 || span > table.split + 1 || index >= 2 ** (span - 1)) return -1;
    const pointer = getAddress(desc, 0, L1STD.L2Ptr);
    return pointer - (pointer % (STE_BYTES * 2 ** (span - 1))) + index * STE_BYTES;
  }
}
