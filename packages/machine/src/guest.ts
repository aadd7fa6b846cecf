import { FRAME_WORDS, hex, hi32, join, LEVEL, lo32, PERM_READ, PERM_WRITE } from "@smmuv3/platform";
import type { Counters, Stage2Regime } from "@smmuv3/platform";
import { Stage2Walker, WALK } from "@smmuv3/vmsa-walk";

import type { Bus } from "./bus.ts";
import { isHypPanic, isMachineError } from "./latch.ts";
import type { Latch } from "./latch.ts";

/** The access that ended a run. */
export interface GuestFault {
  readonly ipa: number;
  readonly write: boolean;
}

/** A vCPU of a VM, as the program on it sees it. Accesses are 4-byte aligned and go through the VM's own stage 2. */
export interface GuestCpu {
  readonly handle: number;
  readonly vcpu: number;
  /** The abort that ended the last run; undefined when it ended by itself. */
  readonly fault: GuestFault | undefined;
  load32(ipa: number): number;
  store32(ipa: number, value: number): void;
  /** HVC #0 with x0..x17 in `frame`, results in place. Without a handler at EL2: x0 = -1 (NOT_SUPPORTED). */
  hvc(frame: Int32Array): void;
}

/** EL2's handler of a vCPU's HVC, if it has one. */
export type GuestHvc = (handle: number, vcpu: number, frame: Int32Array) => boolean;

const NOT_SUPPORTED = -1;

/** What a vCPU does in one run. */
export type GuestProgram = (guest: GuestCpu) => void;

class GuestExit extends Error {}

class Vcpu implements GuestCpu {
  readonly handle: number;
  readonly vcpu: number;
  program: GuestProgram | undefined = undefined;
  fault: GuestFault | undefined = undefined;
  readonly #bus: Bus;
  readonly #hvc: GuestHvc;
  readonly #walker: Stage2Walker;
  #running = false;

  constructor(handle: number, vcpu: number, bus: Bus, hvc: GuestHvc) {
    this.handle = handle;
    this.vcpu = vcpu;
    this.#bus = bus;
    this.#hvc = hvc;
    this.#walker = new Stage2Walker(bus.memory);
  }

  /** Runs the program; false when `regime` is not a legal one. */
  run(regime: Stage2Regime): boolean {
    this.fault = undefined;
    if (this.program === undefined) return true;
    if (this.#walker.configure(lo32(regime.ttb), hi32(regime.ttb), regime.vtcr) !== WALK.OK) return false;
    this.#running = true;
    try {
      this.program(this);
    } catch (error) {
      if (!(error instanceof GuestExit)) throw error;
    } finally {
      this.#running = false;
    }
    return true;
  }

  load32(ipa: number): number {
    const page = this.#translate(ipa, false);
    const { paLo, paHi } = this.#walker;
    if (page >= 0) return this.#bus.memory.words[(page << 10) | ((paLo >>> 2) & 1023)]!;
    const device = this.#bus.deviceAt(paLo, paHi);
    if (device === undefined) this.#exit(ipa, false);
    return device.window.read32(join(paLo, paHi) - device.base);
  }

  store32(ipa: number, value: number): void {
    const page = this.#translate(ipa, true);
    const { paLo, paHi } = this.#walker;
    if (page >= 0) {
      this.#bus.memory.words[(page << 10) | ((paLo >>> 2) & 1023)] = value;
      return;
    }
    const device = this.#bus.deviceAt(paLo, paHi);
    if (device === undefined) this.#exit(ipa, true);
    device.window.write32(join(paLo, paHi) - device.base, value);
  }

  hvc(frame: Int32Array): void {
    this.#checkRunning();
    if (frame.length !== FRAME_WORDS) throw new RangeError(`hvc: the frame has ${FRAME_WORDS} words, got ${frame.length}`);
    if (!this.#hvc(this.handle, this.vcpu, frame)) frame[0] = NOT_SUPPORTED;
  }

  /** RAM page that `ipa` translates to, or -1 where it is none. */
  #translate(ipa: number, write: boolean): number {
    this.#checkRunning();
    if (!Number.isSafeInteger(ipa) || ipa < 0 || ipa % 4 !== 0) {
      throw new RangeError(`guest: expected a 4-byte aligned address, got ${hex(ipa)}`);
    }
    const need = write ? PERM_WRITE : PERM_READ;
    if (this.#walker.walk(lo32(ipa), hi32(ipa), need) !== WALK.OK) this.#exit(ipa, write);
    return this.#bus.memory.pageOf(this.#walker.paLo, this.#walker.paHi);
  }

  #checkRunning(): void {
    if (!this.#running) throw new RangeError(`vCPU ${this.vcpu} of VM ${this.handle} is not running`);
    // A program that catches its exit stays out.
    if (this.fault !== undefined) throw new GuestExit();
  }

  #exit(ipa: number, write: boolean): never {
    this.fault = { ipa, write };
    throw new GuestExit();
  }
}

/** The VMs' vCPUs and the programs that the harness put on them. */
export class Guests {
  readonly #vcpus = new Map<string, Vcpu>();
  readonly #bus: Bus;
  readonly #latch: Latch;
  readonly #counters: Counters;
  readonly #hvc: GuestHvc;
  readonly #runs: number;

  constructor(bus: Bus, latch: Latch, counters: Counters, hvc: GuestHvc) {
    this.#bus = bus;
    this.#hvc = hvc;
    this.#latch = latch;
    this.#counters = counters;
    this.#runs = counters.id("guest.runs") + LEVEL.el2;
  }

  setProgram(handle: number, vcpu: number, program: GuestProgram): void {
    this.#at(handle, vcpu).program = program;
  }

  get(handle: number, vcpu: number): GuestCpu {
    return this.#at(handle, vcpu);
  }

  run(handle: number, vcpu: number, regime: Stage2Regime): number {
    this.#latch.checkAlive();
    this.#counters.add(this.#runs, 1);
    const guest = this.#at(handle, vcpu);
    let legal = false;
    try {
      legal = guest.run(regime);
    } catch (error) {
      // The program is the harness's, so its exception must not pass for one of EL2.
      if (isMachineError(error) || isHypPanic(error)) throw error;
      this.#latch.fail(`program of VM ${handle}: ${error instanceof Error ? error.message : String(error)}`);
    }
    if (!legal) {
      this.#latch.panic(`VM ${handle}: T0SZ, SL0 and TG0 of VTCR ${hex(regime.vtcr)} do not fit together`);
    }
    return guest.fault === undefined ? 0 : 1;
  }

  #at(handle: number, vcpu: number): Vcpu {
    const key = `${handle}.${vcpu}`;
    let guest = this.#vcpus.get(key);
    if (guest === undefined) this.#vcpus.set(key, (guest = new Vcpu(handle, vcpu, this.#bus, this.#hvc)));
    return guest;
  }
}
