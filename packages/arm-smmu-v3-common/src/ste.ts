import type { Vtcr } from "@smmuv3/io-pgtable-arm-common";
import {
  CACHEABILITY,
  getField,
  place,
  setAddress,
  setField,
  SHAREABILITY,
  STE,
  STE_CONFIG,
  STE_EATS,
  STE_INSTCFG,
  STE_S1DSS,
  STE_SHCFG,
  STE_STRW,
  STE_VTCR_MASK,
  STE_VTCR_WORD,
} from "@smmuv3/smmu-v3-defs";

/** Properties of the SMMU and of the stream that every translating STE carries. */
export interface SteOptions {
  /** IDR1.ATTR_TYPES_OVR: shareability of bypassed transactions must be chosen. */
  readonly attrTypesOvr: boolean;
  /** PCIe ATS. */
  readonly ats?: boolean;
  /** The stream stalls on faults. */
  readonly stall?: boolean;
  /** Instruction fetches are treated as data reads. */
  readonly instcfgData?: boolean;
}

export interface CdTable {
  /** Address of the table, 64-byte aligned. */
  readonly pa: number;
  /** STE_S1FMT. */
  readonly s1fmt: number;
  /** log2 of the number of CDs. */
  readonly s1cdmax: number;
  /** STE_S1DSS. */
  readonly s1dss: number;
  /** The SMMU has fault stalling, so a stream that must not stall says so. */
  readonly stallDisable: boolean;
  /** EL2 host streams (STRW). */
  readonly e2h?: boolean;
}

/** A stage-2 regime. */
export interface Stage2 {
  /** Address of the first table, as VTTBR.BADDR. */
  readonly ttb: number;
  /** VTCR_EL2 bits [18:0]: T0SZ, SL0, IRGN0, ORGN0, SH0, TG0, PS. See {@link vtcrBits}. */
  readonly vtcr: number;
  readonly vmid: number;
}

/** VTCR_EL2 bits [18:0] of the tables' configuration. */
export function vtcrBits(vtcr: Vtcr): number {
  return (
    place(STE.S2T0SZ, vtcr.tsz) |
    place(STE.S2SL0, vtcr.sl) |
    place(STE.S2IR0, vtcr.irgn) |
    place(STE.S2OR0, vtcr.orgn) |
    place(STE.S2SH0, vtcr.sh) |
    place(STE.S2TG, vtcr.tg) |
    place(STE.S2PS, vtcr.ps)
  );
}

function begin(ste: Int32Array, config: number): void {
  ste.fill(0);
  setField(ste, 0, STE.V, 1);
  setField(ste, 0, STE.Config, config);
}

/** Every transaction is terminated. `ste`: 16 words. */
export function makeAbortSte(ste: Int32Array): void {
  begin(ste, STE_CONFIG.abort);
}

/** Every transaction passes untranslated. */
export function makeBypassSte(ste: Int32Array, attrTypesOvr: boolean): void {
  begin(ste, STE_CONFIG.bypass);
  if (attrTypesOvr) setField(ste, 0, STE.SHCFG, STE_SHCFG.incoming);
}

/** Stage 1 through a table of Context Descriptors. */
export function makeCdtableSte(ste: Int32Array, table: CdTable, options: SteOptions): void {
  begin(ste, STE_CONFIG.s1);
  setField(ste, 0, STE.S1Fmt, table.s1fmt);
  setAddress(ste, 0, STE.S1ContextPtr, table.pa);
  setField(ste, 0, STE.S1CDMax, table.s1cdmax);
  setField(ste, 0, STE.S1DSS, table.s1dss);
  setField(ste, 0, STE.S1CIR, CACHEABILITY.writeBackReadAllocate);
  setField(ste, 0, STE.S1COR, CACHEABILITY.writeBackReadAllocate);
  setField(ste, 0, STE.S1CSH, SHAREABILITY.inner);
  if (table.stallDisable && options.stall !== true) setField(ste, 0, STE.S1STALLD, 1);
  if (table.e2h === true) setField(ste, 0, STE.STRW, STE_STRW.el2);
  if (options.ats === true) setField(ste, 0, STE.EATS, STE_EATS.full);
  if (options.instcfgData === true) setField(ste, 0, STE.INSTCFG, STE_INSTCFG.data);
  if (options.attrTypesOvr && table.s1dss === STE_S1DSS.bypass) setField(ste, 0, STE.SHCFG, STE_SHCFG.incoming);
}

/** The fields of stage 2 proper: words 4 to 7. Config is the caller's. */
export function setStage2(ste: Int32Array, s2: Stage2, stall: boolean): void {
  ste.fill(0, 4, 8);
  setField(ste, 0, STE.S2VMID, s2.vmid);
  ste[STE_VTCR_WORD] = s2.vtcr & STE_VTCR_MASK;
  setField(ste, 0, STE.S2AA64, 1);
  setField(ste, 0, STE.S2PTW, 1);
  setField(ste, 0, STE.S2R, 1);
  if (stall) setField(ste, 0, STE.S2S, 1);
  setAddress(ste, 0, STE.S2TTB, s2.ttb);
}

/** Stage 2 alone. */
export function makeS2Ste(ste: Int32Array, s2: Stage2, options: SteOptions, s2fwb: boolean = false): void {
  begin(ste, STE_CONFIG.s2);
  if (options.ats === true) setField(ste, 0, STE.EATS, STE_EATS.full);
  if (options.instcfgData === true) setField(ste, 0, STE.INSTCFG, STE_INSTCFG.data);
  if (s2fwb) setField(ste, 0, STE.S2FWB, 1);
  if (options.attrTypesOvr) setField(ste, 0, STE.SHCFG, STE_SHCFG.incoming);
  setStage2(ste, s2, options.stall === true);
}

const STAGE2_BIT = 2;

/**
 * Puts stage 2 below what a valid STE does: bypass becomes stage 2, stage 1 becomes nested; abort stays.
 * @returns false, with the STE unchanged, when it is invalid, has a stage 2 already or a reserved Config
 */
export function addStage2(ste: Int32Array, s2: Stage2): boolean {
  const config = getField(ste, 0, STE.Config);
  if (getField(ste, 0, STE.V) === 0) return false;
  if (config === STE_CONFIG.abort) return true;
  if (config !== STE_CONFIG.bypass && config !== STE_CONFIG.s1) return false;
  setField(ste, 0, STE.Config, config | STAGE2_BIT);
  setStage2(ste, s2, false);
  return true;
}
