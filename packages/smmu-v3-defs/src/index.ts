export {
  ADDRESS_SIZES,
  CD,
  CD_BYTES,
  CD_SPEC,
  CD_WORDS,
  L1CD,
  L1CD_BYTES,
  L1CD_SPEC,
  L1CD_WORDS,
} from "./cd.ts";
export {
  ATC_INV_SIZE_ALL,
  CERROR,
  CFGI_RANGE_ALL,
  CMD,
  CMD_BYTES,
  CMD_SPEC,
  CMD_WORDS,
  COMMANDS,
  COMMAND_NAMES,
  PRI_RESPONSE,
  RESUME_RESP,
  SYNC_CS,
} from "./commands.ts";
export type { CommandDef, CommandField, CommandName } from "./commands.ts";
export {
  EVENT,
  EVENTS,
  EVENT_BYTES,
  EVENT_CLASS,
  EVENT_NAMES,
  EVENT_SPEC,
  EVENT_WORDS,
  PRI,
  PRIQ_BYTES,
  PRIQ_WORDS,
  PRI_SPEC,
} from "./events.ts";
export type { EventDef, EventField, EventName } from "./events.ts";
export {
  bits,
  definedBits,
  defineFields,
  extract,
  getAddress,
  getField,
  isAddressField,
  maskOf,
  place,
  setAddress,
  setField,
} from "./field.ts";
export type { AddressField, AnyField, Field, Fields, FieldSpec, FieldSpecs } from "./field.ts";
export { printCommand, printEvent, printField, printFields, reservedCommandBits } from "./print.ts";
export { HTTU, REGISTER_FIELDS, STALL_MODEL, STRTAB_FMT, TTENDIAN, TTF } from "./register-fields.ts";
export type { RegisterFieldSpecs } from "./register-fields.ts";
export { ECMDQ_CONTROL_PAGE, ID_REGS, PAGE_BYTES, PAGE_FIELDS, PAGE_REGISTERS, pageRegisterMask } from "./page-registers.ts";
export type { PageRegisterName } from "./page-registers.ts";
export { OFFSET, PAGE1, REG, REGISTERS, REGISTER_AT, REGISTER_SPACE, registerMask } from "./registers.ts";
export type { AccessKind, Feature, Guard, RegisterDef, RegisterFields, RegisterName } from "./registers.ts";
export { S_OFFSET, S_REG, SECURE_REGISTERS, secureRegisterMask } from "./secure-registers.ts";
export type { SecureRegisterName } from "./secure-registers.ts";
export {
  CACHEABILITY,
  L1STD,
  L1STD_BYTES,
  L1STD_SPEC,
  L1STD_WORDS,
  SHAREABILITY,
  STE,
  STE_BYTES,
  STE_CONFIG,
  STE_EATS,
  STE_INSTCFG,
  STE_PRIVCFG,
  STE_S1DSS,
  STE_S1FMT,
  STE_SHCFG,
  STE_SPEC,
  STE_STRW,
  STE_VTCR_MASK,
  STE_VTCR_WORD,
  STE_WORDS,
  TG0,
  TG1,
} from "./ste.ts";
