import { ERRNO } from "@smmuv3/platform";
import type { HypCpu, RegisterWindow } from "@smmuv3/platform";
import { maskOf, OFFSET, REG } from "@smmuv3/smmu-v3-defs";

/** Every wait for the hardware ends: 100 ms, in ns. */
export const TIMEOUT = 100_000_000;

/** Waits until `(register & mask) === value`. 0, or -ETIMEDOUT. */
export function poll(cpu: HypCpu, window: RegisterWindow, offset: number, mask: number, value: number): number {
  const deadline = cpu.now() + TIMEOUT;
  while ((window.read32(offset) & mask) !== value) {
    if (cpu.now() >= deadline) return -ERRNO.ETIMEDOUT;
    cpu.relax();
  }
  return 0;
}

/** Writes a control register and waits until its acknowledge register says the same. */
export function writeAndAck(
  cpu: HypCpu,
  window: RegisterWindow,
  offset: number,
  ackOffset: number,
  value: number,
): number {
  window.write32(offset, value);
  return poll(cpu, window, ackOffset, -1, value);
}

/** GBPA.ABORT: while the SMMU is disabled, everything aborts. Other fields stay (6.3.15). */
export function abortWhenDisabled(cpu: HypCpu, window: RegisterWindow): number {
  const update = maskOf(REG.GBPA.UPDATE);
  const status = poll(cpu, window, OFFSET.GBPA, update, 0);
  if (status < 0) return status;
  window.write32(OFFSET.GBPA, window.read32(OFFSET.GBPA) | maskOf(REG.GBPA.ABORT) | update);
  return poll(cpu, window, OFFSET.GBPA, update, 0);
}
