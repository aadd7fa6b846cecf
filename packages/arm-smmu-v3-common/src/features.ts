import { ERRNO } from "@smmuv3/platform";
import type { RegisterWindow } from "@smmuv3/platform";
import { ADDRESS_SIZES, extract, HTTU, OFFSET, REG, STALL_MODEL, TTENDIAN, TTF } from "@smmuv3/smmu-v3-defs";

/** What the ID registers say, IHI 0070 6.3.1 to 6.3.7, after errata. */
export interface SmmuFeatures {
  /** Bits of a StreamID and of a SubstreamID. */
  readonly sidBits: number;
  readonly ssidBits: number;
  /** Output address bits: 32 to 52. */
  readonly oas: number;
  /** Input address bits of stage 1: 48, or 52 with 64K granules. */
  readonly vaBits: number;
  /** Set of page and block sizes. */
  readonly pgsizeBitmap: number;
  readonly strtab2lvl: boolean;
  readonly cd2lvl: boolean;
  readonly s1: boolean;
  readonly s2: boolean;
  /** Tables may be of either endianness. */
  readonly ttMixed: boolean;
  /** Both stages, and no erratum against combining them. */
  readonly nesting: boolean;
  /** Range invalidation. */
  readonly ril: boolean;
  readonly sev: boolean;
  readonly msi: boolean;
  readonly stalls: boolean;
  /** Every stream stalls. */
  readonly stallForce: boolean;
  readonly attrTypesOvr: boolean;
  readonly attrPermsOvr: boolean;
  readonly asidBits: number;
  readonly vmidBits: number;
  /** log2 of the largest queues, in entries. */
  readonly cmdqLog2: number;
  readonly evtqLog2: number;
  readonly priqLog2: number;
  /** IDR0.COHACC; firmware may say otherwise. */
  readonly coherent: boolean;
  readonly hyp: boolean;
  readonly ats: boolean;
  readonly pri: boolean;
  readonly s2fwb: boolean;
  /** Hardware updates the access flag, the dirty state, and the access flag of tables. */
  readonly ha: boolean;
  readonly hd: boolean;
  readonly haft: boolean;
  /** Block sizes may be changed in place without conflict (BBML = 2). */
  readonly bbml2: boolean;
  /** 52-bit addresses with 4K and 16K granules. */
  readonly ds: boolean;
  /** Erratum: a list of 63 commands must end in a SYNC. */
  readonly forceSync: boolean;
  /** Erratum: an entry of a contiguous run stays in the TLB unless one range command covers the run. */
  readonly fullContRangeInv: boolean;
}

/** Why a device cannot be driven. */
export interface FeatureError {
  /** Negative errno. */
  readonly error: number;
  readonly reason: string;
}

const SIZES_4K = 0x4020_1000;
const SIZES_16K = 0x200_4000;
const SIZES_64K = 0x2001_0000;
const SIZE_4T = 2 ** 42;
/** Streams that one second-level table covers (SPLIT = 8): fewer need no second level. */
const MIN_2LVL_SID_BITS = 8;

/** IDR3.BBML. */
const BBML2 = 2;
/** JEP106 code of Arm. */
const ARM = 0x43b;

/** What an implementation gets wrong: a feature that is not used, or an option. */
export type Erratum = "sev" | "nesting" | "forceSync" | "fullContRangeInv";

export interface ErratumRow {
  /** IIDR.ProductID of an implementation by Arm. */
  readonly product: number;
  readonly name: string;
  /** Revisions rVpR that are affected: those with V up to `variant` and R up to `revision`. */
  readonly variant: number;
  readonly revision: number;
  readonly what: readonly Erratum[];
}

const ALL = 15;

/** Errata by IIDR. Broadcast TLB maintenance (BTM), which some implementations get wrong, is not used from any. */
export const ERRATA: readonly ErratumRow[] = [
  { product: 0x483, name: "MMU-600", variant: 0, revision: 2, what: ["sev"] },
  { product: 0x483, name: "MMU-600", variant: 1, revision: ALL, what: ["nesting"] },
  { product: 0x487, name: "MMU-700", variant: ALL, revision: ALL, what: ["fullContRangeInv"] },
  { product: 0x487, name: "MMU-700", variant: 0, revision: ALL, what: ["nesting", "forceSync"] },
  { product: 0x487, name: "MMU-700", variant: ALL, revision: 0, what: ["nesting", "forceSync"] },
  { product: 0x498, name: "MMU-S3", variant: 0, revision: ALL, what: ["fullContRangeInv"] },
  { product: 0x498, name: "MMU-S3", variant: 1, revision: 0, what: ["fullContRangeInv"] },
];

function errataOf(iidr: number): ReadonlySet<Erratum> {
  if (extract(iidr, REG.IIDR.Implementer) !== ARM) return new Set();
  const product = extract(iidr, REG.IIDR.ProductID);
  const variant = extract(iidr, REG.IIDR.Variant);
  const revision = extract(iidr, REG.IIDR.Revision);
  const rows = ERRATA.filter((row) => row.product === product && variant <= row.variant && revision <= row.revision);
  return new Set(rows.flatMap((row) => row.what));
}

function unsupported(idr0: number, idr1: number): string | undefined {
  const endian = extract(idr0, REG.IDR0.TTENDIAN);
  if (endian !== TTENDIAN.mixed && endian !== TTENDIAN.little) return "unknown or unsupported TTENDIAN";
  if (extract(idr0, REG.IDR0.S1P) === 0 && extract(idr0, REG.IDR0.S2P) === 0) return "no translation support";
  if ((extract(idr0, REG.IDR0.TTF) & TTF.vmsav8_64) === 0) return "AArch64 table format not supported";
  const preset = REG.IDR1;
  if (extract(idr1, preset.TABLES_PRESET) + extract(idr1, preset.QUEUES_PRESET) + extract(idr1, preset.REL) > 0) {
    return "embedded implementation not supported";
  }
  return undefined;
}

/**
 * Reads IDR0, IDR1, IDR3, IDR5 and IIDR.
 * @returns the features, or -ENXIO with its reason
 */
export function probeFeatures(window: RegisterWindow): SmmuFeatures | FeatureError {
  const idr0 = window.read32(OFFSET.IDR0);
  const idr1 = window.read32(OFFSET.IDR1);
  const idr3 = window.read32(OFFSET.IDR3);
  const idr5 = window.read32(OFFSET.IDR5);
  const errata = errataOf(window.read32(OFFSET.IIDR));
  const reason = unsupported(idr0, idr1);
  if (reason !== undefined) return { error: -ERRNO.ENXIO, reason };

  const { IDR0, IDR1, IDR3, IDR5 } = REG;
  const has0 = (field: typeof IDR0.S1P): boolean => extract(idr0, field) !== 0;
  // 56-bit output needs descriptors that the tables here do not have; reserved values give the least common size.
  const size = ADDRESS_SIZES[extract(idr5, IDR5.OAS)]!;
  const oas = size > 52 ? 48 : size;
  let pgsizeBitmap = oas === 52 ? SIZE_4T : 0;
  if (extract(idr5, IDR5.GRAN64K) !== 0) pgsizeBitmap += SIZES_64K;
  if (extract(idr5, IDR5.GRAN16K) !== 0) pgsizeBitmap += SIZES_16K;
  if (extract(idr5, IDR5.GRAN4K) !== 0) pgsizeBitmap += SIZES_4K;
  const sidBits = extract(idr1, IDR1.SIDSIZE);
  const stallModel = extract(idr0, IDR0.STALL_MODEL);
  const httu = extract(idr0, IDR0.HTTU);
  return {
    sidBits,
    ssidBits: extract(idr1, IDR1.SSIDSIZE),
    oas,
    vaBits: extract(idr5, IDR5.VAX) === 1 ? 52 : 48,
    pgsizeBitmap,
    strtab2lvl: extract(idr0, IDR0.ST_LEVEL) === 1 && sidBits > MIN_2LVL_SID_BITS,
    cd2lvl: has0(IDR0.CD2L),
    s1: has0(IDR0.S1P),
    s2: has0(IDR0.S2P),
    ttMixed: extract(idr0, IDR0.TTENDIAN) === TTENDIAN.mixed,
    nesting: has0(IDR0.S1P) && has0(IDR0.S2P) && !errata.has("nesting"),
    ril: extract(idr3, IDR3.RIL) !== 0,
    sev: has0(IDR0.SEV) && !errata.has("sev"),
    msi: has0(IDR0.MSI),
    stalls: stallModel === STALL_MODEL.both || stallModel === STALL_MODEL.forced,
    stallForce: stallModel === STALL_MODEL.forced,
    attrTypesOvr: extract(idr1, IDR1.ATTR_TYPES_OVR) !== 0,
    attrPermsOvr: extract(idr1, IDR1.ATTR_PERMS_OVR) !== 0,
    asidBits: has0(IDR0.ASID16) ? 16 : 8,
    vmidBits: has0(IDR0.VMID16) ? 16 : 8,
    cmdqLog2: extract(idr1, IDR1.CMDQS),
    evtqLog2: extract(idr1, IDR1.EVENTQS),
    priqLog2: extract(idr1, IDR1.PRIQS),
    coherent: has0(IDR0.COHACC),
    hyp: has0(IDR0.HYP),
    ats: has0(IDR0.ATS),
    pri: has0(IDR0.PRI),
    s2fwb: extract(idr3, IDR3.FWB) !== 0,
    ha: httu >= HTTU.access,
    hd: httu >= HTTU.dirty,
    haft: httu >= HTTU.table,
    bbml2: extract(idr3, IDR3.BBML) === BBML2,
    ds: extract(idr5, IDR5.DS) !== 0,
    forceSync: errata.has("forceSync"),
    fullContRangeInv: errata.has("fullContRangeInv"),
  };
}

/** What Shared Virtual Addressing needs to know of the CPUs. */
export interface CpuFeatures {
  /** Bytes of a page. */
  readonly pageSize: number;
  /** Bits of virtual addresses, of physical ones, and of ASIDs. */
  readonly vaBits: number;
  readonly paBits: number;
  readonly asidBits: number;
  /** The kernel changes block sizes in place; hardware sets the access flag of tables. */
  readonly bbml2: boolean;
  readonly haft: boolean;
}

const PAGE_64K = 0x1_0000;
const VA_LARGE = 52;

/**
 * Whether devices can use the page tables of processes: the SMMU has to walk them with everything that CPUs put there.
 * @param coherent the SMMU snoops caches, after firmware had its say
 */
export function supportsSva(features: SmmuFeatures, cpu: CpuFeatures, coherent: boolean): boolean {
  return (
    coherent &&
    (cpu.vaBits < VA_LARGE || (cpu.pageSize === PAGE_64K && features.vaBits === VA_LARGE)) &&
    (!cpu.bbml2 || features.bbml2) &&
    (!cpu.haft || features.haft) &&
    (!features.fullContRangeInv || features.ril) &&
    hasPageSize(features, cpu.pageSize) &&
    features.oas >= cpu.paBits &&
    features.asidBits >= cpu.asidBits
  );
}

function hasPageSize(features: SmmuFeatures, pageSize: number): boolean {
  return Math.floor(features.pgsizeBitmap / pageSize) % 2 === 1;
}

/** What of {@link featureMask} does not come from ID registers alone. */
export interface SystemFeatures {
  readonly coherent: boolean;
  /** CPUs run the kernel at EL2 (VHE). */
  readonly vhe: boolean;
  /** {@link supportsSva}. */
  readonly sva: boolean;
}

/** Features as kernel messages show them: a bit each. BTM, bit 16, is never used. */
const MASK: readonly (readonly [bit: number, has: (f: SmmuFeatures, system: SystemFeatures) => boolean])[] = [
  [0, (f) => f.strtab2lvl],
  [1, (f) => f.cd2lvl],
  [2, () => true],
  [3, (f) => f.ttMixed],
  [4, (f) => f.pri],
  [5, (f) => f.ats],
  [6, (f) => f.sev],
  [7, (f) => f.msi],
  [8, (_, { coherent }) => coherent],
  [9, (f) => f.s1],
  [10, (f) => f.s2],
  [11, (f) => f.stalls],
  [12, (f) => f.hyp],
  [13, (f) => f.stallForce],
  [14, (f) => f.vaBits === VA_LARGE],
  [15, (f) => f.ril],
  [17, (_, { sva }) => sva],
  [18, (f, { vhe }) => f.hyp && vhe],
  [19, (f) => f.nesting],
  [20, (f) => f.attrTypesOvr],
  [21, (f) => f.ha],
  [22, (f) => f.hd],
  [23, (f) => f.s2fwb],
  [24, (f) => f.bbml2],
  [25, (f) => f.haft],
  [26, (f) => f.ds],
];

/** The features as one number, `features 0x...` of kernel messages: for comparing logs. */
export function featureMask(features: SmmuFeatures, system: SystemFeatures): number {
  return MASK.reduce((mask, [bit, has]) => mask | (has(features, system) ? 1 << bit : 0), 0);
}
