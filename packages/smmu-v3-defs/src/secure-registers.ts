import { definedBits, defineFields } from "./field.ts";
import type { Fields, FieldSpecs } from "./field.ts";
import { REGISTER_FIELDS } from "./register-fields.ts";
import type { RegisterDef } from "./registers.ts";

const { CR1, CR2, GBPA, GERROR_IRQ_CFG0, GERROR_IRQ_CFG1, GERROR_IRQ_CFG2, GATOS_SID, GATOS_ADDR, GATOS_PAR } = REGISTER_FIELDS;
const { E2H, RECINVSID, PTM } = CR2;

const S_CR0_BITS = { SMMUEN: [0, 0], EVENTQEN: [2, 2], CMDQEN: [3, 3], SIF: [5, 5], VMW: [8, 6], NSSTALLD: [9, 9] } as const;
const S_IRQ_CTRL_BITS = { GERROR_IRQEN: [0, 0], EVENTQ_IRQEN: [2, 2] } as const;
const S_GERROR_BITS = {
  CMDQ_ERR: [0, 0],
  EVENTQ_ABT_ERR: [2, 2],
  MSI_CMDQ_ABT_ERR: [4, 4],
  MSI_EVENTQ_ABT_ERR: [5, 5],
  MSI_GERROR_ABT_ERR: [7, 7],
  SFM_ERR: [8, 8],
  CMDQP_ERR: [9, 9],
} as const;

/** Bit positions of the Secure registers; what is not written out is as in the Non-secure register of the name. */
const FIELDS = {
  S_IDR0: { MSI: [13, 13], STALL_MODEL: [25, 24], ECMDQ: [31, 31] },
  S_IDR1: { S_SIDSIZE: [5, 0], SEL2: [29, 29], SECURE_IMPL: [31, 31] },
  S_IDR2: { BA_S_VATOS: [9, 0] },
  S_IDR3: { SAMS: [6, 6] },
  S_IDR4: { IMPLEMENTATION_DEFINED: [31, 0] },
  S_CR0: S_CR0_BITS,
  S_CR0ACK: S_CR0_BITS,
  S_CR1: CR1,
  S_CR2: { E2H, RECINVSID, PTM },
  S_S2PII: REGISTER_FIELDS.S2PII,
  S_INIT: { INV_ALL: [0, 0] },
  S_GBPA: { ...GBPA, NSCFG: [15, 14] },
  S_AGBPA: REGISTER_FIELDS.AGBPA,
  S_IRQ_CTRL: S_IRQ_CTRL_BITS,
  S_IRQ_CTRLACK: S_IRQ_CTRL_BITS,
  S_GERROR: S_GERROR_BITS,
  S_GERRORN: S_GERROR_BITS,
  S_GERROR_IRQ_CFG0: GERROR_IRQ_CFG0,
  S_GERROR_IRQ_CFG1: GERROR_IRQ_CFG1,
  S_GERROR_IRQ_CFG2: GERROR_IRQ_CFG2,
  S_STRTAB_BASE: REGISTER_FIELDS.STRTAB_BASE,
  S_STRTAB_BASE_CFG: REGISTER_FIELDS.STRTAB_BASE_CFG,
  S_CMDQ_BASE: REGISTER_FIELDS.CMDQ_BASE,
  S_CMDQ_PROD: REGISTER_FIELDS.CMDQ_PROD,
  S_CMDQ_CONS: REGISTER_FIELDS.CMDQ_CONS,
  S_EVENTQ_BASE: REGISTER_FIELDS.EVENTQ_BASE,
  S_EVENTQ_PROD: REGISTER_FIELDS.EVENTQ_PROD,
  S_EVENTQ_CONS: REGISTER_FIELDS.EVENTQ_CONS,
  S_EVENTQ_IRQ_CFG0: REGISTER_FIELDS.EVENTQ_IRQ_CFG0,
  S_EVENTQ_IRQ_CFG1: REGISTER_FIELDS.EVENTQ_IRQ_CFG1,
  S_EVENTQ_IRQ_CFG2: REGISTER_FIELDS.EVENTQ_IRQ_CFG2,
  S_GATOS_CTRL: REGISTER_FIELDS.GATOS_CTRL,
  S_GATOS_SID: { ...GATOS_SID, SSEC: [53, 53] },
  S_GATOS_ADDR: { ...GATOS_ADDR, NS: [4, 4] },
  S_GATOS_PAR: { ...GATOS_PAR, NS: [10, 10] },
  S_MPAMIDR: REGISTER_FIELDS.MPAMIDR,
  S_GMPAM: REGISTER_FIELDS.GMPAM,
  S_GBPMPAM: REGISTER_FIELDS.GBPMPAM,
  S_VATOS_SEL: REGISTER_FIELDS.VATOS_SEL,
  S_IDR6: REGISTER_FIELDS.IDR6,
} as const;

/** The Secure registers, IHI 0070 6.2.1, in the order of their offsets. To a Non-secure access they are RAZ/WI. */
export const SECURE_REGISTERS = {
  S_IDR0: { offset: 0x8000, bits: 32, access: "id", feature: "secure", section: "6.3.52" },
  S_IDR1: { offset: 0x8004, bits: 32, access: "id", feature: "secure", section: "6.3.53" },
  S_IDR2: { offset: 0x8008, bits: 32, access: "id", feature: "secure", section: "6.3.54" },
  S_IDR3: { offset: 0x800c, bits: 32, access: "id", feature: "secure", section: "6.3.55" },
  S_IDR4: { offset: 0x8010, bits: 32, access: "id", feature: "secure", section: "6.3.56" },
  S_CR0: { offset: 0x8020, bits: 32, access: "rw", feature: "secure", reset: 0, section: "6.3.57" },
  S_CR0ACK: { offset: 0x8024, bits: 32, access: "ro", feature: "secure", reset: 0, section: "6.3.58" },
  S_CR1: { offset: 0x8028, bits: 32, access: "rw", feature: "secure", section: "6.3.59" },
  S_CR2: { offset: 0x802c, bits: 32, access: "rw", guard: "s-smmuen", feature: "secure", section: "6.3.60" },
  S_S2PII: { offset: 0x8030, bits: 64, access: "rw", feature: "secureS2pi", section: "6.3.61" },
  S_INIT: { offset: 0x803c, bits: 32, access: "rw", feature: "secure", reset: 0, section: "6.3.62" },
  S_GBPA: { offset: 0x8044, bits: 32, access: "update", feature: "secure", reset: "impdef", section: "6.3.63" },
  S_AGBPA: { offset: 0x8048, bits: 32, access: "rw", feature: "secure", reset: "impdef", section: "6.3.64" },
  S_IRQ_CTRL: { offset: 0x8050, bits: 32, access: "rw", feature: "secure", reset: 0, section: "6.3.65" },
  S_IRQ_CTRLACK: { offset: 0x8054, bits: 32, access: "ro", feature: "secure", reset: 0, section: "6.3.66" },
  S_GERROR: { offset: 0x8060, bits: 32, access: "ro", feature: "secure", reset: 0, section: "6.3.67" },
  S_GERRORN: { offset: 0x8064, bits: 32, access: "rw", feature: "secure", reset: 0, section: "6.3.68" },
  S_GERROR_IRQ_CFG0: { offset: 0x8068, bits: 64, access: "rw", guard: "s-irq-gerror", feature: "secureMsi", section: "6.3.69" },
  S_GERROR_IRQ_CFG1: { offset: 0x8070, bits: 32, access: "rw", guard: "s-irq-gerror", feature: "secureMsi", section: "6.3.70" },
  S_GERROR_IRQ_CFG2: { offset: 0x8074, bits: 32, access: "rw", guard: "s-irq-gerror", feature: "secureMsi", section: "6.3.71" },
  S_STRTAB_BASE: { offset: 0x8080, bits: 64, access: "rw", guard: "s-smmuen", feature: "secure", section: "6.3.72" },
  S_STRTAB_BASE_CFG: { offset: 0x8088, bits: 32, access: "rw", guard: "s-smmuen", feature: "secure", section: "6.3.73" },
  S_CMDQ_BASE: { offset: 0x8090, bits: 64, access: "rw", guard: "s-cmdqen", feature: "secure", section: "6.3.74" },
  S_CMDQ_PROD: { offset: 0x8098, bits: 32, access: "rw", feature: "secure", section: "6.3.75" },
  S_CMDQ_CONS: { offset: 0x809c, bits: 32, access: "rw", guard: "s-cmdqen", feature: "secure", section: "6.3.76" },
  S_EVENTQ_BASE: { offset: 0x80a0, bits: 64, access: "rw", guard: "s-eventqen", feature: "secure", section: "6.3.77" },
  S_EVENTQ_PROD: { offset: 0x80a8, bits: 32, access: "rw", guard: "s-eventqen", feature: "secure", section: "6.3.78" },
  S_EVENTQ_CONS: { offset: 0x80ac, bits: 32, access: "rw", feature: "secure", section: "6.3.79" },
  S_EVENTQ_IRQ_CFG0: { offset: 0x80b0, bits: 64, access: "rw", guard: "s-irq-eventq", feature: "secureMsi", section: "6.3.80" },
  S_EVENTQ_IRQ_CFG1: { offset: 0x80b8, bits: 32, access: "rw", guard: "s-irq-eventq", feature: "secureMsi", section: "6.3.81" },
  S_EVENTQ_IRQ_CFG2: { offset: 0x80bc, bits: 32, access: "rw", guard: "s-irq-eventq", feature: "secureMsi", section: "6.3.82" },
  S_GATOS_CTRL: { offset: 0x8100, bits: 32, access: "rw", guard: "s-gatos-idle", feature: "secureAtos", reset: 0, section: "6.3.83" },
  S_GATOS_SID: { offset: 0x8108, bits: 64, access: "rw", guard: "s-gatos-idle", feature: "secureAtos", section: "6.3.84" },
  S_GATOS_ADDR: { offset: 0x8110, bits: 64, access: "rw", guard: "s-gatos-idle", feature: "secureAtos", section: "6.3.85" },
  S_GATOS_PAR: { offset: 0x8118, bits: 64, access: "ro", feature: "secureAtos", section: "6.3.86" },
  S_MPAMIDR: { offset: 0x8130, bits: 32, access: "id", feature: "secureMpam", section: "6.3.87" },
  S_GMPAM: { offset: 0x8138, bits: 32, access: "update", feature: "secureMpam", reset: 0, section: "6.3.88" },
  S_GBPMPAM: { offset: 0x813c, bits: 32, access: "update", feature: "secureMpam", reset: 0, section: "6.3.89" },
  S_VATOS_SEL: { offset: 0x8180, bits: 32, access: "rw", feature: "secureVatos", section: "6.3.90" },
  S_IDR6: { offset: 0x8190, bits: 32, access: "id", feature: "secureEcmdq", section: "6.3.91" },
} as const satisfies Record<keyof typeof FIELDS, RegisterDef>;

export type SecureRegisterName = keyof typeof SECURE_REGISTERS;

type SecureFields = { readonly [R in SecureRegisterName]: Fields<R, (typeof FIELDS)[R]> };

function buildFields(): SecureFields {
  const rows = Object.entries<FieldSpecs>(FIELDS).map(([name, specs]) => [name, defineFields(name, specs)]);
  return Object.fromEntries(rows) as SecureFields;
}

/** Fields by Secure register: `S_REG.S_CR0.SMMUEN`. */
export const S_REG: SecureFields = /* @__PURE__ */ buildFields();

function buildOffsets(): Readonly<Record<SecureRegisterName, number>> {
  const offsets = Object.entries(SECURE_REGISTERS).map(([name, { offset }]) => [name, offset]);
  return Object.fromEntries(offsets) as Readonly<Record<SecureRegisterName, number>>;
}

/** Byte offset of a Secure register: `S_OFFSET.S_CR0`. */
export const S_OFFSET: Readonly<Record<SecureRegisterName, number>> = /* @__PURE__ */ buildOffsets();

/** Bits of a Secure register that have a meaning, as `[lo, hi]` int32. */
export function secureRegisterMask(name: SecureRegisterName): readonly [lo: number, hi: number] {
  const mask = definedBits(S_REG[name], 2);
  return [mask[0]!, mask[1]!];
}
