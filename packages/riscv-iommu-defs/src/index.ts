export {
  RV_ATP_MODE, RV_DC, RV_DC_BYTES, RV_DC_WORDS, RV_DDI_BITS, RV_DDTE_V, RV_PTE, RV_PTE_RESERVED_HI, RV_ROOT_BYTES, RV_TC,
  rvAtpId, rvAtpMode, rvAtpRoot, rvPpnAddress, rvPpnField, rvSetAtp,
} from "./contexts.ts";
export {
  decodeRvFault, RV_CAUSE, RV_CMD, RV_CMD_BYTES, RV_CMD_FUNCTION_MASK, RV_CMD_WORDS, RV_FAULT_BYTES, RV_FAULT_WORDS,
  RV_OPERAND, RV_TTYP, rvIodirInvalDdt, rvIofence, rvIotinvalGvma,
} from "./queues.ts";
export type { RvFault } from "./queues.ts";
export {
  RV_CAP, RV_CQCSR, RV_DDTP_MODE, RV_DDTP_MODE_MASK, RV_FCTL, RV_FQCSR, RV_IPSR, RV_REG, RV_REGISTER_SPACE,
} from "./registers.ts";
