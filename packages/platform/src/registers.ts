/**
 * A window of memory-mapped registers, addressed by byte offset. Every call is one bus access: one trap when the page is
 * trapped, one count in the machine. Aborts are delivered inside the call.
 */
export interface RegisterWindow {
  /** Aligned 32-bit read, as int32. */
  read32(offset: number): number;
  /** Aligned 32-bit write. */
  write32(offset: number, value: number): void;
  /** Aligned 64-bit read: returns bits [31:0]; {@link hi} holds bits [63:32] until the next read. */
  read64(offset: number): number;
  /** Aligned 64-bit write. */
  write64(offset: number, lo: number, hi: number): void;
  /** High word of the last {@link read64}. */
  readonly hi: number;
}

/** An interrupt input of the interrupt controller, driven by a device. */
export interface InterruptLine {
  /** Signals an edge: the interrupt becomes pending. */
  pulse(): void;
}
