import { Counters, join, Memory } from "@smmuv3/platform";
import type { HostCpu, HypCpu, InterruptLine, MemoryOptions, RegisterWindow, Stage2Regime, Translator } from "@smmuv3/platform";

import { Bus } from "./bus.ts";
import { Clock } from "./clock.ts";
import { HostCore, HypCore } from "./cpu.ts";
import type { Wiring } from "./cpu.ts";
import { DmaMaster } from "./dma.ts";
import { Guests } from "./guest.ts";
import type { GuestCpu, GuestProgram } from "./guest.ts";
import { HostStage2 } from "./host-stage2.ts";
import type { TrapCounter } from "./host-stage2.ts";
import { HypEntry } from "./hyp-entry.ts";
import type { HvcCounter } from "./hyp-entry.ts";
import { InterruptController } from "./interrupts.ts";
import { Latch } from "./latch.ts";
import type { AbortRecord, FailureRecord } from "./latch.ts";

/** Physical addresses stay below 2^43, as Memory.pageOf wants them. */
const MAX_RAM_END = 2 ** 43;
const RELAX_NS = 1000;
const IRQ_LINES = 1024;

export interface MachineOptions {
  /** The only RAM. */
  readonly memory: MemoryOptions;
  /** Where events are counted; a fresh set by default. */
  readonly counters?: Counters;
  /** Counter of a hypercall by function id; `hypercalls` by default. */
  readonly hvcCounter?: HvcCounter;
  /**
   * Counter of a device access of EL1 that EL2 emulated or refused; `traps.mmio` by default. One that EL2 only had to map counts as
   * `traps.stage2`.
   */
  readonly trapCounter?: TrapCounter;
  /** INTIDs are below this; 1024 by default. */
  readonly irqLines?: number;
  /** Time that one relax() takes in ns; 1000 by default. */
  readonly relaxNs?: number;
}

/**
 * One CPU with EL1 and EL2, RAM, devices, DMA masters and an interrupt controller. Counts (levels in parentheses): `mmio`
 * (el1, el2), `hypercalls` (el1), `traps.mmio` and `traps.stage2` (el1), `interrupts` (el1), `tlbi.cpu` (el2),
 * `guest.runs` (el2), `dma.words` (device).
 */
export class Machine {
  /** Physical RAM, unrestricted: for the harness and for devices. */
  readonly memory: Memory;
  readonly counters: Counters;
  readonly clock: Clock;
  readonly host: HostCpu;
  readonly hyp: HypCpu;
  /** Panics of EL2, whoever caught them. */
  readonly panics: readonly FailureRecord[];
  /** Aborts that EL1 took, whoever caught them. */
  readonly aborts: readonly AbortRecord[];
  /** Errors of the machine itself, whoever caught them. */
  readonly errors: readonly FailureRecord[];
  readonly irqLines: number;
  readonly #core: HostCore;
  readonly #bus: Bus;
  readonly #guests: Guests;
  readonly #stage2: HostStage2;
  readonly #interrupts: InterruptController;
  readonly #steps: (() => void)[] = [];

  /** Throws RangeError for a bad memory or interrupt layout. */
  constructor(options: MachineOptions) {
    this.memory = Memory.allocate(options.memory);
    if (this.memory.base + this.memory.size > MAX_RAM_END) throw new RangeError("Machine: RAM must end below 2^43");
    const counters = options.counters ?? new Counters();
    const clock = new Clock();
    const latch = new Latch(clock);
    const bus = new Bus(this.memory);
    const entry = new HypEntry(latch, counters, options.hvcCounter ?? (() => "hypercalls"));
    const stage2 = new HostStage2(bus, latch, entry, counters, options.trapCounter ?? (() => "traps.mmio"));
    const guests = new Guests(bus, latch, counters, (handle, vcpu, frame) => entry.guestHvc(handle, vcpu, frame));
    const interrupts = new InterruptController(options.irqLines ?? IRQ_LINES, counters);
    const { words } = this.memory;
    const wiring: Wiring = {
      ...{ bus, clock, counters, latch, entry, stage2, guests, interrupts },
      // A sequentially consistent access that changes nothing orders the plain ones around it.
      barrier: options.memory.shared === true ? () => void Atomics.or(words, 0, 0) : () => {},
      step: () => {
        for (const step of this.#steps) step();
      },
      relaxNs: options.relaxNs ?? RELAX_NS,
    };
    this.counters = counters;
    this.clock = clock;
    this.#core = new HostCore(wiring);
    this.host = this.#core;
    this.hyp = new HypCore(wiring);
    this.panics = latch.panics;
    this.aborts = latch.aborts;
    this.errors = latch.errors;
    this.irqLines = interrupts.lines;
    this.#bus = bus;
    this.#guests = guests;
    this.#stage2 = stage2;
    this.#interrupts = interrupts;
  }

  /**
   * Puts a device at `[base, base + size)`, 4K aligned; its window is addressed by offset from `base`. Throws RangeError when
   * it overlaps RAM or another device.
   */
  addDevice(name: string, base: number, size: number, window: RegisterWindow): void {
    this.#bus.add({ name, base, size, window });
  }

  /** Input `intid` of the interrupt controller: an edge makes the interrupt pending, EL1 takes it at a later point. */
  line(intid: number): InterruptLine {
    return this.#interrupts.line(intid);
  }

  /** An edge on `intid` waits for EL1 to take it. */
  pending(intid: number): boolean {
    return this.#interrupts.pending(intid);
  }

  /** EL1 takes what is pending now, unless it has masked interrupts or EL2 is running. */
  takeInterrupts(): void {
    this.#core.takeInterrupts();
  }

  /** `step` lets a device progress; it runs at each relax() of either level, in order of registration. */
  onRelax(step: () => void): void {
    this.#steps.push(step);
  }

  /** Stage 2 in effect for EL1; undefined: none. */
  get hostStage2(): Stage2Regime | undefined {
    return this.#stage2.regime;
  }

  /** True when EL1 may access the RAM at `pa` as the tables are now. Fills the TLB as the access would, but never traps. */
  hostAdmits(pa: number, write: boolean): boolean {
    return this.#stage2.admits(pa, write);
  }

  /** What vCPU `vcpu` of VM `handle` does each time EL2 runs it. */
  setGuestProgram(handle: number, vcpu: number, program: GuestProgram): void {
    this.#guests.setProgram(handle, vcpu, program);
  }

  /** That vCPU, to read {@link GuestCpu.fault} after a run. */
  guest(handle: number, vcpu: number): GuestCpu {
    return this.#guests.get(handle, vcpu);
  }

  /** A DMA master that sends StreamID `streamId` through `translator`; undefined: no IOMMU in front of it. */
  dmaMaster(name: string, streamId: number, translator: Translator | undefined): DmaMaster {
    return new DmaMaster(name, streamId, translator, this.#bus, this.counters);
  }

  /** A message-signalled interrupt: one 32-bit write to RAM or to a device. Returns false when nothing answers there. */
  msi(paLo: number, paHi: number, data: number): boolean {
    const page = this.memory.pageOf(paLo, paHi);
    if (page >= 0) {
      this.memory.words[(page << 10) | ((paLo >>> 2) & 1023)] = data;
      return true;
    }
    const device = this.#bus.deviceAt(paLo, paHi);
    if (device === undefined) return false;
    device.window.write32(join(paLo & ~3, paHi) - device.base, data);
    return true;
  }
}
