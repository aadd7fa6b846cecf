import { OFFSET, REGISTER_SPACE } from "@smmuv3/smmu-v3-defs";

/** The register state, 32 bits per word of the register space. What may be written is decided in access.ts. */
export class RegisterFile {
  readonly words: Int32Array<ArrayBuffer>;
  /** GBPA as it is in effect; the register shows what software has asked for (6.3.14.1). */
  gbpa = 0;

  constructor(bytes: number = REGISTER_SPACE) {
    this.words = new Int32Array(bytes / 4);
  }

  /** Word at byte `offset`. */
  get(offset: number): number {
    return this.words[offset >> 2]!;
  }

  set(offset: number, value: number): void {
    this.words[offset >> 2] = value;
  }

  /** High word of the 64-bit register at byte `offset`. */
  high(offset: number): number {
    return this.words[(offset >> 2) + 1]!;
  }

  /** Puts GBPA into effect. */
  applyGbpa(): void {
    this.gbpa = this.get(OFFSET.GBPA);
  }
}
