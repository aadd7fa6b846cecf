import { ERRNO } from "@smmuv3/platform";
import { OFFSET, REG, maskOf } from "@smmuv3/smmu-v3-defs";
import type { SmmuDevice } from "./smmu.ts";

const SECOND = 1_000_000_000;

/** Polls until `done()`. 0, or -ETIMEDOUT after 1 s. */
export function pollUntil(smmu: SmmuDevice, done: () => boolean): number {
  const { cpu } = smmu.kernel;
  const deadline = cpu.now() + SECOND;
  while (!done()) {
    if (cpu.now() >= deadline) return -ERRNO.ETIMEDOUT;
    cpu.relax();
  }
  return 0;
}

/** Writes a register that is acknowledged, and waits until the acknowledge equals it. */
export function writeAcked(smmu: SmmuDevice, offset: number, ackOffset: number, value: number): number {
  smmu.window.write32(offset, value);
  return pollUntil(smmu, () => smmu.window.read32(ackOffset) === value);
}

/** Writes CR0. 0 or -ETIMEDOUT. */
export function writeCr0(smmu: SmmuDevice, value: number): number {
  return writeAcked(smmu, OFFSET.CR0, OFFSET.CR0ACK, value);
}

/** Makes transactions abort while the SMMU is disabled: GBPA.ABORT, by its update protocol (6.3.15). */
export function abortWhenDisabled(smmu: SmmuDevice): number {
  const { window } = smmu;
  const update = maskOf(REG.GBPA.UPDATE);
  const idle = (): boolean => (window.read32(OFFSET.GBPA) & update) === 0;
  const status = pollUntil(smmu, idle);
  if (status < 0) return status;
  window.write32(OFFSET.GBPA, window.read32(OFFSET.GBPA) | maskOf(REG.GBPA.ABORT) | update);
  return pollUntil(smmu, idle);
}
