import { ACCESS } from "@smmuv3/platform";
import { STE_INSTCFG, STE_PRIVCFG } from "@smmuv3/smmu-v3-defs";
import { PERM } from "@smmuv3/vmsa-walk";
import { EVENT_BIT } from "./events.ts";

const FLAGS = ACCESS.write | ACCESS.privileged | ACCESS.instruction;

/** Index into {@link NEED} of PRIVCFG and INSTCFG overrides, without the flags of the access. */
export function overrideIndex(privcfg: number, instcfg: number): number {
  return (privcfg << 5) | (instcfg << 3);
}

/**
 * The one PERM bit an access needs, by {@link overrideIndex} plus its write, privileged and instruction flags (5.2 PRIVCFG,
 * INSTCFG; 13.1.2). Writes are data whatever they say.
 */
export const NEED: Uint8Array = Uint8Array.from({ length: 128 }, (_, index) => {
  const privcfg = index >> 5;
  const instcfg = (index >> 3) & 3;
  const flags = index & FLAGS;
  let privileged = (flags & ACCESS.privileged) !== 0;
  if (privcfg === STE_PRIVCFG.unprivileged) privileged = false;
  if (privcfg === STE_PRIVCFG.privileged) privileged = true;
  let instruction = (flags & ACCESS.instruction) !== 0;
  if (instcfg === STE_INSTCFG.data) instruction = false;
  if (instcfg === STE_INSTCFG.instruction) instruction = true;
  if ((flags & ACCESS.write) !== 0) return privileged ? PERM.PRIV_WRITE : PERM.WRITE;
  if (instruction) return privileged ? PERM.PRIV_EXECUTE : PERM.EXECUTE;
  return privileged ? PERM.PRIV_READ : PERM.READ;
});

const WRITES = PERM.WRITE | PERM.PRIV_WRITE;
const EXECUTES = PERM.EXECUTE | PERM.PRIV_EXECUTE;
const PRIVILEGED = PERM.PRIV_READ | PERM.PRIV_WRITE | PERM.PRIV_EXECUTE;

/** PnU, InD and RnW of a record for an access that needs `need`, in place. */
export function accessBits(need: number): number {
  return (
    ((need & PRIVILEGED) !== 0 ? EVENT_BIT.PnU : 0) |
    ((need & EXECUTES) !== 0 ? EVENT_BIT.InD : 0) |
    ((need & WRITES) === 0 ? EVENT_BIT.RnW : 0)
  );
}
