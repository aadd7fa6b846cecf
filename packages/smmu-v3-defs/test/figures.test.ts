import { describe, expect, test } from "vitest";
import {
  CD,
  CD_WORDS,
  CMD_SPEC,
  COMMANDS,
  CD_SPEC,
  definedBits,
  EVENT,
  EVENT_SPEC,
  EVENT_WORDS,
  EVENTS,
  L1CD_SPEC,
  L1STD_SPEC,
  PRI,
  PRI_SPEC,
  PRIQ_WORDS,
  REGISTER_FIELDS,
  REGISTERS,
  registerMask,
  reservedCommandBits,
  STE,
  STE_SPEC,
  STE_WORDS,
} from "../src/index.ts";
import type { CommandName, EventName, FieldSpecs, RegisterName } from "../src/index.ts";

// The figures of IHI 0070 G.b, transcribed independently of src: for each structure the bits that are not RES0, word by word.

const EVENT_FIGURES: Readonly<Record<EventName, string>> = {
  F_UUT: "fffff8ff ffffffff ffff e ffffffff ffffffff 0 0",
  C_BAD_STREAMID: "fffff8ff ffffffff 0 0 0 0 0 0",
  F_STE_FETCH: "fffff8ff ffffffff 1ffff 0 0 0 fffffff8 ffffff",
  C_BAD_STE: "fffff8ff ffffffff 0 0 0 0 0 0",
  F_BAD_ATS_TREQ: "fffff8ff ffffffff f000000f 0 ffffffff ffffffff 0 0",
  F_STREAM_DISABLED: "ff ffffffff 0 0 0 0 0 0",
  F_TRANSL_FORBIDDEN: "ff ffffffff 0 8 ffffffff ffffffff 0 0",
  C_BAD_SUBSTREAMID: "fffff0ff ffffffff 0 0 0 0 0 0",
  F_CD_FETCH: "fffff8ff ffffffff 1ffff 0 0 0 fffffff8 ffffff",
  C_BAD_CD: "fffff8ff ffffffff 0 0 0 0 0 0",
  F_WALK_EABT: "fffff8ff ffffffff 1ffff 3ce ffffffff ffffffff fffffff8 ffffff",
  F_TRANSLATION: "fffff8ff ffffffff 8000ffff ffff03ce ffffffff ffffffff fffff000 ffffff",
  F_ADDR_SIZE: "fffff8ff ffffffff 8000ffff ffff03ce ffffffff ffffffff fffff000 ffffff",
  F_ACCESS: "fffff8ff ffffffff 8000ffff ffff03ce ffffffff ffffffff fffff000 ffffff",
  F_PERMISSION: "fffff8ff ffffffff 8000ffff ffff3fce ffffffff ffffffff fffff000 ffffff",
  F_TLB_CONFLICT: "fffff8ff ffffffff ffffffff ce ffffffff ffffffff fffff000 ffffff",
  F_CFG_CONFLICT: "fffff8ff ffffffff ffffffff 0 0 0 0 0",
  E_PAGE_REQUEST: "fffff8ff ffffffff 0 ff0ee ffffffff ffffffff 0 0",
  F_VMS_FETCH: "fffff8ff ffffffff 1ffff 0 0 0 fffffff8 ffffff",
};

/** Bits that are RES0. */
const COMMAND_FIGURES: Readonly<Record<CommandName, string>> = {
  PREFETCH_CONFIG: "300 0 ffffffff ffffffff",
  PREFETCH_ADDR: "300 0 400 0",
  CFGI_STE: "fffffb00 0 fffffffe ffffffff",
  CFGI_STE_RANGE: "fffffb00 0 ffffffe0 ffffffff",
  CFGI_CD: "b00 0 fffffffe ffffffff",
  CFGI_CD_ALL: "fffffb00 0 ffffffff ffffffff",
  CFGI_VMS_PIDM: "fffffb00 ffff0000 ffffffff ffffffff",
  TLBI_NH_ALL: "ffffff00 ffff0000 ffffffff ffffffff",
  TLBI_NH_ASID: "ffffff00 0 ffffffff ffffffff",
  TLBI_NH_VA: "fc0e0f00 0 7e 0",
  TLBI_NH_VAA: "fc0e0f00 ffff0000 7e 0",
  TLBI_EL3_ALL: "ffffff00 ffffffff ffffffff ffffffff",
  TLBI_EL3_VA: "fc0e0f00 ffffffff 7e 0",
  TLBI_EL2_ALL: "ffffff00 ffffffff ffffffff ffffffff",
  TLBI_EL2_ASID: "ffffff00 ffff ffffffff ffffffff",
  TLBI_EL2_VA: "fc0e0f00 ffff 7e 0",
  TLBI_EL2_VAA: "fc0e0f00 ffffffff 7e 0",
  TLBI_S12_VMALL: "ffffff00 ffff0000 ffffffff ffffffff",
  TLBI_S2_IPA: "fc0e0f00 ffff0000 7e ff000000",
  TLBI_NSNH_ALL: "ffffff00 ffffffff ffffffff ffffffff",
  ATC_INV: "500 0 fc0 0",
  PRI_RESP: "700 0 ffffce00 ffffffff",
  RESUME: "ffffcb00 0 ffff0000 ffffffff",
  STALL_TERM: "fffffb00 0 ffffffff ffffffff",
  SYNC: "f03fcf00 0 3 7f000000",
  TLBI_S_EL2_ALL: "ffffff00 ffffffff ffffffff ffffffff",
  TLBI_S_EL2_ASID: "ffffff00 ffff ffffffff ffffffff",
  TLBI_S_EL2_VA: "fc0e0f00 ffff 7e 0",
  TLBI_S_EL2_VAA: "fc0e0f00 ffffffff 7e 0",
  TLBI_S_S12_VMALL: "ffffff00 ffff0000 ffffffff ffffffff",
  TLBI_S_S2_IPA: "fc0e0f00 ffff0000 7c ff000000",
  TLBI_SNH_ALL: "ffffff00 ffffffff ffffffff ffffffff",
  DPTI_ALL: "ffffff00 ffffffff ffffffff ffffffff",
  DPTI_PA: "ffffff00 ffffffff fe ff000000",
};

const REGISTER_FIGURES: Readonly<Record<RegisterName, string>> = {
  IDR0: "5fffffff 0",
  IDR1: "ffffffff 0",
  IDR2: "3ff 0",
  IDR3: "ffffbc 0",
  IDR4: "ffffffff 0",
  IDR5: "ffff0df7 0",
  IIDR: "ffffffff 0",
  AIDR: "ff 0",
  CR0: "5df 0",
  CR0ACK: "5df 0",
  CR1: "fff 0",
  CR2: "f 0",
  S2PII: "ffffffff ffffffff",
  STATUSR: "1 0",
  GBPA: "801f3f1f 0",
  AGBPA: "ffffffff 0",
  IRQ_CTRL: "7 0",
  IRQ_CTRLACK: "7 0",
  GERROR: "7fd 0",
  GERRORN: "7fd 0",
  GERROR_IRQ_CFG0: "fffffffc ffffff",
  GERROR_IRQ_CFG1: "ffffffff 0",
  GERROR_IRQ_CFG2: "3f 0",
  STRTAB_BASE: "ffffffc0 40ffffff",
  STRTAB_BASE_CFG: "307ff 0",
  CMDQ_BASE: "ffffffff 40ffffff",
  CMDQ_PROD: "fffff 0",
  CMDQ_CONS: "7f0fffff 0",
  EVENTQ_BASE: "ffffffff 40ffffff",
  EVENTQ_IRQ_CFG0: "fffffffc ffffff",
  EVENTQ_IRQ_CFG1: "ffffffff 0",
  EVENTQ_IRQ_CFG2: "3f 0",
  PRIQ_BASE: "ffffffff 40ffffff",
  PRIQ_IRQ_CFG0: "fffffffc ffffff",
  PRIQ_IRQ_CFG1: "ffffffff 0",
  PRIQ_IRQ_CFG2: "8000003f 0",
  GATOS_CTRL: "1 0",
  GATOS_SID: "ffffffff 1fffff",
  GATOS_ADDR: "ffffffc0 ffffffff",
  GATOS_PAR: "fffffff7 ffffffff",
  MPAMIDR: "ffffff 0",
  GMPAM: "80ffffff 0",
  GBPMPAM: "80ffffff 0",
  VATOS_SEL: "ffff 0",
  IDR6: "f0f0000 0",
  DPT_BASE: "fffff000 40ffffff",
  DPT_BASE_CFG: "f0c007 0",
  DPT_CFG_FAR: "fffff0f3 ffffff",
  EVENTQ_PROD: "800fffff 0",
  EVENTQ_CONS: "800fffff 0",
  PRIQ_PROD: "800fffff 0",
  PRIQ_CONS: "800fffff 0",
};

const STE_FIGURE =
  "ffffffff f8ffffff ff0fffff ff1ff ffff ffffffff ffffffff 60ffffff ffff0000 ffffc0ff ffffffff ffffff fffffff7 60ffffff ffffffff ffffffff";
const CD_FIGURE =
  "ffffffff ffffffff ffffffff fcffffff ffffffff fcffffff ffffffff ffffffff ffffffff ffffffff 0 ffffff ffffffff ffff ffffffff ffff";
const PRI_FIGURE = "ffffffff fc0fffff fffff1ff ffffffff";

function hex(words: Iterable<number>): string {
  return Array.from(words, (word) => (word >>> 0).toString(16)).join(" ");
}

describe("fields cover what the figures show", () => {
  test("STE, CD, page request", () => {
    expect(hex(definedBits(STE, STE_WORDS))).toBe(STE_FIGURE);
    expect(hex(definedBits(CD, CD_WORDS))).toBe(CD_FIGURE);
    expect(hex(definedBits(PRI, PRIQ_WORDS))).toBe(PRI_FIGURE);
  });

  test.each(Object.keys(EVENTS) as EventName[])("event %s", (name) => {
    const fields = Object.fromEntries((["Type", "SID", ...EVENTS[name].fields] as const).map((field) => [field, EVENT[field]]));
    expect(hex(definedBits(fields, EVENT_WORDS))).toBe(EVENT_FIGURES[name]);
  });

  test.each(Object.keys(COMMANDS) as CommandName[])("reserved bits of CMD_%s", (name) => {
    expect(hex(reservedCommandBits(COMMANDS[name].opcode)!)).toBe(COMMAND_FIGURES[name]);
  });

  test("a reserved opcode has no reserved bits", () => {
    const opcodes = new Set<number>(Object.values(COMMANDS).map(({ opcode }) => opcode));
    for (let opcode = 0; opcode < 256; opcode++) expect(reservedCommandBits(opcode) !== undefined).toBe(opcodes.has(opcode));
  });

  test.each(Object.keys(REGISTERS) as RegisterName[])("SMMU_%s", (name) => {
    expect(hex(registerMask(name))).toBe(REGISTER_FIGURES[name]);
  });
});

/** Names of the figures, from bit 0 up: a mask alone would not notice that two neighbours changed places. */
const ORDER = {
  STE:
    "V Config S1Fmt S1ContextPtr S1CDMax S1DSS S1CIR S1COR S1CSH S2HWU59 S2HWU60 S2HWU61 S2HWU62 DRE CONT DCP PPAR MEV S1PIE S2FWB " +
    "S1MPAM S1STALLD EATS STRW MemAttr MTCFG ALLOCCFG SHCFG NSCFG PRIVCFG INSTCFG S2VMID S2T0SZ S2SL0 S2IR0 S2OR0 S2SH0 S2TG S2PS " +
    "S2AA64 S2ENDI S2AFFD S2PTW S2HD S2HA S2S S2R S2HAFT S2PIE S2POE DPT_VMATCH S2NSW S2NSA S2SL0_2 S2DS S2TTB S2SKL PARTID " +
    "S_S2T0SZ S_S2SL0 S_S2TG MECID PMG MPAM_NS AssuredOnly TL0 TL1 VMSPtr S2SW S2SA S_S2SL0_2 S_S2TTB S_S2SKL S2POI",
  CD:
    "T0SZ TG0 IR0 OR0 SH0 EPD0 ENDI T1SZ TG1 IR1 OR1 SH1 EPD1 V IPS AFFD WXN UWXN TBI0 TBI1 PAN AA64 HD HA S R A ASET ASID NSCFG0 " +
    "HAD0 E0PD0 HAFT TTB0 PnCH EPAN HWU059 HWU060 SKL0 NSCFG1 HAD1 E0PD1 AIE TTB1 DS PIE HWU159 HWU160 SKL1 MAIR0 MAIR1 AMAIR0 " +
    "AMAIR1 PARTID PMG PIIU PIIP",
  PRI: "SID SSID PRIV EXEC READ WRITE LAST SSV PRGIndex Addr",
  IDR0:
    "S2P S1P TTF COHACC BTM HTTU DORMHINT HYP ATS NS1ATS ASID16 MSI SEV ATOS PRI VMW VMID16 CD2L VATOS TTENDIAN ATSRECERR " +
    "STALL_MODEL TERM_MODEL ST_LEVEL RME_IMPL",
  IDR1: "SIDSIZE SSIDSIZE PRIQS EVENTQS CMDQS ATTR_PERMS_OVR ATTR_TYPES_OVR REL QUEUES_PRESET TABLES_PRESET ECMDQ",
  IDR3: "HAD PBHA XNX PPS MPAM FWB STT RIL BBML E0PD PTWNNC DPT PASIDTT EPAN S1PI S2PI S2PO THE MTEPERM AIE",
  IDR5: "OAS GRAN4K GRAN16K GRAN64K DS D128 VAX STALL_MAX",
  CR0: "SMMUEN PRIQEN EVENTQEN CMDQEN ATSCHK VMW DPT_WALK_EN",
  CR1: "QUEUE_IC QUEUE_OC QUEUE_SH TABLE_IC TABLE_OC TABLE_SH",
  CR2: "E2H RECINVSID PTM REC_CFG_ATS",
  GBPA: "MemAttr MTCFG ALLOCCFG SHCFG PRIVCFG INSTCFG ABORT UPDATE",
  IRQ_CTRL: "GERROR_IRQEN PRIQ_IRQEN EVENTQ_IRQEN",
  GERROR:
    "CMDQ_ERR EVENTQ_ABT_ERR PRIQ_ABT_ERR MSI_CMDQ_ABT_ERR MSI_EVENTQ_ABT_ERR MSI_PRIQ_ABT_ERR MSI_GERROR_ABT_ERR SFM_ERR " +
    "CMDQP_ERR DPT_ERR",
  GATOS_ADDR: "HTTUI InD RnW PnU TYPE ADDR",
} as const;

function inBitOrder(specs: FieldSpecs): string {
  const names = Object.entries(specs).sort(([, [, a]], [, [, b]]) => a - b);
  return names.map(([name]) => name).join(" ");
}

describe("fields have the names of the figures", () => {
  test.each(Object.entries(ORDER))("%s", (name, order) => {
    const structures: Readonly<Record<string, FieldSpecs>> = { STE: STE_SPEC, CD: CD_SPEC, PRI: PRI_SPEC, ...REGISTER_FIELDS };
    expect(inBitOrder(structures[name]!)).toBe(order);
  });

  test.each([
    ["F_PERMISSION", "SSV SSID STAG Stall PnU InD RnW NSIPA S2 CLASS DirtyBit AssuredOnly TTRnW Overlay IMPL_DEF InputAddr IPA"],
    ["F_WALK_EABT", "SSV SSID Reason GPCF PnU InD RnW NSIPA S2 CLASS InputAddr FetchAddr"],
    ["F_BAD_ATS_TREQ", "SSV SSID AtsSpan AtsP AtsX AtsW AtsR InputAddr"],
    ["E_PAGE_REQUEST", "SSV SSID uX uW uR pX pW pR Span InputAddr"],
  ] as const)("%s", (name, order) => {
    expect(inBitOrder(Object.fromEntries(EVENTS[name].fields.map((field) => [field, EVENT_SPEC[field]])))).toBe(order);
  });

  test.each([
    ["TLBI_S_S2_IPA", "NUM SCALE VMID Leaf TlbiNS TTL128 TTL TG Address"],
    ["PREFETCH_ADDR", "SSec SSV SSID SID PrefetchSize Stride NS Address"],
    ["ATC_INV", "Global SSV SSID SID AtcSize Address"],
    ["RESUME", "SSec Ac Ab SID STAG"],
    ["SYNC", "CS MSH MSIAttr MSIData MSIAddr MSI_NS"],
    ["DPTI_PA", "Leaf DptSize Address"],
  ] as const)("CMD_%s", (name, order) => {
    expect(inBitOrder(Object.fromEntries(COMMANDS[name].fields.map((field) => [field, CMD_SPEC[field]])))).toBe(order);
  });
});

/** Pairs of fields that share a bit. */
function overlays(specs: FieldSpecs): string[] {
  const entries = Object.entries(specs);
  return entries.flatMap(([name, [msb, lsb]], at) =>
    entries.slice(at + 1).filter(([, [m, l]]) => msb >= l && m >= lsb).map(([other]) => `${name}/${other}`),
  );
}

describe("fields do not overlap", () => {
  test.each(Object.entries({ STE_SPEC, CD_SPEC, PRI_SPEC, L1STD_SPEC, L1CD_SPEC }))("%s", (_, specs) => {
    expect(overlays(specs)).toEqual([]);
  });

  test.each(Object.entries(REGISTER_FIELDS))("SMMU_%s", (name, specs) => {
    // GATOS_PAR has one layout for success and one for a fault (6.3.40).
    const expected = name === "GATOS_PAR" ? ["SH/FAULTCODE", "Size/FAULTCODE", "ADDR/FADDR", "ATTR/IMPDEF"] : [];
    expect(overlays(specs)).toEqual(expected);
  });

  test.each(Object.entries(COMMANDS))("CMD_%s", (_, { fields }) => {
    expect(overlays(Object.fromEntries((["Opcode", ...fields] as const).map((name) => [name, CMD_SPEC[name]])))).toEqual([]);
  });

  test.each(Object.entries(EVENTS))("%s", (_, { fields }) => {
    expect(overlays(Object.fromEntries((["Type", "SID", ...fields] as const).map((name) => [name, EVENT_SPEC[name]])))).toEqual([]);
  });

  test("overlays of different event records", () => {
    expect(overlays(EVENT_SPEC)).toEqual([
      "STAG/Reason", "STAG/ConflictReason", "STAG/AtsSpan", "Reason/ConflictReason", "Reason/AtsSpan",
      "ConflictReason/AtsSpan", "ConflictReason/GPCF", "ConflictReason/AtsP", "ConflictReason/AtsX", "ConflictReason/AtsW",
      "ConflictReason/AtsR", "ConflictReason/Stall", "AtsR/Stall", "PnU/uX", "uW/InD", "uR/RnW", "pW/NSIPA", "pR/S2",
      "TTRnW/Span", "Overlay/Span", "Span/IMPL_DEF", "FetchAddr/IPA",
    ]);
  });

  test("overlays of different commands", () => {
    const shared: Record<string, string> = {};
    for (const pair of overlays(CMD_SPEC)) {
      const [first, second] = pair.split("/") as [string, string];
      shared[first] = first in shared ? `${shared[first]!} ${second}` : second;
    }
    expect(shared).toEqual({
      SSID: "NUM SCALE Ac Ab CS MSH MSIAttr",
      SID: "VMID ASID MSIData",
      VMID: "MSIData",
      ASID: "MSIData",
      NUM: "Ac Ab CS",
      SCALE: "MSH MSIAttr",
      Ac: "CS",
      Ab: "CS",
      Leaf: "Range AtcSize PrefetchSize PRGIndex STAG",
      TlbiNS: "Range AtcSize PrefetchSize PRGIndex STAG",
      Range: "AtcSize PrefetchSize PRGIndex STAG MSIAddr",
      AtcSize: "PrefetchSize Stride PRGIndex STAG MSIAddr",
      PrefetchSize: "PRGIndex STAG MSIAddr",
      Stride: "TTL128 TTL DptSize PRGIndex STAG MSIAddr",
      NS: "TG DptSize STAG MSIAddr",
      TTL128: "PRGIndex STAG MSIAddr",
      TTL: "DptSize PRGIndex STAG MSIAddr",
      TG: "DptSize STAG MSIAddr",
      DptSize: "PRGIndex STAG MSIAddr",
      PRGIndex: "STAG MSIAddr",
      Resp: "STAG Address MSIAddr",
      STAG: "Address MSIAddr",
      Address: "MSIAddr MSI_NS",
    });
  });
});
