import { PAGE_SHIFT, PAGE_SIZE } from "@smmuv3/platform";
import type { Memory } from "@smmuv3/platform";

import type { BusPage } from "./bus.ts";

/** One fill never reaches past the 2 MiB window of the access, however large the leaf. */
const WINDOW_SHIFT = 21;
const WINDOW_PAGES = 1 << (WINDOW_SHIFT - PAGE_SHIFT);

/**
 * The TLB of the host's stage 2: `view.perm` for RAM, {@link BusPage} for device space. It never forgets by itself, which is
 * the worst that an architecture-conformant TLB may do, and it drops a leaf as a whole, whichever of its addresses a TLBI
 * names (Arm ARM, TLB maintenance of block entries), which is what software relies on.
 */
export class Stage2Cache {
  readonly #view: Memory;
  readonly #bus: ReadonlyMap<number, BusPage>;
  /**
   * log2 of the largest leaf cached by 2 MiB window, 0 for none. Leaves below 2 MiB are of one size, the granule, so that no
   * finer record is needed.
   */
  readonly #window: Uint8Array;
  /** Page number of the first window. */
  readonly #origin: number;
  /** Windows filled from leaves larger than a window. */
  #large = 0;

  constructor(view: Memory, bus: ReadonlyMap<number, BusPage>) {
    this.#view = view;
    this.#bus = bus;
    this.#origin = view.basePage - (view.basePage % WINDOW_PAGES);
    this.#window = new Uint8Array(Math.ceil((view.basePage + view.pages - this.#origin) / WINDOW_PAGES));
  }

  /** Caches `perm` for RAM page `page`, from a leaf of 2^`shift` bytes, and for its neighbours in the leaf. */
  fill(page: number, perm: number, shift: number): void {
    const number = this.#view.basePage + page;
    const window = Math.floor((number - this.#origin) / WINDOW_PAGES);
    if (shift > WINDOW_SHIFT && this.#window[window]! <= WINDOW_SHIFT) this.#large++;
    if (this.#window[window]! < shift) this.#window[window] = shift;

    const span = 1 << (Math.min(shift, WINDOW_SHIFT) - PAGE_SHIFT);
    const start = number - (number % span) - this.#view.basePage;
    const end = Math.min(start + span, this.#view.pages);
    for (let at = Math.max(start, 0); at < end; at++) {
      // What an older entry allowed, it still allows.
      this.#view.perm[at]! |= perm;
    }
  }

  /** Caches `perm` for a device page, from a leaf of 2^`shift` bytes. */
  fillDevice(page: BusPage, perm: number, shift: number): void {
    const size = 2 ** shift;
    if (page.perm === 0 || page.leafSize < size) {
      page.leafSize = size;
      page.leafBase = page.base - (page.base % size);
    }
    page.perm |= perm;
  }

  /** Forgets every leaf that overlaps `[ipa, ipa + size)`. */
  drop(ipa: number, size: number): void {
    if (size <= 0) return;
    const end = ipa + size;
    for (const page of this.#bus.values()) {
      if (page.perm !== 0 && page.leafBase < end && ipa < page.leafBase + page.leafSize) page.perm = 0;
    }
    const first = Math.floor(ipa / PAGE_SIZE);
    const last = Math.ceil(end / PAGE_SIZE) - 1;
    const low = Math.max(Math.floor((first - this.#origin) / WINDOW_PAGES), 0);
    const high = Math.min(Math.floor((last - this.#origin) / WINDOW_PAGES), this.#window.length - 1);
    for (let window = low; window <= high; window++) this.#dropIn(window, first, last);
    if (this.#large !== 0) this.#dropLarge(first, last);
  }

  dropAll(): void {
    this.#view.perm.fill(0);
    this.#window.fill(0);
    this.#large = 0;
    for (const page of this.#bus.values()) page.perm = 0;
  }

  /** Forgets the leaves of one window that overlap pages `[first, last]`. */
  #dropIn(window: number, first: number, last: number): void {
    const shift = this.#window[window]!;
    if (shift === 0) return;
    if (shift >= WINDOW_SHIFT) {
      this.#dropWindow(window);
      return;
    }
    const span = 1 << (shift - PAGE_SHIFT);
    const start = this.#origin + window * WINDOW_PAGES;
    this.#forget(
      Math.max(first - (first % span), start),
      Math.min(last - (last % span) + span, start + WINDOW_PAGES),
    );
  }

  /** Forgets the windows that were filled from a large leaf which overlaps pages `[first, last]`. */
  #dropLarge(first: number, last: number): void {
    for (let window = 0; window < this.#window.length; window++) {
      const shift = this.#window[window]!;
      if (shift <= WINDOW_SHIFT) continue;
      const leaf = 2 ** (shift - PAGE_SHIFT);
      const start = this.#origin + window * WINDOW_PAGES;
      const leafBase = start - (start % leaf);
      if (leafBase <= last && first < leafBase + leaf) this.#dropWindow(window);
    }
  }

  #dropWindow(window: number): void {
    if (this.#window[window]! > WINDOW_SHIFT) this.#large--;
    this.#window[window] = 0;
    const start = this.#origin + window * WINDOW_PAGES;
    this.#forget(start, start + WINDOW_PAGES);
  }

  /** Forgets page numbers `[from, to)`. */
  #forget(from: number, to: number): void {
    const { basePage, perm } = this.#view;
    perm.fill(0, Math.max(from - basePage, 0), Math.max(to - basePage, 0));
  }
}
