import { ABORT_ACTION, hex, hi32, LEVEL, lo32, PERM_READ, PERM_RW, PERM_WRITE } from "@smmuv3/platform";
import type { Counters, Memory, Stage2Regime } from "@smmuv3/platform";
import { Stage2Walker, WALK } from "@smmuv3/vmsa-walk";

import type { Bus, BusPage } from "./bus.ts";
import type { HypEntry } from "./hyp-entry.ts";
import type { Latch } from "./latch.ts";
import { Stage2Cache } from "./stage2-cache.ts";
import type { DeviceGuard } from "./window.ts";

/** Aborts that one access may take before EL2 is considered unable to mend it. */
const RETRIES = 3;

/** Names the counter of a device access that trapped to EL2. */
export type TrapCounter = (pa: number, write: boolean) => string;

/** What EL1 may reach: the stage 2 in effect, the cache in front of it, and the way to EL2 when it denies. */
export class HostStage2 implements DeviceGuard {
  /** RAM as EL1 sees it. */
  readonly view: Memory;
  readonly #latch: Latch;
  readonly #entry: HypEntry;
  readonly #counters: Counters;
  readonly #trapCounter: TrapCounter;
  readonly #stage2Faults: number;
  readonly #walker: Stage2Walker;
  readonly #cache: Stage2Cache;
  #regime: Stage2Regime | undefined = undefined;

  constructor(bus: Bus, latch: Latch, entry: HypEntry, counters: Counters, trapCounter: TrapCounter) {
    this.#latch = latch;
    this.#entry = entry;
    this.#counters = counters;
    this.#trapCounter = trapCounter;
    this.#stage2Faults = counters.id("traps.stage2") + LEVEL.el1;
    this.#walker = new Stage2Walker(bus.memory);
    this.view = bus.memory.view((pa, write) => {
      this.#admitRam(pa, write);
    });
    this.#cache = new Stage2Cache(this.view, bus.pages);
    this.view.perm.fill(PERM_RW);
  }

  get valueLo(): number {
    return this.#entry.valueLo;
  }

  get valueHi(): number {
    return this.#entry.valueHi;
  }

  /** Puts `regime` in effect. The same tables under the same VMID keep what is cached of them. */
  set(regime: Stage2Regime | undefined): void {
    const old = this.#regime;
    const same = old?.ttb === regime?.ttb && old?.vtcr === regime?.vtcr && old?.vmid === regime?.vmid;
    this.#regime = regime;
    if (same) return;
    this.#cache.dropAll();
    if (regime === undefined) {
      this.view.perm.fill(PERM_RW);
    } else if (this.#walker.configure(lo32(regime.ttb), hi32(regime.ttb), regime.vtcr) !== WALK.OK) {
      this.#latch.panic(`host stage 2: T0SZ, SL0 and TG0 of VTCR ${hex(regime.vtcr)} do not fit together`);
    }
  }

  /** The regime in effect. */
  get regime(): Stage2Regime | undefined {
    return this.#regime;
  }

  /** True when the tables permit the access to RAM, which is in the cache then; an access that they deny does not trap here. */
  admits(pa: number, write: boolean): boolean {
    const page = this.view.pageIndex(pa);
    const need = write ? PERM_WRITE : PERM_READ;
    if (page < 0) return false;
    if ((this.view.perm[page]! & need) !== 0) return true;
    if (!this.#walk(pa, need)) return false;
    this.#cache.fill(page, this.#walker.perm & PERM_RW, this.#walker.shift);
    return true;
  }

  tlbi(ipa: number, size: number): void {
    if (this.#regime !== undefined) this.#cache.drop(ipa, size);
  }

  tlbiAll(): void {
    if (this.#regime !== undefined) this.#cache.dropAll();
  }

  admit(page: BusPage, pa: number, size: number, write: boolean, lo: number, hi: number): boolean {
    if (this.#regime === undefined) return true;
    const need = write ? PERM_WRITE : PERM_READ;
    for (let aborts = 0; (page.perm & need) === 0; aborts++) {
      if (this.#walk(pa, need)) {
        this.#cache.fillDevice(page, this.#walker.perm & PERM_RW, this.#walker.shift);
        return true;
      }
      if (aborts === RETRIES) this.#latch.fail(`EL2 retries the access to ${hex(pa)} for ever`);
      const action = this.#entry.dataAbort(pa, size, write, true, lo, hi);
      // A device page that EL2 only had to map is a stage-2 fault like any other, not a trapped register.
      const mapped = action === ABORT_ACTION.retry;
      this.#counters.add(mapped ? this.#stage2Faults : this.#counters.id(this.#trapCounter(pa, write)) + LEVEL.el1, 1);
      if (action === ABORT_ACTION.emulated) return false;
      if (action === ABORT_ACTION.inject) this.#latch.abort("injected", pa, write, true);
    }
    return true;
  }

  external(pa: number, write: boolean): never {
    this.#latch.abort("external", pa, write, true);
  }

  /** Slow path of {@link view}. Outside of RAM nothing answers a plain load or store: devices need `ioremap`. */
  #admitRam(pa: number, write: boolean): void {
    const page = this.view.pageIndex(pa);
    if (page < 0) this.#latch.abort("external", pa, write, false);
    const need = write ? PERM_WRITE : PERM_READ;
    for (let aborts = 0; ; aborts++) {
      if (this.#walk(pa, need)) {
        this.#cache.fill(page, this.#walker.perm & PERM_RW, this.#walker.shift);
        return;
      }
      if (aborts === RETRIES) this.#latch.fail(`EL2 retries the access to ${hex(pa)} for ever`);
      this.#counters.add(this.#stage2Faults, 1);
      const action = this.#entry.dataAbort(pa, 4, write, false, 0, 0);
      if (action === ABORT_ACTION.inject) this.#latch.abort("injected", pa, write, false);
      if (action === ABORT_ACTION.emulated) this.#latch.fail(`EL2 emulated an access to RAM at ${hex(pa)}`);
    }
  }

  /** True when the tables permit the access; the leaf is in the walker. */
  #walk(ipa: number, need: number): boolean {
    const lo = lo32(ipa);
    const hi = hi32(ipa);
    if (this.#walker.walk(lo, hi, need) !== WALK.OK) return false;
    if (this.#walker.paLo !== lo || this.#walker.paHi !== hi) {
      this.#latch.fail(`host stage 2 is not identity at ${hex(ipa)}`);
    }
    return true;
  }
}
