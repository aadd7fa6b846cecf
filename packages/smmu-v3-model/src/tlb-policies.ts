import type { CacheSize } from "./config-cache.ts";
import type { SmmuPolicy } from "./policy.ts";
import { KIND, Tlb } from "./tlb.ts";

/** A Tlb whose behaviour differs from the default in what the manual leaves open: policies `tlb` and `bbml`. */
export class PolicyTlb extends Tlb {
  readonly #split: boolean;
  readonly #bbml: SmmuPolicy["bbml"];

  constructor(size: CacheSize, policy: SmmuPolicy) {
    super(size);
    this.#split = policy.tlb === "split";
    this.#bbml = policy.bbml;
  }

  /** Some policy is not the default. */
  static isNeeded(policy: SmmuPolicy): boolean {
    return policy.tlb !== "combined" || policy.bbml !== "none";
  }

  /** Where two entries of different size match, what was a block was mapped by pages before, or the reverse (3.21.1). */
  override find(vpnLo: number, vpnHi: number, tag: number, key: number, hash: number, floor: number): number {
    const at = super.find(vpnLo, vpnHi, tag, key, hash, floor);
    if (at < 0 || this.#bbml === "none") return at;
    const other = this.findOther(at, vpnLo, vpnHi, tag, key, hash, floor);
    if (other < 0) return at;
    if (this.#bbml === "fault") {
      this.conflict = true;
      return -1;
    }
    // Any combination of the two: here that of all their ones.
    const { data } = this;
    data[at + 4]! |= data[other + 4]!;
    data[at + 5]! |= data[other + 5]! & 0xf_ffff;
    return at;
  }

  override dropsPages(kind: number): boolean {
    return super.dropsPages(kind) && !(this.#split && kind === KIND.IPA);
  }

  override invalidateRange(): void {
    super.invalidateRange();
    if (this.#split && this.range.kind === KIND.IPA) this.dropByIpa();
  }
}
