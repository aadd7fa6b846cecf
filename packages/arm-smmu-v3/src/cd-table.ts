import { cdAddress, CDTAB_L2_BYTES, cdtabGeometry, l1CdAddress, makeL1Cd } from "@smmuv3/arm-smmu-v3-common";
import type { CdtabGeometry } from "@smmuv3/arm-smmu-v3-common";
import type { KernelContext } from "@smmuv3/driver-core";
import { L1CD_WORDS, STE_S1FMT } from "@smmuv3/smmu-v3-defs";

/** log2 of the CDs in a second-level table. */
const L2_SHIFT = 10;

/** The Context Descriptors of one device. Its memory is kept until the device goes: STEs may point to it. */
export class CdTable {
  readonly geometry: CdtabGeometry;
  /** STE.S1ContextPtr. */
  readonly base: number;
  /** Valid CDs of substreams. */
  usedSsids: number = 0;
  readonly #kernel: KernelContext;
  /** Second-level tables by number; those that {@link link} was not called for are not in the hardware's table yet. */
  readonly #leaves = new Map<number, number>();

  private constructor(kernel: KernelContext, geometry: CdtabGeometry, base: number) {
    this.#kernel = kernel;
    this.geometry = geometry;
    this.base = base;
  }

  /** A table without valid CDs, or -ENOMEM. */
  static create(kernel: KernelContext, ssidBits: number, twoLevel: boolean): CdTable | number {
    const geometry = cdtabGeometry(ssidBits, twoLevel);
    const base = kernel.pages.allocZeroed(kernel.memory, geometry.bytes);
    return base < 0 ? base : new CdTable(kernel, geometry, base);
  }

  get linear(): boolean {
    return this.geometry.s1fmt === STE_S1FMT.linear;
  }

  /** Memory for the CD of `ssid`: 0 or -ENOMEM. What the hardware reads stays as it is. */
  prepare(ssid: number): number {
    const leaf = ssid >>> L2_SHIFT;
    if (this.linear || this.#leaves.has(leaf)) return 0;
    const pa = this.#kernel.pages.allocZeroed(this.#kernel.memory, CDTAB_L2_BYTES);
    if (pa < 0) return pa;
    this.#leaves.set(leaf, pa);
    return 0;
  }

  /** Address of the CD of `ssid`, -1 when no table is linked for it. */
  address(ssid: number): number {
    return cdAddress(this.#kernel.memory, this.geometry, this.base, ssid);
  }

  /** Makes the hardware's table lead to the prepared memory of `ssid`. The address of the level-1 descriptor; -1: it did already. */
  link(ssid: number): number {
    if (this.linear || this.address(ssid) >= 0) return -1;
    const desc = new Int32Array(L1CD_WORDS);
    makeL1Cd(desc, this.#leaves.get(ssid >>> L2_SHIFT)!);
    const at = l1CdAddress(this.base, ssid);
    // The SMMU may follow the descriptor at once: the table is complete before.
    this.#kernel.cpu.barrier();
    this.#kernel.memory.store64(at, desc[0]!, desc[1]!);
    return at;
  }

  /** Frees all of it; no STE points to it. */
  free(): void {
    const { pages } = this.#kernel;
    for (const pa of this.#leaves.values()) pages.free(pa, CDTAB_L2_BYTES);
    pages.free(this.base, this.geometry.bytes);
  }
}
