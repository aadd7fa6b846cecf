// Every kind of STE and CD that drivers install.
import { STE_S1DSS, STE_S1FMT } from "@smmuv3/smmu-v3-defs";
import {
  checkVste, clearCd, makeAbortSte, makeBypassSte, makeCdtableSte, makeNestedSte, makeS1Cd, makeS2Ste, makeSvaCd, VSTE_WORDS,
} from "../src/index.ts";
import type { CdTable, Stage1, Stage2, SteOptions, Sva } from "../src/index.ts";
import { make } from "./writer.ts";
import type { Entry } from "./writer.ts";

const OPTIONS: SteOptions = { attrTypesOvr: true };
const TABLE: CdTable = { pa: 0xdead_beef_0000 / 16, s1fmt: 0, s1cdmax: 0, s1dss: STE_S1DSS.ssid0, stallDisable: true };
const S2: Stage2 = { ttb: 0x1_2345_6000, vtcr: 0x5_3558, vmid: 7 };

export function s1(table: Partial<CdTable> = {}, options: Partial<SteOptions> = {}): Entry {
  return make((ste) => { makeCdtableSte(ste, { ...TABLE, ...table }, { ...OPTIONS, ...options }); });
}

export function s2(options: Partial<SteOptions> = {}, fwb: boolean = false, stage2: Partial<Stage2> = {}): Entry {
  return make((ste) => { makeS2Ste(ste, { ...S2, ...stage2 }, { ...OPTIONS, ...options }, fwb); });
}

/** A guest's STE, over stage 2, as its host installs it. */
export function nested(guest: Entry, fwb: boolean = false): Entry {
  const vste = guest.slice(0, VSTE_WORDS);
  const checked = checkVste(vste);
  if (typeof checked === "number") throw new Error(`checkVste: ${checked}`);
  return make((ste) => { makeNestedSte(ste, vste, S2, { ...OPTIONS, ats: checked.ats }, fwb); });
}

/** What a guest's driver writes; it sees neither overrides nor stalling. */
export function guest(s1dss: number, ats: boolean): Entry {
  return make((ste) => {
    makeCdtableSte(ste, { ...TABLE, pa: 0x4000_0000, s1dss, stallDisable: false }, { attrTypesOvr: false, ats });
  });
}

const { ssid0, bypass, terminate } = STE_S1DSS;

export const STES: Readonly<Record<string, Entry>> = {
  "abort": make(makeAbortSte),
  "bypass": make((ste) => { makeBypassSte(ste, true); }),
  "s1": s1(),
  "s1 ATS": s1({}, { ats: true }),
  "s1 stall": s1({}, { stall: true }),
  "s1 EL2": s1({ e2h: true }),
  "s1 PASIDs": s1({ pa: 0x5000_0000, s1fmt: STE_S1FMT.l2_64k, s1cdmax: 16 }),
  "identity PASIDs": s1({ pa: 0x5000_0000, s1fmt: STE_S1FMT.l2_64k, s1cdmax: 16, s1dss: bypass }),
  "identity PASIDs ATS": s1({ pa: 0x5000_0000, s1fmt: STE_S1FMT.l2_64k, s1cdmax: 16, s1dss: bypass }, { ats: true }),
  "blocked PASIDs": s1({ pa: 0x5000_0000, s1fmt: STE_S1FMT.l2_64k, s1cdmax: 16, s1dss: terminate }),
  "s1 as data": s1({}, { instcfgData: true }),
  "s2": s2(),
  "s2 VMID 0": s2({}, false, { vmid: 0 }),
  "s2 ATS": s2({ ats: true }),
  "s2 stall": s2({ stall: true }),
  "s2 FWB": s2({}, true),
  "s2 other": s2({}, false, { ttb: 0x7000_0000, vmid: 8 }),
  "nested": nested(guest(ssid0, false)),
  "nested ATS": nested(guest(ssid0, true)),
  "nested S1DSS bypass ATS": nested(guest(bypass, true)),
  "nested FWB": nested(guest(ssid0, false), true),
};

const TCR = { ips: 5, tg: 0, sh: 3, orgn: 1, irgn: 1, tsz: 16 };
const STAGE1: Stage1 = { ttb: 0x8765_4000, tcr: TCR, mairLo: 0x0444_ff44, mairHi: 0, asid: 778, stall: false, dirty: false };
const SVA: Sva = { asid: 778, ips: 5, mairLo: 0x0400_44ff, mairHi: 0, stall: true, stallForce: false, ha: false, hd: false, haft: false };
const MM = { ttb: 0x9000_0000, vaBits: 48, tg: 0 };

const cd = (change: Partial<Stage1> = {}): Entry => make((words) => { makeS1Cd(words, { ...STAGE1, ...change }); });
const sva = (mm: boolean, change: Partial<Sva> = {}): Entry =>
  make((words) => { makeSvaCd(words, { ...SVA, ...change }, mm ? MM : undefined); });

export const CDS: Readonly<Record<string, Entry>> = {
  "none": make(clearCd),
  "s1": cd(),
  "s1 other ASID": cd({ asid: 1997 }),
  "s1 other": cd({ asid: 1997, ttb: 0x6000_0000 }),
  "s1 stall": cd({ stall: true }),
  "s1 dirty": cd({ dirty: true }),
  "SVA": sva(true),
  "SVA released": sva(false),
  "SVA with HTTU": sva(true, { ha: true, hd: true, haft: true }),
  "SVA with HTTU released": sva(false, { ha: true, hd: true, haft: true }),
  "SVA forced": sva(true, { stallForce: true }),
  "SVA forced released": sva(false, { stallForce: true }),
};
