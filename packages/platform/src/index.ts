export { alignUp, hex, hex64, hi32, join, lo32 } from "./address.ts";
export { Counters, LEVEL } from "./counters.ts";
export type { CounterReading, Level } from "./counters.ts";
export {
  ABORT,
  ABORT_ACTION,
  ABORT_FLAG_DEVICE,
  ABORT_FLAG_WRITE,
  ABORT_WORDS,
  FRAME_WORDS,
} from "./cpu.ts";
export type { AbortAction, Cpu, HostCpu, HypCpu, HypVectors, Stage2Regime } from "./cpu.ts";
export { ERRNO, Errno, errnoName, isErrno, orThrow } from "./errno.ts";
export type { ErrnoCode } from "./errno.ts";
export { BOOT_DMA_PROPERTY } from "./firmware.ts";
export type { Firmware, FirmwareNode } from "./firmware.ts";
export { LockOrder, SpinLock } from "./lock.ts";
export {
  Memory,
  MemoryAbort,
  PAGE_SHIFT,
  PAGE_SIZE,
  PAGE_WORDS,
  PERM_READ,
  PERM_RW,
  PERM_WRITE,
} from "./memory.ts";
export type { MemoryOptions, MemorySlowPath } from "./memory.ts";
export type { InterruptLine, RegisterWindow } from "./registers.ts";
export { ACCESS, TRANSLATION } from "./translation.ts";
export type { Translator } from "./translation.ts";
