import { ADDRESS_SIZES, bits, REG } from "@smmuv3/smmu-v3-defs";
import type { Field } from "@smmuv3/smmu-v3-defs";
import { GRANULE } from "@smmuv3/vmsa-walk";

/** Values of the identification registers, IHI 0070 6.3.1 and following. Registers left out read 0. */
export interface IdRegisters {
  readonly IDR0: number;
  readonly IDR1: number;
  readonly IDR3: number;
  readonly IDR5: number;
  readonly IIDR?: number;
  readonly AIDR?: number;
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

/** Identities to start from. `qemu*` are what QEMU 11.1.3's virt machine shows. */
export const PRESETS: Readonly<Record<"qemuNested" | "qemuStage1" | "qemuStage2" | "reference", IdRegisters>> = {
  qemuNested: { IDR0: 0x0d44_101b, IDR1: 0x0273_0010, IDR3: 0x1414, IDR5: 0x74, AIDR: 1 },
  qemuStage1: { IDR0: 0x0d44_101a, IDR1: 0x0273_0010, IDR3: 0x1404, IDR5: 0x74, AIDR: 1 },
  qemuStage2: { IDR0: 0x0d44_1019, IDR1: 0x0273_0010, IDR3: 0x1414, IDR5: 0x74, AIDR: 1 },
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
  readonly twoLevelStreams: boolean;
  readonly sidSize: number;
  readonly ssidSize: number;
  readonly cmdqs: number;
  readonly eventqs: number;
  readonly priqs: number;
  readonly attrPermsOvr: boolean;
  readonly ecmdq: boolean;
  readonly had: boolean;
  readonly xnx: boolean;
  readonly mpam: boolean;
  readonly fwb: boolean;
  readonly stt: boolean;
  readonly ril: boolean;
  readonly dpt: boolean;
  readonly ds: boolean;
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
    twoLevelStreams: flag(i0, IDR0.ST_LEVEL),
    sidSize: field(i1, IDR1.SIDSIZE),
    ssidSize: field(i1, IDR1.SSIDSIZE),
    cmdqs: field(i1, IDR1.CMDQS),
    eventqs: field(i1, IDR1.EVENTQS),
    priqs: field(i1, IDR1.PRIQS),
    attrPermsOvr: flag(i1, IDR1.ATTR_PERMS_OVR),
    ecmdq: flag(i1, IDR1.ECMDQ),
    had: flag(i3, IDR3.HAD),
    xnx: flag(i3, IDR3.XNX),
    mpam: flag(i3, IDR3.MPAM),
    fwb: flag(i3, IDR3.FWB),
    stt: flag(i3, IDR3.STT),
    ril: flag(i3, IDR3.RIL),
    dpt: flag(i3, IDR3.DPT),
    ds: flag(i5, IDR5.DS),
    oas,
    oasBits,
    // IAS is at least 40 where LPAE is supported (3.4).
    iasBits: (ttf & 1) !== 0 ? Math.max(40, oasBits) : oasBits,
    granules,
    minor: (id.AIDR ?? 0) & 15,
  };
}
