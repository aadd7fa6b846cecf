import type { Counters } from "./counters.ts";
import type { Memory } from "./memory.ts";
import type { RegisterWindow } from "./registers.ts";

/** Words of a hypercall frame: x0..x17 as int32 pairs (low word first). */
export const FRAME_WORDS = 36;

/** What code of any exception level may ask of the CPU it runs on. */
export interface Cpu {
  readonly level: 1 | 2;
  /** Number of the CPU that runs the code; 0 where there is one only. */
  readonly id?: number;
  /** Physical memory as this level may access it. */
  readonly memory: Memory;
  readonly counters: Counters;
  /** Maps `[pa, pa + size)` of device space, 4K aligned. Accesses are checked when they are made. */
  ioremap(pa: number, size: number): RegisterWindow;
  /** Time in ns since reset. */
  now(): number;
  /** One step of a polling loop: takes pending interrupts (unless masked), lets devices progress, advances the clock. */
  relax(): void;
  /** DSB: stores before it are visible to every observer after it. */
  barrier(): void;
  /** Masks interrupts; calls nest. */
  irqSave(): void;
  /** Undoes one {@link irqSave}; the last one takes what is pending. */
  irqRestore(): void;
}

/** EL1. */
export interface HostCpu extends Cpu {
  readonly level: 1;
  /** HVC #0 with x0..x17 in `frame` ({@link FRAME_WORDS} words), results in place. Without an EL2: x0 = -1 (NOT_SUPPORTED). */
  hvc(frame: Int32Array): void;
  /** Installs the handler of interrupt `intid` and enables it. */
  requestIrq(intid: number, handler: () => void): void;
  /** Disables interrupt `intid` and removes its handler. */
  freeIrq(intid: number): void;
}

/** A stage-2 translation regime: VTTBR (table address) and VTCR_EL2 bits [19:0]. */
export interface Stage2Regime {
  readonly ttb: number;
  readonly vtcr: number;
  readonly vmid: number;
}

/** Outcome of EL2's data-abort handler. */
export const ABORT_ACTION = {
  /** The mapping was mended: repeat the access. */
  retry: 0,
  /** The access was emulated: a read takes its value from the frame. */
  emulated: 1,
  /** Give the abort to EL1. */
  inject: 2,
} as const;
export type AbortAction = (typeof ABORT_ACTION)[keyof typeof ABORT_ACTION];

/** Words of the data-abort frame that EL2 receives. */
export const ABORT = {
  /** Faulting IPA. */
  ipaLo: 0,
  ipaHi: 1,
  /** Bit 0: write. Bit 1: the address is device space (an emulated access must say so). */
  flags: 2,
  /** Access size in bytes: 4 or 8. */
  size: 3,
  /** Value written, or value to return. */
  valueLo: 4,
  valueHi: 5,
} as const;
export const ABORT_WORDS = 6;
export const ABORT_FLAG_WRITE = 1;
export const ABORT_FLAG_DEVICE = 2;

/** EL2's exception vectors. */
export interface HypVectors {
  hvc(frame: Int32Array): void;
  dataAbort(frame: Int32Array): AbortAction;
  /** HVC #0 of a vCPU that {@link HypCpu.runGuest} runs; without it a guest's x0 = -1 (NOT_SUPPORTED). */
  guestHvc?(handle: number, vcpu: number, frame: Int32Array): void;
}

/** EL2. */
export interface HypCpu extends Cpu {
  readonly level: 2;
  /** Installs the vectors; until then HVC answers NOT_SUPPORTED. */
  install(vectors: HypVectors): void;
  /** Stage 2 in effect for EL1 from now on; `undefined` switches it off. */
  setHostStage2(regime: Stage2Regime | undefined): void;
  /** TLBI IPAS2E1IS for `[ipa, ipa + size)` of the host, and completion. */
  tlbiIpa(ipa: number, size: number): void;
  /** TLBI VMALLS12E1IS for the host, and completion. */
  tlbiAll(): void;
  /** Runs vCPU `vcpu` of VM `handle` under `regime` until it exits. Returns 0, or 1 when it took a stage-2 abort. */
  runGuest(handle: number, vcpu: number, regime: Stage2Regime): number;
  /** Makes interrupt `intid` pending for EL1, as an edge on its input would; EL1 takes it once EL2 is done. */
  injectIrq(intid: number): void;
  /** Latches the panic in the machine and stops this CPU. */
  panic(reason: string): never;
}
