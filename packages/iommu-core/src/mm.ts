import { ERRNO } from "@smmuv3/platform";

/** The page table of a process, in the format of the CPU; who makes the process brings it. */
export interface MmTable {
  /** Address of the first table. */
  readonly ttb: number;
  /** Bits of a virtual address. */
  readonly vaBits: number;
  /** Bytes of a page. */
  readonly granule: number;
  /** Takes `[start, start + size)` out of the tables, which may free tables but no page. */
  unmap(start: number, size: number): void;
  /** Frees all tables. */
  free(): void;
}

/** Somebody who walks the tables of a process beside its CPUs. */
export interface MmuNotifier {
  /** What was mapped in `[start, end)` is gone from the tables, and its pages are about to be freed. */
  invalidateSecondaryTlbs(start: number, end: number): void;
  /** The process exits: its tables are about to be freed. */
  release(): void;
}

/** Rights that a fault asked for. */
export type FaultHandler = (address: number, perm: number) => number;

/** The address space of a process (`mm_struct`), as far as devices share it. */
export class Mm {
  readonly table: MmTable;
  /** Brings a page in: 0, or a negative errno where the process has nothing there. */
  readonly fault: FaultHandler;
  readonly #notifiers = new Set<MmuNotifier>();
  #alive = true;

  constructor(table: MmTable, fault: FaultHandler = () => -ERRNO.EFAULT) {
    this.table = table;
    this.fault = fault;
  }

  /** The process has not begun to exit (`mmget_not_zero`). */
  get alive(): boolean {
    return this.#alive;
  }

  /** Who is told of changes. */
  get notifiers(): number {
    return this.#notifiers.size;
  }

  register(notifier: MmuNotifier): void {
    this.#notifiers.add(notifier);
  }

  unregister(notifier: MmuNotifier): void {
    this.#notifiers.delete(notifier);
  }

  /** Unmaps `[start, start + size)`; when it returns, no device reaches the pages any more and `freePages` may be called. */
  munmap(start: number, size: number): void {
    if (!this.#alive) return;
    this.table.unmap(start, size);
    for (const notifier of this.#notifiers) notifier.invalidateSecondaryTlbs(start, start + size);
  }

  /** The process exits: devices are told to let go, then its tables are freed. */
  exit(): void {
    if (!this.#alive) return;
    this.#alive = false;
    for (const notifier of [...this.#notifiers]) notifier.release();
    this.table.free();
  }
}
