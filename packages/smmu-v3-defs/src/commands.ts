import { defineFields, namesBy } from "./field.ts";
import type { Fields } from "./field.ts";

/** 16 bytes. */
export const CMD_WORDS = 4;
export const CMD_BYTES = 16;

/**
 * Fields of all commands, IHI 0070 4.1 to 4.7; the ones a command has are listed in {@link COMMANDS}. Where the manual gives
 * one name to several places, all but one have a prefix here: AtcSize, PrefetchSize and DptSize are Size, TlbiNS is NS.
 */
export const CMD_SPEC = {
  Opcode: [7, 0],
  Global: [9, 9],
  SSec: [10, 10],
  SSV: [11, 11],
  SSID: [31, 12],
  SID: [63, 32],
  VMID: [47, 32],
  ASID: [63, 48],
  NUM: [16, 12],
  SCALE: [25, 20],
  Ac: [12, 12],
  Ab: [13, 13],
  CS: [13, 12],
  MSH: [23, 22],
  MSIAttr: [27, 24],
  MSIData: [63, 32],

  Leaf: [64, 64],
  TlbiNS: [65, 65],
  Range: [68, 64],
  AtcSize: [69, 64],
  PrefetchSize: [68, 64],
  Stride: [73, 69],
  NS: [75, 75],
  TTL128: [71, 71],
  TTL: [73, 72],
  TG: [75, 74],
  DptSize: [75, 72],
  PRGIndex: [72, 64],
  Resp: [77, 76],
  STAG: [79, 64],
  Address: [127, 76, "address"],
  MSIAddr: [119, 66, "address"],
  MSI_NS: [127, 127],
} as const;

export const CMD: Fields<"CMD", typeof CMD_SPEC> = /* @__PURE__ */ defineFields("CMD", CMD_SPEC);

export type CommandField = keyof typeof CMD_SPEC;

export interface CommandDef {
  readonly opcode: number;
  /** Fields besides Opcode. */
  readonly fields: readonly CommandField[];
  /** Top bit of Address where it is an IPA or a PA (4.1.6); the bits above are RES0. */
  readonly addressMsb?: number;
  /** Section of the manual. */
  readonly section: string;
}

const S = "SSec";
const RANGE_TLBI = ["NUM", "SCALE", "Leaf", "TTL128", "TTL", "TG", "Address"] as const;

/** Every command, by its name without the `CMD_` prefix. CFGI_ALL is CFGI_STE_RANGE with {@link CFGI_RANGE_ALL} (4.3.6). */
export const COMMANDS = {
  PREFETCH_CONFIG: { opcode: 0x01, fields: [S, "SSV", "SSID", "SID"], section: "4.2.1" },
  PREFETCH_ADDR: {
    opcode: 0x02,
    fields: [S, "SSV", "SSID", "SID", "PrefetchSize", "Stride", "NS", "Address"],
    section: "4.2.2",
  },
  CFGI_STE: { opcode: 0x03, fields: [S, "SID", "Leaf"], section: "4.3.1" },
  CFGI_STE_RANGE: { opcode: 0x04, fields: [S, "SID", "Range"], section: "4.3.2" },
  CFGI_CD: { opcode: 0x05, fields: [S, "SSID", "SID", "Leaf"], section: "4.3.3" },
  CFGI_CD_ALL: { opcode: 0x06, fields: [S, "SID"], section: "4.3.4" },
  CFGI_VMS_PIDM: { opcode: 0x07, fields: [S, "VMID"], section: "4.3.5" },
  TLBI_NH_ALL: { opcode: 0x10, fields: ["VMID"], section: "4.4.2.1" },
  TLBI_NH_ASID: { opcode: 0x11, fields: ["VMID", "ASID"], section: "4.4.2.2" },
  TLBI_NH_VA: { opcode: 0x12, fields: ["VMID", "ASID", ...RANGE_TLBI], section: "4.4.2.4" },
  TLBI_NH_VAA: { opcode: 0x13, fields: ["VMID", ...RANGE_TLBI], section: "4.4.2.3" },
  TLBI_EL3_ALL: { opcode: 0x18, fields: [], section: "4.4.2.5" },
  TLBI_EL3_VA: { opcode: 0x1a, fields: RANGE_TLBI, section: "4.4.2.6" },
  TLBI_EL2_ALL: { opcode: 0x20, fields: [], section: "4.4.2.7" },
  TLBI_EL2_ASID: { opcode: 0x21, fields: ["ASID"], section: "4.4.2.10" },
  TLBI_EL2_VA: { opcode: 0x22, fields: ["ASID", ...RANGE_TLBI], section: "4.4.2.8" },
  TLBI_EL2_VAA: { opcode: 0x23, fields: RANGE_TLBI, section: "4.4.2.9" },
  TLBI_S12_VMALL: { opcode: 0x28, fields: ["VMID"], section: "4.4.3.2" },
  TLBI_S2_IPA: { opcode: 0x2a, fields: ["VMID", ...RANGE_TLBI], addressMsb: 55, section: "4.4.3.1" },
  TLBI_NSNH_ALL: { opcode: 0x30, fields: [], section: "4.4.4.1" },
  ATC_INV: { opcode: 0x40, fields: ["Global", "SSV", "SSID", "SID", "AtcSize", "Address"], section: "4.5.1" },
  PRI_RESP: { opcode: 0x41, fields: ["SSV", "SSID", "SID", "PRGIndex", "Resp"], section: "4.5.2" },
  RESUME: { opcode: 0x44, fields: [S, "Ac", "Ab", "SID", "STAG"], section: "4.7.1" },
  STALL_TERM: { opcode: 0x45, fields: [S, "SID"], section: "4.7.2" },
  SYNC: { opcode: 0x46, fields: ["CS", "MSH", "MSIAttr", "MSIData", "MSIAddr", "MSI_NS"], section: "4.7.3" },
  TLBI_S_EL2_ALL: { opcode: 0x50, fields: [], section: "4.4.2.11" },
  TLBI_S_EL2_ASID: { opcode: 0x51, fields: ["ASID"], section: "4.4.2.14" },
  TLBI_S_EL2_VA: { opcode: 0x52, fields: ["ASID", ...RANGE_TLBI], section: "4.4.2.12" },
  TLBI_S_EL2_VAA: { opcode: 0x53, fields: RANGE_TLBI, section: "4.4.2.13" },
  TLBI_S_S12_VMALL: { opcode: 0x58, fields: ["VMID"], section: "4.4.3.4" },
  TLBI_S_S2_IPA: {
    opcode: 0x5a,
    fields: ["VMID", ...RANGE_TLBI, "TlbiNS"],
    addressMsb: 55,
    section: "4.4.3.3",
  },
  TLBI_SNH_ALL: { opcode: 0x60, fields: [], section: "4.4.4.2" },
  DPTI_ALL: { opcode: 0x70, fields: [], section: "4.6.1" },
  DPTI_PA: { opcode: 0x73, fields: ["Leaf", "DptSize", "Address"], addressMsb: 55, section: "4.6.2" },
} as const satisfies Record<string, CommandDef>;

export type CommandName = keyof typeof COMMANDS;

/** Name of an opcode, or undefined when it is reserved. */
export const COMMAND_NAMES: ReadonlyMap<number, CommandName> = /* @__PURE__ */ namesBy(COMMANDS, ({ opcode }) => [
  opcode,
]);

/** CMD_SYNC.CS. */
export const SYNC_CS = { none: 0, irq: 1, sev: 2 } as const;
/** CMD_RESUME: bit 0 = Ac, bit 1 = Ab, at [13:12]. */
export const RESUME_RESP = { terminate: 0, retry: 1, abort: 2 } as const;
/** CMD_PRI_RESP.Resp. */
export const PRI_RESPONSE = { failure: 0, invalid: 1, success: 2 } as const;
/** CMDQ_CONS.ERR, 7.1. */
export const CERROR = { NONE: 0, ILL: 1, ABT: 2, ATC_INV_SYNC: 3 } as const;
/** CMD_CFGI_STE_RANGE.Range that means all. */
export const CFGI_RANGE_ALL = 31;
/** CMD_ATC_INV.Size that covers the whole address space. */
export const ATC_INV_SIZE_ALL = 52;
