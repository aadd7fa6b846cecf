import { extract, REG, S_REG, STALL_MODEL, TTENDIAN } from "@smmuv3/smmu-v3-defs";
import type { Field } from "@smmuv3/smmu-v3-defs";
import type { IdRegisters } from "./presets.ts";

const { IDR0, IDR1, IDR2, IDR3, IDR5, IDR6, AIDR } = REG;
const { S_IDR0, S_IDR1, S_IDR3 } = S_REG;

/** Value of a field of an identification register. */
type Read = (field: Field) => number;

/** A rule by which the identification registers depend on each other, IHI 0070 6.3.1 to 6.3.8 and 6.3.52 to 6.3.55. */
export interface IdrRule {
  readonly id: string;
  readonly section: string;
  /** `advice`: permitted, but no SMMU of use is like that. */
  readonly severity: "error" | "advice";
  readonly text: string;
  /** True where an identity breaks the rule. */
  readonly broken: (read: Read) => boolean;
}

/** A rule that an identity breaks. */
export type Finding = Omit<IdrRule, "broken">;

const has =
  (field: Field): ((read: Read) => boolean) =>
  (read) =>
    read(field) !== 0;
const s1p = has(IDR0.S1P);
const s2p = has(IDR0.S2P);
const both = (read: Read): boolean => s1p(read) && s2p(read);
const ats = has(IDR0.ATS);
const substreams = has(IDR1.SSIDSIZE);
const lpae = (read: Read): boolean => (read(IDR0.TTF) & 1) !== 0;
const aarch64 = (read: Read): boolean => (read(IDR0.TTF) & 2) !== 0;
const small = (read: Read): boolean => read(IDR5.GRAN4K) + read(IDR5.GRAN16K) > 0;
const since = (read: Read, minor: number): boolean => read(AIDR.ArchMinorRev) >= minor;
const secure = has(S_IDR1.SECURE_IMPL);
const OAS_52 = 6;
const OAS_56 = 7;

function rule(id: string, section: string, text: string, broken: (read: Read) => boolean): IdrRule {
  return { id, section, severity: "error", text, broken };
}

function advice(id: string, section: string, text: string, broken: (read: Read) => boolean): IdrRule {
  return { id, section, severity: "advice", text, broken };
}

/** `fields` are RES0 unless `condition`. */
function res0(id: string, section: string, text: string, fields: readonly Field[], condition: (read: Read) => boolean): IdrRule {
  return rule(id, section, text, (read) => !condition(read) && fields.some((field) => read(field) !== 0));
}

/** `field` set requires `condition`. */
function needs(id: string, section: string, text: string, field: Field, condition: (read: Read) => boolean): IdrRule {
  return rule(id, section, text, (read) => read(field) !== 0 && !condition(read));
}

/** From minor revision `minor` on, `condition` must hold. */
function mandatory(id: string, section: string, text: string, minor: number, condition: (read: Read) => boolean): IdrRule {
  return rule(id, section, text, (read) => since(read, minor) && !condition(read));
}

/** Every consistency rule, in the order of the registers. */
export const IDR_RULES: readonly IdrRule[] = [
  rule("stages", "6.3.1", "S1P or S2P must be 1", (r) => !s1p(r) && !s2p(r)),
  rule("ttf", "6.3.1", "TTF must not be 0", (r) => r(IDR0.TTF) === 0),
  rule("ttf-lpae-4k", "6.3.1", "TTF[0] requires GRAN4K, which LPAE tables use", (r) => lpae(r) && aarch64(r) && r(IDR5.GRAN4K) === 0),
  rule("granule", "6.3.6", "VMSAv8-64 requires a granule", (r) => aarch64(r) && !small(r) && r(IDR5.GRAN64K) === 0),
  rule("ttendian", "6.3.1", "TTENDIAN 1 is reserved", (r) => ![TTENDIAN.mixed, TTENDIAN.little, TTENDIAN.big].some((v) => v === r(IDR0.TTENDIAN))),
  rule("stall-model", "6.3.1", "STALL_MODEL 3 is reserved", (r) => r(IDR0.STALL_MODEL) === 3),
  rule("st-level", "6.3.1", "ST_LEVEL above 1 is reserved", (r) => r(IDR0.ST_LEVEL) > 1),
  res0("vmw", "6.3.1", "VMW is RES0 without S2P", [IDR0.VMW], s2p),
  res0("hyp", "6.3.1", "Hyp is RES0 without both stages", [IDR0.HYP], both),
  mandatory("hyp-v3.2", "6.3.1", "Hyp is 1 with both stages", 2, (r) => !both(r) || r(IDR0.HYP) === 1),
  res0("ats", "6.3.1", "PRI, ATSRECERR and NS1ATS are RES0 without ATS", [IDR0.PRI, IDR0.ATSRECERR, IDR0.NS1ATS], ats),
  res0("ns1ats", "6.3.1", "NS1ATS is RES0 without both stages", [IDR0.NS1ATS], both),
  needs("vatos", "6.3.1", "VATOS requires ATOS and both stages", IDR0.VATOS, (r) => r(IDR0.ATOS) === 1 && both(r)),
  needs("rme", "6.3.1", "RME_IMPL is of v3.3 or later", IDR0.RME_IMPL, (r) => since(r, 3)),

  rule("sidsize", "6.3.2", "SIDSIZE is 32 at most", (r) => r(IDR1.SIDSIZE) > 32),
  rule("sidsize-level", "6.3.2", "SIDSIZE of 7 or more requires 2-level stream tables", (r) => r(IDR1.SIDSIZE) >= 7 && r(IDR0.ST_LEVEL) === 0),
  rule("ssidsize", "6.3.2", "SSIDSIZE is 20 at most", (r) => r(IDR1.SSIDSIZE) > 20),
  rule("queue-size", "6.3.2", "CMDQS, EVENTQS and PRIQS are 19 at most", (r) => [IDR1.CMDQS, IDR1.EVENTQS, IDR1.PRIQS].some((f) => r(f) > 19)),
  res0("rel", "6.3.2", "REL is RES0 without a preset", [IDR1.REL], (r) => r(IDR1.QUEUES_PRESET) + r(IDR1.TABLES_PRESET) > 0),
  needs("ecmdq", "6.3.2", "ECMDQ requires COHACC, MSI and queues that are not preset", IDR1.ECMDQ, (r) =>
    r(IDR0.COHACC) === 1 && r(IDR0.MSI) === 1 && r(IDR1.QUEUES_PRESET) === 0),
  advice("eventqs-zero", "6.3.2", "EVENTQS of 0 has room for one record: queues of a real SMMU have more", (r) => r(IDR1.EVENTQS) === 0 && r(IDR1.CMDQS) > 0),
  advice("sidsize-unused", "6.3.2", "2-level stream tables are of no use with a SIDSIZE of 0", (r) => r(IDR0.ST_LEVEL) !== 0 && r(IDR1.SIDSIZE) === 0),
  res0("ba-vatos", "6.3.3", "BA_VATOS is RES0 without VATOS", [IDR2.BA_VATOS], has(IDR0.VATOS)),

  mandatory("had", "6.3.4", "HAD is 1 with stage 1", 1, (r) => !s1p(r) || r(IDR3.HAD) === 1),
  mandatory("xnx", "6.3.4", "XNX is 1 with stage 2", 1, (r) => !s2p(r) || r(IDR3.XNX) === 1),
  needs("pbha", "6.3.4", "PBHA requires HAD", IDR3.PBHA, has(IDR3.HAD)),
  res0("pps", "6.3.4", "PPS is RES0 without PRI or substreams", [IDR3.PPS], (r) => r(IDR0.PRI) === 1 && substreams(r)),
  res0("pasidtt", "6.3.4", "PASIDTT is RES0 without ATS or substreams", [IDR3.PASIDTT], (r) => ats(r) && substreams(r)),
  mandatory("ril", "6.3.4", "RIL is 1", 2, has(IDR3.RIL)),
  mandatory("fwb", "6.3.4", "FWB is 1 with stage 2", 2, (r) => !s2p(r) || r(IDR3.FWB) === 1),
  mandatory("bbml", "6.3.4", "BBML is 1 or 2", 2, (r) => r(IDR3.BBML) === 1 || r(IDR3.BBML) === 2),
  rule("bbml-reserved", "6.3.4", "BBML 3 is reserved", (r) => r(IDR3.BBML) === 3),
  rule("stt", "6.3.4", "STT is 1 with Secure EL2", (r) => r(S_IDR1.SEL2) === 1 && r(IDR3.STT) === 0),
  mandatory("e0pd", "6.3.4", "E0PD is 1 with stage 1", 3, (r) => !s1p(r) || r(IDR3.E0PD) === 1),
  mandatory("ptwnnc", "6.3.4", "PTWNNC is 1 with stage 2", 3, (r) => !s2p(r) || r(IDR3.PTWNNC) === 1),
  mandatory("epan", "6.3.4", "EPAN is 1 with stage 1", 4, (r) => !s1p(r) || r(IDR3.EPAN) === 1),
  mandatory("mteperm", "6.3.4", "MTEPERM is 1 with stage 2", 4, (r) => !s2p(r) || r(IDR3.MTEPERM) === 1),
  needs("dpt", "6.3.4", "DPT requires ATS and excludes LPAE tables", IDR3.DPT, (r) => ats(r) && !lpae(r)),
  res0("s1pi", "6.3.4", "S1PI and AIE are RES0 without S1P", [IDR3.S1PI, IDR3.AIE], s1p),
  res0("s2pi", "6.3.4", "S2PI and S2PO are RES0 without S2P", [IDR3.S2PI, IDR3.S2PO], s2p),
  needs("s2po", "6.3.4", "S2PO requires S2PI", IDR3.S2PO, has(IDR3.S2PI)),
  needs("the", "6.3.4", "THE with stage 2 requires S2PI", IDR3.THE, (r) => !s2p(r) || r(IDR3.S2PI) === 1),

  rule("stall-max", "6.3.6", "STALL_MAX is RES0 without stalls", (r) => r(IDR0.STALL_MODEL) === STALL_MODEL.none && r(IDR5.STALL_MAX) !== 0),
  advice("stall-max-zero", "6.3.6", "STALL_MAX of 0 leaves a stall nothing to hold", (r) => r(IDR0.STALL_MODEL) !== STALL_MODEL.none && r(IDR5.STALL_MAX) === 0),
  rule("vax-reserved", "6.3.6", "VAX 3 is reserved", (r) => r(IDR5.VAX) === 3),
  needs("vax", "6.3.6", "VAX requires the 64K granule, or DS with a smaller one", IDR5.VAX, (r) => r(IDR5.GRAN64K) === 1 || (r(IDR5.DS) === 1 && small(r))),
  rule("vax-d128", "6.3.6", "VAX 2 requires D128", (r) => r(IDR5.VAX) === 2 && r(IDR5.D128) === 0),
  needs("ds", "6.3.6", "DS requires VAX", IDR5.DS, has(IDR5.VAX)),
  res0("ds-granule", "6.3.6", "DS is RES0 without the 4K and 16K granules", [IDR5.DS], small),
  rule("oas-52", "6.3.6", "an OAS of 52 bits requires the 64K granule, DS or D128", (r) => r(IDR5.OAS) === OAS_52 && r(IDR5.GRAN64K) + r(IDR5.DS) + r(IDR5.D128) === 0),
  rule("oas-56", "6.3.6", "an OAS of 56 bits requires D128", (r) => r(IDR5.OAS) === OAS_56 && r(IDR5.D128) === 0),
  needs("d128", "6.3.6", "D128 requires TTF 2, S1PI, S2PI, S2PO, AIE and MTEPERM", IDR5.D128, (r) =>
    aarch64(r) && !lpae(r) && (!s1p(r) || r(IDR3.S1PI) + r(IDR3.AIE) === 2) && (!s2p(r) || r(IDR3.S2PI) + r(IDR3.S2PO) + r(IDR3.MTEPERM) === 3)),
  res0("idr6", "6.3.45", "IDR6 is RES0 without ECMDQ", [IDR6.CMDQ_CONTROL_PAGE_LOG2NUMQ, IDR6.CMDQ_CONTROL_PAGE_LOG2NUMP], has(IDR1.ECMDQ)),
  rule("idr6-size", "6.3.45", "control pages and the queues of each are 256 at most", (r) =>
    r(IDR6.CMDQ_CONTROL_PAGE_LOG2NUMQ) > 8 || r(IDR6.CMDQ_CONTROL_PAGE_LOG2NUMP) > 8),
  rule("minor", "6.3.8", "architecture revisions are v3.0 to v3.4", (r) => r(AIDR.ArchMajorRev) !== 0 || r(AIDR.ArchMinorRev) > 4),

  rule("secure-s1", "6.3.53", "Secure state requires stage 1", (r) => secure(r) && !s1p(r)),
  rule("secure-stall", "6.3.52", "STALL_MODEL is the same in both states after reset", (r) => secure(r) && r(S_IDR0.STALL_MODEL) !== r(IDR0.STALL_MODEL)),
  needs("secure-ecmdq", "6.3.52", "S_IDR0.ECMDQ requires COHACC, Secure MSIs and queues that are not preset", S_IDR0.ECMDQ, (r) =>
    r(IDR0.COHACC) === 1 && r(S_IDR0.MSI) === 1 && r(IDR1.QUEUES_PRESET) === 0),
  res0("sel2", "6.3.53", "SEL2 is 0 without both stages", [S_IDR1.SEL2], both),
  needs("sel2-v3.2", "6.3.53", "SEL2 is of v3.2 or later", S_IDR1.SEL2, (r) => since(r, 2)),
  res0("sams", "6.3.55", "SAMS is RES0 without ATS", [S_IDR3.SAMS], ats),
  res0("secure-off", "6.3.52", "S_IDR0 and S_IDR1 are RES0 without Secure state", [S_IDR0.MSI, S_IDR0.STALL_MODEL, S_IDR0.ECMDQ, S_IDR1.SEL2, S_IDR1.S_SIDSIZE], secure),
];

/** The rules that an identity breaks, in the order of {@link IDR_RULES}; empty for one that is consistent. */
export function lintIdr(id: IdRegisters): Finding[] {
  const read: Read = (field) => extract(id[field.of as keyof Omit<IdRegisters, "peripheral">] ?? 0, field);
  return IDR_RULES.filter(({ broken }) => broken(read)).map(({ id: name, section, severity, text }) => ({
    id: name,
    section,
    severity,
    text,
  }));
}
