import type { InterruptLine, RegisterWindow } from "@smmuv3/platform";

/** Offset of the doorbell: GICv2m MSI_SETSPI_NS, and GITS_TRANSLATER within its page. */
export const MSI_DOORBELL = 0x40;

/** Interrupt inputs that a doorbell drives. */
export interface LineSource {
  readonly irqLines: number;
  line(intid: number): InterruptLine;
}

/** An MSI doorbell: the word written at {@link MSI_DOORBELL} is the INTID. Everything else reads as zero and ignores writes. */
export class MsiFrame implements RegisterWindow {
  readonly hi = 0;
  readonly #lines: LineSource;

  constructor(lines: LineSource) {
    this.#lines = lines;
  }

  read32(): number {
    return 0;
  }

  write32(offset: number, value: number): void {
    const intid = value >>> 0;
    // A controller drops messages that name no interrupt: the data comes from a device, so it must not throw.
    if (offset === MSI_DOORBELL && intid < this.#lines.irqLines) this.#lines.line(intid).pulse();
  }

  read64(): number {
    return 0;
  }

  write64(): void {}
}
