import { defineFields, namesBy } from "./field.ts";
import type { Fields } from "./field.ts";

/** 32 bytes. */
export const EVENT_WORDS = 8;
export const EVENT_BYTES = 32;

/**
 * Fields of all event records, IHI 0070 7.3; the ones a record has are listed in {@link EVENTS}. Where the manual gives one
 * name to several places, all but one have a prefix here: ConflictReason is Reason, AtsSpan is Span, AtsP to AtsR are P to R.
 */
export const EVENT_SPEC = {
  Type: [7, 0],
  SSV: [11, 11],
  SSID: [31, 12],
  SID: [63, 32],
  STAG: [79, 64],
  Reason: [79, 64],
  ConflictReason: [95, 64],
  AtsSpan: [67, 64],
  GPCF: [80, 80],
  AtsP: [92, 92],
  AtsX: [93, 93],
  AtsW: [94, 94],
  AtsR: [95, 95],
  Stall: [95, 95],
  PnU: [97, 97],
  uX: [97, 97],
  uW: [98, 98],
  uR: [99, 99],
  pX: [101, 101],
  pW: [102, 102],
  pR: [103, 103],
  InD: [98, 98],
  RnW: [99, 99],
  NSIPA: [102, 102],
  S2: [103, 103],
  CLASS: [105, 104],
  DirtyBit: [106, 106],
  AssuredOnly: [107, 107],
  TTRnW: [108, 108],
  Overlay: [109, 109],
  Span: [115, 108],
  IMPL_DEF: [127, 112],
  InputAddr: [191, 128, "address"],
  FetchAddr: [247, 195, "address"],
  IPA: [247, 204, "address"],
} as const;

export const EVENT: Fields<"EVENT", typeof EVENT_SPEC> = /* @__PURE__ */ defineFields("EVENT", EVENT_SPEC);

export type EventField = keyof typeof EVENT_SPEC;

/** EVENT.CLASS: what was being translated. */
export const EVENT_CLASS = { CD: 0, TT: 1, IN: 2 } as const;

export interface EventDef {
  readonly type: number;
  /** Fields besides Type and SID. */
  readonly fields: readonly EventField[];
  readonly section: string;
}

const SUBSTREAM = ["SSV", "SSID"] as const;
const ACCESS_BITS = ["PnU", "InD", "RnW"] as const;
const TRANSLATION = [...SUBSTREAM, "STAG", "Stall", ...ACCESS_BITS, "NSIPA", "S2", "CLASS", "IMPL_DEF", "InputAddr", "IPA"] as const;

/** Every event record, by its name. */
export const EVENTS = {
  F_UUT: { type: 0x01, fields: [...SUBSTREAM, "Reason", ...ACCESS_BITS, "InputAddr"], section: "7.3.2" },
  C_BAD_STREAMID: { type: 0x02, fields: SUBSTREAM, section: "7.3.3" },
  F_STE_FETCH: { type: 0x03, fields: [...SUBSTREAM, "Reason", "GPCF", "FetchAddr"], section: "7.3.4" },
  C_BAD_STE: { type: 0x04, fields: SUBSTREAM, section: "7.3.5" },
  F_BAD_ATS_TREQ: {
    type: 0x05,
    fields: [...SUBSTREAM, "AtsSpan", "AtsP", "AtsX", "AtsW", "AtsR", "InputAddr"],
    section: "7.3.6",
  },
  F_STREAM_DISABLED: { type: 0x06, fields: [], section: "7.3.7" },
  F_TRANSL_FORBIDDEN: { type: 0x07, fields: ["RnW", "InputAddr"], section: "7.3.8" },
  /** SSID is always valid: there is no SSV. */
  C_BAD_SUBSTREAMID: { type: 0x08, fields: ["SSID"], section: "7.3.9" },
  F_CD_FETCH: { type: 0x09, fields: [...SUBSTREAM, "Reason", "GPCF", "FetchAddr"], section: "7.3.10" },
  C_BAD_CD: { type: 0x0a, fields: SUBSTREAM, section: "7.3.11" },
  F_WALK_EABT: {
    type: 0x0b,
    fields: [...SUBSTREAM, "Reason", "GPCF", ...ACCESS_BITS, "NSIPA", "S2", "CLASS", "InputAddr", "FetchAddr"],
    section: "7.3.12",
  },
  F_TRANSLATION: { type: 0x10, fields: TRANSLATION, section: "7.3.13" },
  F_ADDR_SIZE: { type: 0x11, fields: TRANSLATION, section: "7.3.14" },
  F_ACCESS: { type: 0x12, fields: TRANSLATION, section: "7.3.15" },
  F_PERMISSION: { type: 0x13, fields: [...TRANSLATION, "TTRnW", "Overlay", "AssuredOnly", "DirtyBit"], section: "7.3.16" },
  F_TLB_CONFLICT: {
    type: 0x20,
    fields: [...SUBSTREAM, "ConflictReason", ...ACCESS_BITS, "NSIPA", "S2", "InputAddr", "IPA"],
    section: "7.3.17",
  },
  F_CFG_CONFLICT: { type: 0x21, fields: [...SUBSTREAM, "ConflictReason"], section: "7.3.18" },
  E_PAGE_REQUEST: {
    type: 0x24,
    fields: [...SUBSTREAM, "pR", "pW", "pX", "uR", "uW", "uX", "Span", "InputAddr"],
    section: "7.3.19",
  },
  F_VMS_FETCH: { type: 0x25, fields: [...SUBSTREAM, "Reason", "GPCF", "FetchAddr"], section: "7.3.20" },
} as const satisfies Record<string, EventDef>;

export type EventName = keyof typeof EVENTS;

/** Name of an event type, or undefined when it is reserved or IMPLEMENTATION DEFINED. */
export const EVENT_NAMES: ReadonlyMap<number, EventName> = /* @__PURE__ */ namesBy(EVENTS, ({ type }) => [type]);

/** 16 bytes. */
export const PRIQ_WORDS = 4;
export const PRIQ_BYTES = 16;

/** Page request record, IHI 0070 chapter 8. */
export const PRI_SPEC = {
  SID: [31, 0],
  SSID: [51, 32],
  PRIV: [58, 58],
  EXEC: [59, 59],
  READ: [60, 60],
  WRITE: [61, 61],
  LAST: [62, 62],
  SSV: [63, 63],
  PRGIndex: [72, 64],
  Addr: [127, 76, "address"],
} as const;
export const PRI: Fields<"PRI", typeof PRI_SPEC> = /* @__PURE__ */ defineFields("PRI", PRI_SPEC);
