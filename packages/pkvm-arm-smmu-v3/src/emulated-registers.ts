import { maskOf, REG, REGISTERS, registerMask } from "@smmuv3/smmu-v3-defs";
import type { RegisterDef, RegisterName } from "@smmuv3/smmu-v3-defs";

/** What the host gets when it accesses a register. */
export type Behaviour =
  /** Hardware value under {@link EmulatedRegister.mask}; writes are ignored. */
  | "id"
  /** Kept for the host only; the guard of the definition is checked against its own CR0. */
  | "own"
  /** The hardware's, under the mask. */
  | "device"
  /** Has effects: see emulated-smmu.ts. */
  | "action";

export interface EmulatedRegister {
  readonly behaviour: Behaviour;
  /** Bits that exist for the host, low and high word. */
  readonly mask: readonly [lo: number, hi: number];
}

const { IDR0, IDR1, IDR3, IDR5, CR0, CR2, IRQ_CTRL } = REG;

const all = (name: RegisterName): readonly [number, number] => registerMask(name);
const some = (...bits: number[]): readonly [number, number] => [bits.reduce((sum, bit) => sum | bit, 0), 0];

/** ID bits: what is listed shows. What is not: stage 2, EL2, VMIDs, MSI, ATS, PRI, ATOS, broadcast TLBI, ECMDQ, MPAM, DPT. */
const ID: Partial<Readonly<Record<RegisterName, readonly [number, number]>>> = {
  IDR0: some(
    ...[IDR0.S1P, IDR0.TTF, IDR0.COHACC, IDR0.HTTU, IDR0.ASID16, IDR0.SEV, IDR0.CD2L].map(maskOf),
    ...[IDR0.TTENDIAN, IDR0.STALL_MODEL, IDR0.TERM_MODEL, IDR0.ST_LEVEL].map(maskOf),
  ),
  IDR1: some(...[IDR1.SIDSIZE, IDR1.SSIDSIZE, IDR1.EVENTQS, IDR1.CMDQS].map(maskOf)),
  IDR3: some(...[IDR3.HAD, IDR3.STT, IDR3.RIL, IDR3.BBML, IDR3.E0PD].map(maskOf)),
  IDR5: some(...[IDR5.OAS, IDR5.GRAN4K, IDR5.GRAN16K, IDR5.GRAN64K].map(maskOf), maskOf(IDR5.VAX), maskOf(IDR5.STALL_MAX)),
  IIDR: all("IIDR"),
  AIDR: all("AIDR"),
};

const CR0_MASK = some(...[CR0.SMMUEN, CR0.EVENTQEN, CR0.CMDQEN].map(maskOf));

const OTHERS: Partial<Readonly<Record<RegisterName, EmulatedRegister>>> = {
  CR0: { behaviour: "action", mask: CR0_MASK },
  CR0ACK: { behaviour: "action", mask: CR0_MASK },
  CR1: { behaviour: "own", mask: all("CR1") },
  CR2: { behaviour: "own", mask: some(maskOf(CR2.RECINVSID)) },
  GBPA: { behaviour: "action", mask: some(maskOf(REG.GBPA.ABORT)) },
  IRQ_CTRL: { behaviour: "device", mask: some(maskOf(IRQ_CTRL.GERROR_IRQEN), maskOf(IRQ_CTRL.EVENTQ_IRQEN)) },
  IRQ_CTRLACK: { behaviour: "device", mask: some(maskOf(IRQ_CTRL.GERROR_IRQEN), maskOf(IRQ_CTRL.EVENTQ_IRQEN)) },
  GERROR: { behaviour: "action", mask: all("GERROR") },
  GERRORN: { behaviour: "action", mask: all("GERRORN") },
  STRTAB_BASE: { behaviour: "own", mask: all("STRTAB_BASE") },
  STRTAB_BASE_CFG: { behaviour: "own", mask: all("STRTAB_BASE_CFG") },
  CMDQ_BASE: { behaviour: "own", mask: all("CMDQ_BASE") },
  CMDQ_PROD: { behaviour: "action", mask: all("CMDQ_PROD") },
  CMDQ_CONS: { behaviour: "action", mask: all("CMDQ_CONS") },
  EVENTQ_BASE: { behaviour: "own", mask: all("EVENTQ_BASE") },
  EVENTQ_PROD: { behaviour: "device", mask: all("EVENTQ_PROD") },
  EVENTQ_CONS: { behaviour: "device", mask: all("EVENTQ_CONS") },
};

function build(): Readonly<Record<RegisterName, EmulatedRegister | undefined>> {
  const row = (name: RegisterName): EmulatedRegister | undefined => {
    const mask = ID[name];
    return mask === undefined ? OTHERS[name] : { behaviour: "id", mask };
  };
  const names = Object.keys(REGISTERS) as RegisterName[];
  return Object.fromEntries(names.map((name) => [name, row(name)])) as Record<RegisterName, EmulatedRegister | undefined>;
}

/** Every register that the host sees. All others, and every offset without a register, read as zero and ignore writes. */
export const EMULATED: Readonly<Record<RegisterName, EmulatedRegister | undefined>> = /* @__PURE__ */ build();

/** Definition of a register, with its optional parts. */
export function definition(name: RegisterName): RegisterDef {
  return REGISTERS[name];
}
