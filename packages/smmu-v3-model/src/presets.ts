import { ADDRESS_SIZES, bits, REG, S_REG } from "@smmuv3/smmu-v3-defs";
import type { Field } from "@smmuv3/smmu-v3-defs";
import { GRANULE } from "@smmuv3/vmsa-walk";

/** Values of the identification registers, IHI 0070 6.3.1 and following. Registers left out read 0. */
export interface IdRegisters {
  readonly IDR0: number;
  readonly IDR1: number;
  readonly IDR2?: number;
  readonly IDR3: number;
  readonly IDR4?: number;
  readonly IDR5: number;
  readonly IDR6?: number;
  readonly IIDR?: number;
  readonly AIDR?: number;
  readonly MPAMIDR?: number;
  /** Secure state exists where S_IDR1.SECURE_IMPL is 1. */
  readonly S_IDR0?: number;
  readonly S_IDR1?: number;
  readonly S_IDR2?: number;
  readonly S_IDR3?: number;
  readonly S_IDR4?: number;
  /** PIDR0..PIDR7. */
  readonly peripheral?: readonly number[];
}

function compose(fields: readonly (readonly [Field, number])[]): number {
  return fields.reduce((word, [field, value]) => {
    if (value < 0 || value > field.mask >>> 0) throw new RangeError(`${field.of}.${field.name}: ${value} does not fit`);
    return word | (value << field.shift);
  }, 0);
}

const { IDR0, IDR1, IDR3, IDR5 } = REG;

/**
 * Everything that this model implements: both stages, EL2 streams, all granules, substreams with 2-level tables, MSIs, range
 * invalidation, attribute overrides. SMMUv3.1.
 */
const reference: IdRegisters = {
  IDR0: compose([
    [IDR0.S2P, 1], [IDR0.S1P, 1], [IDR0.TTF, 2], [IDR0.COHACC, 1], [IDR0.HYP, 1], [IDR0.ASID16, 1], [IDR0.MSI, 1],
    [IDR0.SEV, 1], [IDR0.VMW, 1], [IDR0.VMID16, 1], [IDR0.CD2L, 1], [IDR0.TTENDIAN, 2], [IDR0.STALL_MODEL, 1],
    [IDR0.ST_LEVEL, 1],
  ]),
  IDR1: compose([
    [IDR1.SIDSIZE, 16], [IDR1.SSIDSIZE, 20], [IDR1.EVENTQS, 19], [IDR1.CMDQS, 19], [IDR1.ATTR_PERMS_OVR, 1],
    [IDR1.ATTR_TYPES_OVR, 1],
  ]),
  IDR3: compose([[IDR3.HAD, 1], [IDR3.XNX, 1], [IDR3.RIL, 1], [IDR3.BBML, 2]]),
  IDR5: compose([[IDR5.OAS, 5], [IDR5.GRAN4K, 1], [IDR5.GRAN16K, 1], [IDR5.GRAN64K, 1]]),
  AIDR: 1,
};

/** The Fixed Virtual Platform's SMMUv3AEM as it comes; IDR3 and IDR5 are a choice. Wired and message-signalled interrupts, ATOS, PRI. */
const fvpAem: IdRegisters = {
  IDR0: 0x080f_e6bf, IDR1: 0x0e73_9d20, IDR3: 0x003c, IDR5: 0x0040_0075, AIDR: 1, S_IDR0: 0x2000, S_IDR1: 0x8000_0020,
};

/** An MMU-600 r0p2 (v3.1): the reset values that the Agilex 5 documentation prints. */
const mmu600: IdRegisters = {
  IDR0: 0x080f_7e3f, IDR1: 0x0e73_9d18, IDR3: 0x003c, IDR5: 0x0040_0075, IIDR: 0x4832_243b, AIDR: 1,
  S_IDR0: 0x2000, S_IDR1: 0x8000_0018,
};

const twoStage: readonly (readonly [Field, number])[] = [
  [IDR0.S2P, 1], [IDR0.S1P, 1], [IDR0.TTF, 2], [IDR0.COHACC, 1], [IDR0.BTM, 1], [IDR0.HTTU, 2], [IDR0.HYP, 1], [IDR0.ATS, 1],
  [IDR0.ASID16, 1], [IDR0.MSI, 1], [IDR0.SEV, 1], [IDR0.PRI, 1], [IDR0.VMW, 1], [IDR0.VMID16, 1], [IDR0.CD2L, 1],
  [IDR0.ATSRECERR, 1], [IDR0.ST_LEVEL, 1],
];
const largeQueues: readonly (readonly [Field, number])[] = [
  [IDR1.SIDSIZE, 32], [IDR1.SSIDSIZE, 20], [IDR1.PRIQS, 19], [IDR1.EVENTQS, 19], [IDR1.CMDQS, 19], [IDR1.ATTR_PERMS_OVR, 1],
  [IDR1.ATTR_TYPES_OVR, 1],
];
const since32: readonly (readonly [Field, number])[] = [
  [IDR3.HAD, 1], [IDR3.PBHA, 1], [IDR3.XNX, 1], [IDR3.PPS, 1], [IDR3.MPAM, 1], [IDR3.FWB, 1], [IDR3.STT, 1], [IDR3.RIL, 1],
  [IDR3.BBML, 2],
];
const wideAddresses: readonly (readonly [Field, number])[] = [
  [IDR5.OAS, 6], [IDR5.GRAN4K, 1], [IDR5.GRAN16K, 1], [IDR5.GRAN64K, 1], [IDR5.VAX, 1], [IDR5.STALL_MAX, 256],
];
const SECURE_EL2 = 0xa000_0020;

/** After what is public of the MMU-700: v3.2 with HTTU, MPAM, 52-bit addresses, Secure EL2; no ATOS. */
const mmu700: IdRegisters = {
  IDR0: compose(twoStage),
  IDR1: compose(largeQueues),
  IDR3: compose(since32),
  IDR5: compose(wideAddresses),
  AIDR: 2,
  MPAMIDR: 0x0001_01ff,
  S_IDR0: 0x2000,
  S_IDR1: SECURE_EL2,
};

/** A v3.3 with every option at once: also ATOS and VATOS, ECMDQs, 52-bit addresses in 4K and 16K tables. */
const full: IdRegisters = {
  IDR0: compose([...twoStage, [IDR0.ATOS, 1], [IDR0.VATOS, 1]]),
  IDR1: compose([...largeQueues, [IDR1.ECMDQ, 1]]),
  IDR2: 0,
  IDR3: compose([...since32, [IDR3.E0PD, 1], [IDR3.PTWNNC, 1], [IDR3.PASIDTT, 1], [IDR3.EPAN, 1]]),
  IDR5: compose([...wideAddresses, [IDR5.DS, 1]]),
  IDR6: compose([[REG.IDR6.CMDQ_CONTROL_PAGE_LOG2NUMQ, 4]]),
  AIDR: 3,
  MPAMIDR: 0x0001_01ff,
  S_IDR0: 0x2000,
  S_IDR1: SECURE_EL2,
};

export type PresetName = "qemuNested" | "qemuStage1" | "qemuStage2" | "fvpAem" | "mmu600" | "mmu700" | "full" | "reference";

/**
 * Identities to start from, each of them consistent (lintIdr). `qemu*` are what QEMU 11.1.3's virt machine shows, `fvpAem` what Arm's
 * platform model does. An identity may advertise more than this model does: see the README.
 */
export const PRESETS: Readonly<Record<PresetName, IdRegisters>> = {
  qemuNested: { IDR0: 0x0d44_101b, IDR1: 0x0273_0010, IDR3: 0x1414, IDR5: 0x74, AIDR: 1 },
  qemuStage1: { IDR0: 0x0d44_101a, IDR1: 0x0273_0010, IDR3: 0x1404, IDR5: 0x74, AIDR: 1 },
  qemuStage2: { IDR0: 0x0d44_1019, IDR1: 0x0273_0010, IDR3: 0x1414, IDR5: 0x74, AIDR: 1 },
  fvpAem,
  mmu600,
  mmu700,
  full,
  reference,
};

/** The identification registers, decoded once. Names follow the fields of IDR0..IDR5. */
export interface Features {
  readonly s1p: boolean;
  readonly s2p: boolean;
  /** IDR0.TTF bits: 1 LPAE, 2 VMSAv8-64. */
  readonly ttf: number;
  readonly httu: number;
  readonly hyp: boolean;
  readonly ats: boolean;
  readonly atsRecErr: boolean;
  readonly asidMask: number;
  readonly vmidMask: number;
  readonly msi: boolean;
  readonly sev: boolean;
  readonly atos: boolean;
  readonly vatos: boolean;
  readonly pri: boolean;
  readonly vmw: boolean;
  readonly cd2l: boolean;
  readonly ttEndian: number;
  readonly stallModel: number;
  readonly termModel: boolean;
  /** Transactions that can be stalled at a time. */
  readonly stallMax: number;
  readonly twoLevelStreams: boolean;
  readonly sidSize: number;
  readonly ssidSize: number;
  readonly queuesPreset: boolean;
  readonly tablesPreset: boolean;
  readonly cmdqs: number;
  readonly eventqs: number;
  readonly priqs: number;
  readonly attrPermsOvr: boolean;
  readonly ecmdq: boolean;
  readonly had: boolean;
  readonly xnx: boolean;
  readonly mpam: boolean;
  /** The largest PARTID of Non-secure state (MPAMIDR). */
  readonly partidMax: number;
  readonly fwb: boolean;
  readonly stt: boolean;
  readonly ril: boolean;
  readonly dpt: boolean;
  readonly s2pi: boolean;
  readonly pasidtt: boolean;
  readonly pps: boolean;
  readonly pbha: boolean;
  readonly e0pd: boolean;
  readonly ptwnnc: boolean;
  readonly epan: boolean;
  readonly s1pi: boolean;
  readonly s2po: boolean;
  readonly the: boolean;
  readonly mteperm: boolean;
  readonly aie: boolean;
  readonly bbml: number;
  readonly ns1ats: boolean;
  readonly btm: boolean;
  readonly cohacc: boolean;
  readonly attrTypesOvr: boolean;
  readonly d128: boolean;
  readonly vax: number;
  readonly ds: boolean;
  /** Page of the VATOS registers after page 1 (IDR2.BA_VATOS). */
  readonly vatosPage: number;
  /** log2 of the command queue control pages, and of the queues of each (IDR6). */
  readonly ecmdqLog2Pages: number;
  readonly ecmdqLog2Queues: number;
  /** Secure state, Secure EL2, and what S_IDR0 and S_IDR1 say of them. */
  readonly secure: boolean;
  readonly sel2: boolean;
  readonly secureMsi: boolean;
  readonly secureEcmdq: boolean;
  readonly secureStallModel: number;
  readonly secureSidSize: number;
  /** OAS encoding, and both address sizes in bits (3.4). */
  readonly oas: number;
  readonly oasBits: number;
  readonly iasBits: number;
  /** Supported granules, by GRANULE. */
  readonly granules: readonly boolean[];
  /** Minor revision of the architecture. */
  readonly minor: number;
}

/** Decodes the identification registers. */
export function decodeFeatures(id: IdRegisters): Features {
  const field = (word: number, { shift, mask }: Field): number => (word >>> shift) & mask;
  const flag = (word: number, f: Field): boolean => field(word, f) !== 0;
  const i0 = id.IDR0;
  const i1 = id.IDR1;
  const i3 = id.IDR3;
  const i5 = id.IDR5;
  const s0 = id.S_IDR0 ?? 0;
  const s1 = id.S_IDR1 ?? 0;
  const oas = field(i5, IDR5.OAS);
  const oasBits = ADDRESS_SIZES[oas]!;
  const ttf = field(i0, IDR0.TTF);
  const granules: boolean[] = [];
  granules[GRANULE.K4] = flag(i5, IDR5.GRAN4K);
  granules[GRANULE.K16] = flag(i5, IDR5.GRAN16K);
  granules[GRANULE.K64] = flag(i5, IDR5.GRAN64K);
  return {
    s1p: flag(i0, IDR0.S1P),
    s2p: flag(i0, IDR0.S2P),
    ttf,
    httu: field(i0, IDR0.HTTU),
    hyp: flag(i0, IDR0.HYP),
    ats: flag(i0, IDR0.ATS),
    atsRecErr: flag(i0, IDR0.ATSRECERR),
    asidMask: flag(i0, IDR0.ASID16) ? bits(15, 0) : bits(7, 0),
    vmidMask: flag(i0, IDR0.S2P) ? (flag(i0, IDR0.VMID16) ? bits(15, 0) : bits(7, 0)) : 0,
    msi: flag(i0, IDR0.MSI),
    sev: flag(i0, IDR0.SEV),
    atos: flag(i0, IDR0.ATOS),
    vatos: flag(i0, IDR0.VATOS),
    pri: flag(i0, IDR0.PRI),
    vmw: flag(i0, IDR0.VMW),
    cd2l: flag(i0, IDR0.CD2L),
    ttEndian: field(i0, IDR0.TTENDIAN),
    stallModel: field(i0, IDR0.STALL_MODEL),
    termModel: flag(i0, IDR0.TERM_MODEL),
    stallMax: field(i5, IDR5.STALL_MAX),
    twoLevelStreams: flag(i0, IDR0.ST_LEVEL),
    sidSize: field(i1, IDR1.SIDSIZE),
    ssidSize: field(i1, IDR1.SSIDSIZE),
    queuesPreset: flag(i1, IDR1.QUEUES_PRESET),
    tablesPreset: flag(i1, IDR1.TABLES_PRESET),
    cmdqs: field(i1, IDR1.CMDQS),
    eventqs: field(i1, IDR1.EVENTQS),
    priqs: field(i1, IDR1.PRIQS),
    attrPermsOvr: flag(i1, IDR1.ATTR_PERMS_OVR),
    ecmdq: flag(i1, IDR1.ECMDQ),
    had: flag(i3, IDR3.HAD),
    xnx: flag(i3, IDR3.XNX),
    mpam: flag(i3, IDR3.MPAM),
    partidMax: field(id.MPAMIDR ?? 0, REG.MPAMIDR.PARTID_MAX),
    fwb: flag(i3, IDR3.FWB),
    stt: flag(i3, IDR3.STT),
    ril: flag(i3, IDR3.RIL),
    dpt: flag(i3, IDR3.DPT),
    s2pi: flag(i3, IDR3.S2PI),
    pasidtt: flag(i3, IDR3.PASIDTT),
    pps: flag(i3, IDR3.PPS),
    pbha: flag(i3, IDR3.PBHA),
    e0pd: flag(i3, IDR3.E0PD),
    ptwnnc: flag(i3, IDR3.PTWNNC),
    epan: flag(i3, IDR3.EPAN),
    s1pi: flag(i3, IDR3.S1PI),
    s2po: flag(i3, IDR3.S2PO),
    the: flag(i3, IDR3.THE),
    mteperm: flag(i3, IDR3.MTEPERM),
    aie: flag(i3, IDR3.AIE),
    bbml: field(i3, IDR3.BBML),
    ns1ats: flag(i0, IDR0.NS1ATS),
    btm: flag(i0, IDR0.BTM),
    cohacc: flag(i0, IDR0.COHACC),
    attrTypesOvr: flag(i1, IDR1.ATTR_TYPES_OVR),
    d128: flag(i5, IDR5.D128),
    vax: field(i5, IDR5.VAX),
    vatosPage: field(id.IDR2 ?? 0, REG.IDR2.BA_VATOS),
    ecmdqLog2Pages: field(id.IDR6 ?? 0, REG.IDR6.CMDQ_CONTROL_PAGE_LOG2NUMP),
    ecmdqLog2Queues: field(id.IDR6 ?? 0, REG.IDR6.CMDQ_CONTROL_PAGE_LOG2NUMQ),
    secure: flag(s1, S_REG.S_IDR1.SECURE_IMPL),
    sel2: flag(s1, S_REG.S_IDR1.SEL2),
    secureMsi: flag(s0, S_REG.S_IDR0.MSI),
    secureEcmdq: flag(s0, S_REG.S_IDR0.ECMDQ),
    secureStallModel: field(s0, S_REG.S_IDR0.STALL_MODEL),
    secureSidSize: field(s1, S_REG.S_IDR1.S_SIDSIZE),
    ds: flag(i5, IDR5.DS),
    oas,
    oasBits,
    // IAS is at least 40 where LPAE is supported (3.4).
    iasBits: (ttf & 1) !== 0 ? Math.max(40, oasBits) : oasBits,
    granules,
    minor: (id.AIDR ?? 0) & 15,
  };
}
