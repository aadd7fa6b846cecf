import { definedBits, defineFields, namesBy } from "./field.ts";
import type { Fields, FieldSpecs } from "./field.ts";
import { REGISTER_FIELDS } from "./register-fields.ts";
import type { RegisterFieldSpecs } from "./register-fields.ts";

/**
 * How software may access a register.
 * - `id`: read-only, the value is the implementation's.
 * - `ro`: read-only, kept by the SMMU.
 * - `rw`: read-write, subject to {@link RegisterDef.guard}.
 * - `update`: written only together with its UPDATE bit while that reads 0 (6.3.14.1).
 */
export type AccessKind = "id" | "ro" | "rw" | "update";

/** Condition under which a write is taken; otherwise it is ignored (values of v3.2 and later). */
export type Guard =
  /** SMMUEN and its acknowledge are 0 (6.3.24, 6.3.25). */
  | "smmuen"
  | "cmdqen"
  | "eventqen"
  | "priqen"
  /** The IRQ_CTRL enable of the same name and its acknowledge are 0. */
  | "irq-gerror"
  | "irq-eventq"
  | "irq-priq"
  /** DPT_WALK_EN and its acknowledge are 0 (6.3.46). */
  | "dpt-walk-en"
  /** RUN of GATOS_CTRL, S_GATOS_CTRL, VATOS_CTRL is 0. */
  | "gatos-idle"
  | "s-gatos-idle"
  | "vatos-idle"
  /** The same of the Secure CR0 and IRQ_CTRL. */
  | "s-smmuen"
  | "s-cmdqen"
  | "s-eventqen"
  | "s-irq-gerror"
  | "s-irq-eventq"
  /** EN of the ECMDQ and its ENACK are 0 (3.5.6.2). */
  | "ecmdq-en";

/** Feature without which a register is RES0. `secure*` are of S_IDR0 and S_IDR1, together with the other feature of the name. */
export type Feature =
  | "msi"
  | "pri"
  | "atos"
  | "vatos"
  | "mpam"
  | "s2pi"
  | "ecmdq"
  | "dpt"
  | "secure"
  | "secureMsi"
  | "secureAtos"
  | "secureVatos"
  | "secureMpam"
  | "secureS2pi"
  | "secureEcmdq";

export interface RegisterDef {
  readonly offset: number;
  readonly bits: 32 | 64;
  readonly access: AccessKind;
  readonly guard?: Guard;
  readonly feature?: Feature;
  /** Value after reset where the architecture gives one, or leaves it IMPLEMENTATION DEFINED ("impdef"); else it is UNKNOWN. */
  readonly reset?: number | "impdef";
  /** Bits that are 0 after reset where the others are UNKNOWN. */
  readonly resetClear?: number;
  readonly section: string;
}

/** Offset of page 1 from page 0. */
export const PAGE1 = 0x10000;
/** Bytes of the register space without optional pages. */
export const REGISTER_SPACE = 0x20000;

/**
 * Every Non-secure register of page 0 and page 1, IHI 0070 6.2.1 and 6.2.2, by offset. Page 1 registers have their full offset.
 * Not here: ID_REGS, Secure registers, optional pages; see SECURE_REGISTERS, PAGE_REGISTERS.
 */
export const REGISTERS = {
  IDR0: { offset: 0x0, bits: 32, access: "id", section: "6.3.1" },
  IDR1: { offset: 0x4, bits: 32, access: "id", section: "6.3.2" },
  IDR2: { offset: 0x8, bits: 32, access: "id", section: "6.3.3" },
  IDR3: { offset: 0xc, bits: 32, access: "id", section: "6.3.4" },
  IDR4: { offset: 0x10, bits: 32, access: "id", section: "6.3.5" },
  IDR5: { offset: 0x14, bits: 32, access: "id", section: "6.3.6" },
  IIDR: { offset: 0x18, bits: 32, access: "id", section: "6.3.7" },
  AIDR: { offset: 0x1c, bits: 32, access: "id", section: "6.3.8" },
  CR0: { offset: 0x20, bits: 32, access: "rw", reset: 0, section: "6.3.9" },
  CR0ACK: { offset: 0x24, bits: 32, access: "ro", reset: 0, section: "6.3.10" },
  CR1: { offset: 0x28, bits: 32, access: "rw", section: "6.3.11" },
  CR2: { offset: 0x2c, bits: 32, access: "rw", guard: "smmuen", section: "6.3.12" },
  S2PII: { offset: 0x30, bits: 64, access: "rw", feature: "s2pi", section: "6.3.17" },
  STATUSR: { offset: 0x40, bits: 32, access: "ro", reset: 0, section: "6.3.13" },
  GBPA: { offset: 0x44, bits: 32, access: "update", reset: "impdef", section: "6.3.14" },
  AGBPA: { offset: 0x48, bits: 32, access: "rw", reset: "impdef", section: "6.3.15" },
  IRQ_CTRL: { offset: 0x50, bits: 32, access: "rw", reset: 0, section: "6.3.16" },
  IRQ_CTRLACK: { offset: 0x54, bits: 32, access: "ro", reset: 0, section: "6.3.18" },
  GERROR: { offset: 0x60, bits: 32, access: "ro", reset: 0, section: "6.3.19" },
  GERRORN: { offset: 0x64, bits: 32, access: "rw", reset: 0, section: "6.3.20" },
  GERROR_IRQ_CFG0: { offset: 0x68, bits: 64, access: "rw", guard: "irq-gerror", feature: "msi", section: "6.3.21" },
  GERROR_IRQ_CFG1: { offset: 0x70, bits: 32, access: "rw", guard: "irq-gerror", feature: "msi", section: "6.3.22" },
  GERROR_IRQ_CFG2: { offset: 0x74, bits: 32, access: "rw", guard: "irq-gerror", feature: "msi", section: "6.3.23" },
  STRTAB_BASE: { offset: 0x80, bits: 64, access: "rw", guard: "smmuen", section: "6.3.24" },
  STRTAB_BASE_CFG: { offset: 0x88, bits: 32, access: "rw", guard: "smmuen", section: "6.3.25" },
  CMDQ_BASE: { offset: 0x90, bits: 64, access: "rw", guard: "cmdqen", section: "6.3.26" },
  CMDQ_PROD: { offset: 0x98, bits: 32, access: "rw", section: "6.3.27" },
  CMDQ_CONS: { offset: 0x9c, bits: 32, access: "rw", guard: "cmdqen", section: "6.3.28" },
  EVENTQ_BASE: { offset: 0xa0, bits: 64, access: "rw", guard: "eventqen", section: "6.3.29" },
  EVENTQ_IRQ_CFG0: { offset: 0xb0, bits: 64, access: "rw", guard: "irq-eventq", feature: "msi", section: "6.3.30" },
  EVENTQ_IRQ_CFG1: { offset: 0xb8, bits: 32, access: "rw", guard: "irq-eventq", feature: "msi", section: "6.3.31" },
  EVENTQ_IRQ_CFG2: { offset: 0xbc, bits: 32, access: "rw", guard: "irq-eventq", feature: "msi", section: "6.3.32" },
  PRIQ_BASE: { offset: 0xc0, bits: 64, access: "rw", guard: "priqen", feature: "pri", section: "6.3.33" },
  PRIQ_IRQ_CFG0: { offset: 0xd0, bits: 64, access: "rw", guard: "irq-priq", feature: "pri", section: "6.3.34" },
  PRIQ_IRQ_CFG1: { offset: 0xd8, bits: 32, access: "rw", guard: "irq-priq", feature: "pri", section: "6.3.35" },
  PRIQ_IRQ_CFG2: { offset: 0xdc, bits: 32, access: "rw", guard: "irq-priq", feature: "pri", section: "6.3.36" },
  GATOS_CTRL: { offset: 0x100, bits: 32, access: "rw", guard: "gatos-idle", feature: "atos", reset: 0, section: "6.3.37" },
  GATOS_SID: { offset: 0x108, bits: 64, access: "rw", guard: "gatos-idle", feature: "atos", section: "6.3.38" },
  GATOS_ADDR: { offset: 0x110, bits: 64, access: "rw", guard: "gatos-idle", feature: "atos", section: "6.3.39" },
  GATOS_PAR: { offset: 0x118, bits: 64, access: "ro", feature: "atos", section: "6.3.40" },
  MPAMIDR: { offset: 0x130, bits: 32, access: "id", feature: "mpam", section: "6.3.41" },
  GMPAM: { offset: 0x138, bits: 32, access: "update", feature: "mpam", reset: 0, section: "6.3.42" },
  GBPMPAM: { offset: 0x13c, bits: 32, access: "update", feature: "mpam", reset: 0, section: "6.3.43" },
  VATOS_SEL: { offset: 0x180, bits: 32, access: "rw", guard: "vatos-idle", feature: "vatos", section: "6.3.44" },
  IDR6: { offset: 0x190, bits: 32, access: "id", feature: "ecmdq", section: "6.3.45" },
  DPT_BASE: { offset: 0x200, bits: 64, access: "rw", guard: "dpt-walk-en", feature: "dpt", section: "6.3.46" },
  DPT_BASE_CFG: { offset: 0x208, bits: 32, access: "rw", guard: "dpt-walk-en", feature: "dpt", section: "6.3.47" },
  /** A write that clears FAULT clears the whole register; any other is ignored. */
  DPT_CFG_FAR: { offset: 0x210, bits: 64, access: "rw", feature: "dpt", reset: 0, section: "6.3.48" },
  EVENTQ_PROD: { offset: 0x100a8, bits: 32, access: "rw", guard: "eventqen", section: "6.3.95" },
  EVENTQ_CONS: { offset: 0x100ac, bits: 32, access: "rw", section: "6.3.96" },
  PRIQ_PROD: { offset: 0x100c8, bits: 32, access: "rw", guard: "priqen", feature: "pri", resetClear: -0x8000_0000, section: "6.3.97" },
  PRIQ_CONS: { offset: 0x100cc, bits: 32, access: "rw", feature: "pri", section: "6.3.98" },
} as const satisfies Record<string, RegisterDef>;

export type RegisterName = keyof typeof REGISTERS;

/** Fields of one register, typed by its name: `REG.CR0.SMMUEN`. */
export type RegisterFields = {
  readonly [R in RegisterName]: Fields<R, RegisterFieldSpecs[R]>;
};

function buildFields(): RegisterFields {
  const out: Record<string, unknown> = {};
  for (const [name, specs] of Object.entries<FieldSpecs>(REGISTER_FIELDS)) out[name] = /* @__PURE__ */ defineFields(name, specs);
  return out as RegisterFields;
}

/** Fields by register: `REG.CR0.SMMUEN`. */
export const REG: RegisterFields = /* @__PURE__ */ buildFields();

/** Bits of a register that have a meaning, as `[lo, hi]` int32; all others are RES0. */
export function registerMask(name: RegisterName): readonly [lo: number, hi: number] {
  const mask = definedBits(REG[name], 2);
  return [mask[0]!, mask[1]!];
}

/** Register that lies at byte `offset`, or the 64-bit register of which `offset` is the high half. */
export const REGISTER_AT: ReadonlyMap<number, RegisterName> = /* @__PURE__ */ namesBy(
  REGISTERS,
  ({ offset, bits }) => (bits === 64 ? [offset, offset + 4] : [offset]),
);

function buildOffsets(): Readonly<Record<RegisterName, number>> {
  const offsets = Object.entries(REGISTERS).map(([name, { offset }]) => [name, offset]);
  return Object.fromEntries(offsets) as Readonly<Record<RegisterName, number>>;
}

/** Byte offset of a register: `OFFSET.CR0`. */
export const OFFSET: Readonly<Record<RegisterName, number>> = /* @__PURE__ */ buildOffsets();
