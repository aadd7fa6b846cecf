import { ERRNO, FRAME_WORDS, hi32, lo32 } from "@smmuv3/platform";
import type { HostCpu } from "@smmuv3/platform";
import { functionId } from "./hypercalls.ts";
import type { HypercallName } from "./hypercalls.ts";

/** x0 when EL2 does not know the function, or there is no EL2. */
export const SMCCC_NOT_SUPPORTED = -1;
/** x0 when EL2 took the call; x1 has its result. */
export const SMCCC_SUCCESS = 0;

/** Argument `index` (1 = x1) of a frame as a number. */
export function frameArg(frame: Int32Array, index: number): number {
  return (frame[index * 2 + 1]! >>> 0) * 0x1_0000_0000 + (frame[index * 2]! >>> 0);
}

/** Puts `value` (an address or a signed status) into register `index`. */
export function setFrame(frame: Int32Array, index: number, value: number): void {
  frame[index * 2] = lo32(value);
  frame[index * 2 + 1] = value < 0 ? -1 : hi32(value);
}

/** Signed result in x1. */
export function frameResult(frame: Int32Array): number {
  return frame[3]! * 0x1_0000_0000 + (frame[2]! >>> 0);
}

/** The reply to a hypercall; x1 is -ENOSYS when EL2 does not take it. Arguments are integers in [0, 2^53]. */
export function hypercallFrame(cpu: HostCpu, name: HypercallName, args: readonly number[]): Int32Array {
  const frame = new Int32Array(FRAME_WORDS);
  frame[0] = functionId(name);
  args.forEach((value, index) => {
    setFrame(frame, index + 1, value);
  });
  cpu.hvc(frame);
  if (frame[0] !== SMCCC_SUCCESS) {
    frame.fill(0);
    setFrame(frame, 1, -ERRNO.ENOSYS);
  }
  return frame;
}

/**
 * Makes a hypercall. Arguments are integers in [0, 2^53].
 * @returns the result, or a negative errno; -ENOSYS when EL2 does not take the call
 */
export function hypercall(cpu: HostCpu, name: HypercallName, ...args: readonly number[]): number {
  return frameResult(hypercallFrame(cpu, name, args));
}
