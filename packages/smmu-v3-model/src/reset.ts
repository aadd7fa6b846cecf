import { ECMDQ_CONTROL_PAGE, ID_REGS, maskOf, OFFSET, PAGE_FIELDS, place, REG, S_OFFSET } from "@smmuv3/smmu-v3-defs";
import type { RegisterLayout } from "./layout.ts";
import type { SmmuPolicy } from "./policy.ts";
import type { IdRegisters } from "./presets.ts";
import type { RegisterFile } from "./registers.ts";
import type { RegisterTable } from "./register-table.ts";

const IDS = ["IDR0", "IDR1", "IDR2", "IDR3", "IDR4", "IDR5", "IDR6", "IIDR", "AIDR", "MPAMIDR"] as const;
const SECURE_IDS = ["S_IDR0", "S_IDR1", "S_IDR2", "S_IDR3", "S_IDR4"] as const;
/** Component identification, the same for every component of this class. */
const CIDR: readonly number[] = [0x0d, 0xf0, 0x05, 0xb1];

/** Reset values of IHI 0070 6.3: those that the architecture gives, the identity, and the policy's where it gives none. */
export function resetRegisters(
  file: RegisterFile,
  table: RegisterTable,
  layout: RegisterLayout,
  id: IdRegisters,
  policy: SmmuPolicy,
): void {
  const { words } = file;
  words.fill(0);
  const next = unknownValues(policy.unknownReset);
  for (let word = 0; word < words.length; word++) {
    const unknown = table.unknown[word]!;
    if (unknown !== 0) words[word] = next() & unknown;
  }
  if (policy.gbpaReset === "abort") file.set(OFFSET.GBPA, maskOf(REG.GBPA.ABORT));
  file.applyGbpa();
  for (const name of IDS) file.set(OFFSET[name], id[name] ?? 0);
  for (const name of SECURE_IDS) file.set(S_OFFSET[name], id[name] ?? 0);
  id.peripheral?.forEach((value, index) => {
    file.set((index < 4 ? ID_REGS.PIDR0 : ID_REGS.PIDR4 - 16) + index * 4, value);
  });
  CIDR.forEach((value, index) => {
    file.set(ID_REGS.CIDR0 + index * 4, value);
  });
  const { CMDQ_CONTROL_PAGE_BASE: base } = PAGE_FIELDS;
  layout.ecmdqPages.forEach((offset, page) => {
    const at = ECMDQ_CONTROL_PAGE.base + page * ECMDQ_CONTROL_PAGE.stride;
    file.set(at, offset | place(base.CMDQGS, 1) | place(base.CMDQ_CONTROL_PAGE_PRESET, 1));
    file.set(at + 8, place(PAGE_FIELDS.CMDQ_CONTROL_PAGE_CFG.EN, 1));
    file.set(at + 12, place(PAGE_FIELDS.CMDQ_CONTROL_PAGE_STATUS.ENACK, 1));
  });
}

/** Source of UNKNOWN values, int32. */
function unknownValues(choice: SmmuPolicy["unknownReset"]): () => number {
  if (choice === "zero") return () => 0;
  if (choice === "poison") return () => -1;
  // xorshift32; it needs a state that is not 0.
  let state = choice | 0 || 1;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return state;
  };
}
