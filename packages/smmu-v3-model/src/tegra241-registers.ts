/** A field of a register. */
export interface Bits {
  readonly shift: number;
  readonly mask: number;
}

function bits(msb: number, lsb: number): Bits {
  return { shift: lsb, mask: 2 ** (msb - lsb + 1) - 1 };
}

/** Bit 0 of CONFIG, STATUS, VINTF_CONFIG, VINTF_STATUS, SID_MATCH, CMDQ_ALLOC, VCMDQ_CONFIG and VCMDQ_STATUS. */
export const ENABLE = 1;

/** The register blocks: a configuration page, two pages for all queues, then two pages for each VINTF. */
export const CMDQV_PAGE = 0x10000;
export const CMDQV_VINTF_PAGES = 0x30000;
export const CMDQV_VINTF_STRIDE = 0x20000;
/** Bytes from one queue to the next in a page of queues. */
export const CMDQV_VCMDQ_STRIDE = 0x80;

/** Offsets in the configuration page. */
export const CMDQV = {
  CONFIG: 0x0,
  PARAM: 0x4,
  STATUS: 0x8,
  /** Two words, a bit per VINTF with an error. */
  VINTF_ERR_MAP: 0x14,
  /** Two words, a bit per VINTF that does not interrupt. */
  VINTF_INT_MASK: 0x1c,
  /** Four words, a bit per VCMDQ with an error. */
  CMDQ_ERR_MAP: 0x24,
  /** A word per VCMDQ. */
  CMDQ_ALLOC: 0x200,
  /** Blocks of VINTF registers. */
  VINTF: 0x1000,
  VINTF_STRIDE: 0x100,
} as const;

/** Offsets in a block of VINTF registers. */
export const VINTF = { CONFIG: 0x0, STATUS: 0x4, SID_MATCH: 0x40, SID_REPLACE: 0x80, LVCMDQ_ERR_MAP: 0xc0 } as const;

/** Offsets of a VCMDQ in page 0, and in page 1. */
export const VCMDQ = { CONS: 0x0, PROD: 0x4, CONFIG: 0x8, STATUS: 0xc, GERROR: 0x10, GERRORN: 0x14 } as const;
export const VCMDQ_PAGE1 = { BASE: 0x0, CONS_INDX_BASE: 0x8 } as const;

type FieldName =
  | "PARAM_VER"
  | "PARAM_NUM_VCMDQ_LOG2"
  | "PARAM_NUM_VINTF_LOG2"
  | "PARAM_SID_PER_VM_LOG2"
  | "ALLOC_LVCMDQ"
  | "ALLOC_VINTF"
  | "VINTF_VMID"
  | "VINTF_HYP_OWN"
  | "MATCH_VIRT_SID"
  | "CONS_ERR"
  | "INDEX"
  | "BASE_LOG2SIZE";

export const CMDQV_FIELD: Readonly<Record<FieldName, Bits>> = {
  PARAM_VER: bits(3, 0),
  PARAM_NUM_VCMDQ_LOG2: bits(7, 4),
  PARAM_NUM_VINTF_LOG2: bits(11, 8),
  PARAM_SID_PER_VM_LOG2: bits(15, 12),
  ALLOC_LVCMDQ: bits(7, 1),
  ALLOC_VINTF: bits(20, 15),
  VINTF_VMID: bits(16, 1),
  VINTF_HYP_OWN: bits(17, 17),
  MATCH_VIRT_SID: bits(20, 1),
  CONS_ERR: bits(30, 24),
  INDEX: bits(19, 0),
  BASE_LOG2SIZE: bits(4, 0),
};

/** VCMDQ_GERROR: a command is in error; see VCMDQ_CONS. */
export const VCMDQ_GERROR_CMDQ_ERR = 1;
/** BASE.ADDR [47:5]. */
export const VCMDQ_BASE_LO: number = ~0x1f;
export const VCMDQ_BASE_HI = 0xffff;

export function read(word: number, field: Bits): number {
  return (word >>> field.shift) & field.mask;
}

export function put(field: Bits, value: number): number {
  return (value & field.mask) << field.shift;
}

export function inPlace(field: Bits): number {
  return field.mask << field.shift;
}
