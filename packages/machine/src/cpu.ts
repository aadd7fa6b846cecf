import { hex, LEVEL, PERM_RW } from "@smmuv3/platform";
import type { Counters, HostCpu, HypCpu, HypVectors, Memory, RegisterWindow, Stage2Regime } from "@smmuv3/platform";

import type { Bus } from "./bus.ts";
import type { Clock } from "./clock.ts";
import type { Guests } from "./guest.ts";
import type { HostStage2 } from "./host-stage2.ts";
import type { HypEntry } from "./hyp-entry.ts";
import type { InterruptController } from "./interrupts.ts";
import type { Latch } from "./latch.ts";
import { MappedWindow } from "./window.ts";
import type { DeviceGuard } from "./window.ts";

/** What both exception levels of the CPU are wired to. */
export interface Wiring {
  readonly bus: Bus;
  readonly clock: Clock;
  readonly counters: Counters;
  readonly latch: Latch;
  readonly entry: HypEntry;
  readonly stage2: HostStage2;
  readonly guests: Guests;
  readonly interrupts: InterruptController;
  /** Makes earlier stores visible to other threads; nothing to do on private memory. */
  readonly barrier: () => void;
  /** Lets the devices progress. */
  readonly step: () => void;
  /** Time that one relax() takes, in ns. */
  readonly relaxNs: number;
}

/** EL1 of the machine's CPU. */
export class HostCore implements HostCpu {
  readonly level = 1;
  readonly memory: Memory;
  readonly counters: Counters;
  readonly #wiring: Wiring;
  readonly #mmio: number;

  constructor(wiring: Wiring) {
    this.#wiring = wiring;
    this.memory = wiring.stage2.view;
    this.counters = wiring.counters;
    this.#mmio = wiring.counters.id("mmio") + LEVEL.el1;
  }

  ioremap(pa: number, size: number): RegisterWindow {
    const { bus, stage2 } = this.#wiring;
    return new MappedWindow(bus.range(pa, size), size, stage2, this.counters, this.#mmio);
  }

  now(): number {
    return this.#wiring.clock.now();
  }

  relax(): void {
    const { clock, step, relaxNs } = this.#wiring;
    step();
    this.takeInterrupts();
    clock.advance(relaxNs);
  }

  barrier(): void {
    this.#wiring.barrier();
  }

  irqSave(): void {
    this.#wiring.interrupts.mask();
  }

  irqRestore(): void {
    this.#wiring.interrupts.unmask();
    this.takeInterrupts();
  }

  hvc(frame: Int32Array): void {
    this.#wiring.entry.hvc(frame);
  }

  requestIrq(intid: number, handler: () => void): void {
    this.#wiring.interrupts.request(intid, handler);
  }

  freeIrq(intid: number): void {
    this.#wiring.interrupts.free(intid);
  }

  /** Runs the handlers of what is pending, unless interrupts are masked or EL2 is running. */
  takeInterrupts(): void {
    const { entry, interrupts } = this.#wiring;
    if (!entry.running) interrupts.take();
  }
}

/** EL2 of the machine's CPU. Interrupts belong to EL1: EL2 runs to completion and takes none. */
export class HypCore implements HypCpu {
  readonly level = 2;
  readonly memory: Memory;
  readonly counters: Counters;
  readonly #wiring: Wiring;
  readonly #guard: DeviceGuard;
  readonly #mmio: number;
  readonly #tlbis: number;
  #masks = 0;

  constructor(wiring: Wiring) {
    const { bus, counters, latch } = wiring;
    const abort = (pa: number, write: boolean): never =>
      latch.panic(`external abort: ${write ? "write" : "read"} at ${hex(pa)}`);
    this.#wiring = wiring;
    this.counters = counters;
    this.memory = bus.memory.view(abort);
    this.memory.perm.fill(PERM_RW);
    this.#guard = { admit: () => true, valueLo: 0, valueHi: 0, external: abort };
    this.#mmio = counters.id("mmio") + LEVEL.el2;
    this.#tlbis = counters.id("tlbi.cpu") + LEVEL.el2;
  }

  ioremap(pa: number, size: number): RegisterWindow {
    return new MappedWindow(this.#wiring.bus.range(pa, size), size, this.#guard, this.counters, this.#mmio);
  }

  now(): number {
    return this.#wiring.clock.now();
  }

  relax(): void {
    const { clock, step, relaxNs } = this.#wiring;
    step();
    clock.advance(relaxNs);
  }

  barrier(): void {
    this.#wiring.barrier();
  }

  irqSave(): void {
    this.#masks++;
  }

  irqRestore(): void {
    if (this.#masks === 0) throw new RangeError("irqRestore without irqSave");
    this.#masks--;
  }

  install(vectors: HypVectors): void {
    this.#wiring.entry.vectors = vectors;
  }

  setHostStage2(regime: Stage2Regime | undefined): void {
    this.#wiring.stage2.set(regime);
  }

  tlbiIpa(ipa: number, size: number): void {
    this.counters.add(this.#tlbis, 1);
    this.#wiring.stage2.tlbi(ipa, size);
  }

  tlbiAll(): void {
    this.counters.add(this.#tlbis, 1);
    this.#wiring.stage2.tlbiAll();
  }

  runGuest(handle: number, vcpu: number, regime: Stage2Regime): number {
    return this.#wiring.guests.run(handle, vcpu, regime);
  }

  injectIrq(intid: number): void {
    this.#wiring.interrupts.line(intid).pulse();
  }

  panic(reason: string): never {
    this.#wiring.latch.panic(reason);
  }
}
