import { definedBits, defineFields } from "./field.ts";
import type { Fields, FieldSpecs } from "./field.ts";
import { REGISTER_FIELDS } from "./register-fields.ts";
import type { RegisterDef } from "./registers.ts";

const FIELDS = {
  CMDQ_CONTROL_PAGE_BASE: { CMDQ_CONTROL_PAGE_PRESET: [0, 0], CMDQGS: [2, 1], ADDR: [55, 16, "address"] },
  CMDQ_CONTROL_PAGE_CFG: { EN: [0, 0] },
  CMDQ_CONTROL_PAGE_STATUS: { ENACK: [0, 0] },
  VATOS_CTRL: REGISTER_FIELDS.GATOS_CTRL,
  VATOS_SID: REGISTER_FIELDS.GATOS_SID,
  VATOS_ADDR: REGISTER_FIELDS.GATOS_ADDR,
  VATOS_PAR: REGISTER_FIELDS.GATOS_PAR,
  ECMDQ_BASE: REGISTER_FIELDS.CMDQ_BASE,
  ECMDQ_PROD: { WR: [19, 0], ERRACK: [23, 23], EN: [31, 31] },
  ECMDQ_CONS: { RD: [19, 0], ERR: [23, 23], ERR_REASON: [26, 24], ENACK: [31, 31] },
} as const;

/** Bytes of a page of registers. */
export const PAGE_BYTES = 0x10000;

/**
 * Registers of which there are several, or whose page is optional (6.2.1, 6.2.3, 6.2.5). Offsets are relative: CMDQ_CONTROL_PAGE_*
 * to {@link ECMDQ_CONTROL_PAGE}, VATOS_* to the VATOS page, ECMDQ_* to the place of the queue in its control page.
 */
export const PAGE_REGISTERS = {
  CMDQ_CONTROL_PAGE_BASE: { offset: 0x0, bits: 64, access: "id", feature: "ecmdq", section: "6.3.49" },
  CMDQ_CONTROL_PAGE_CFG: { offset: 0x8, bits: 32, access: "id", feature: "ecmdq", section: "6.3.50" },
  CMDQ_CONTROL_PAGE_STATUS: { offset: 0xc, bits: 32, access: "id", feature: "ecmdq", section: "6.3.51" },
  VATOS_CTRL: { offset: 0xa00, bits: 32, access: "rw", guard: "vatos-idle", feature: "vatos", reset: 0, section: "6.3.99" },
  VATOS_SID: { offset: 0xa08, bits: 64, access: "rw", guard: "vatos-idle", feature: "vatos", section: "6.3.100" },
  VATOS_ADDR: { offset: 0xa10, bits: 64, access: "rw", guard: "vatos-idle", feature: "vatos", section: "6.3.101" },
  VATOS_PAR: { offset: 0xa18, bits: 64, access: "ro", feature: "vatos", section: "6.3.102" },
  ECMDQ_BASE: { offset: 0x0, bits: 64, access: "rw", guard: "ecmdq-en", feature: "ecmdq", section: "6.2.5" },
  ECMDQ_PROD: { offset: 0x8, bits: 32, access: "rw", feature: "ecmdq", resetClear: -0x8000_0000, section: "6.2.5" },
  ECMDQ_CONS: { offset: 0xc, bits: 32, access: "rw", guard: "ecmdq-en", feature: "ecmdq", resetClear: -0x8000_0000, section: "6.2.5" },
} as const satisfies Record<keyof typeof FIELDS, RegisterDef>;

export type PageRegisterName = keyof typeof PAGE_REGISTERS;

/** Where CMDQ_CONTROL_PAGE_BASE<n>, CFG<n> and STATUS<n> are: `base + stride * n`, and `secureBase` for the Secure ones (6.2.1). */
export const ECMDQ_CONTROL_PAGE = { base: 0x4000, secureBase: 0xc000, stride: 32, count: 256 } as const;

/** The identification block at 0xfd0 (6.2.1): offsets of the peripheral and the component identification registers. */
export const ID_REGS = { offset: 0xfd0, words: 12, PIDR4: 0xfd0, PIDR0: 0xfe0, CIDR0: 0xff0 } as const;

type PageFields = { readonly [R in PageRegisterName]: Fields<R, (typeof FIELDS)[R]> };

function buildFields(): PageFields {
  const rows = Object.entries<FieldSpecs>(FIELDS).map(([name, specs]) => [name, defineFields(name, specs)]);
  return Object.fromEntries(rows) as PageFields;
}

/** Fields by register: `PAGE_FIELDS.ECMDQ_PROD.EN`. */
export const PAGE_FIELDS: PageFields = /* @__PURE__ */ buildFields();

/** Bits of a register that have a meaning, as `[lo, hi]` int32. */
export function pageRegisterMask(name: PageRegisterName): readonly [lo: number, hi: number] {
  const mask = definedBits(PAGE_FIELDS[name], 2);
  return [mask[0]!, mask[1]!];
}
