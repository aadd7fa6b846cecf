import { ERRNO } from "@smmuv3/platform";
import {
  l1StdAddress,
  makeAbortSte,
  makeL1Std,
  sidInRange,
  steAddress,
  STRTAB_L2_BYTES,
  STRTAB_L2_STES,
  strtabGeometry,
} from "@smmuv3/arm-smmu-v3-common";
import type { StrtabGeometry } from "@smmuv3/arm-smmu-v3-common";
import { L1STD_WORDS, STE_BYTES, STE_WORDS } from "@smmuv3/smmu-v3-defs";
import type { SmmuDevice } from "./smmu.ts";

/** The stream table. A stream that no driver claimed aborts; second-level tables are made when a device needs them. */
export class StreamTable {
  readonly geometry: StrtabGeometry;
  /** Address for STRTAB_BASE; 0 before {@link init}. */
  base: number = 0;
  readonly #smmu: SmmuDevice;

  constructor(smmu: SmmuDevice, sidBits: number, twoLevel: boolean) {
    this.#smmu = smmu;
    this.geometry = strtabGeometry(sidBits, twoLevel);
    if (twoLevel && this.geometry.log2size < sidBits) {
      smmu.log("warn", `2-level strtab only covers ${this.geometry.log2size}/${sidBits} bits of SID`);
    }
  }

  /** Allocates the table. 0 or -ENOMEM. */
  init(): number {
    const { bytes, twoLevel, entries } = this.geometry;
    const base = this.#smmu.alloc(bytes);
    if (base < 0) return base;
    this.base = base;
    if (!twoLevel) this.#abortAll(base, entries);
    return 0;
  }

  /** Makes the STE of `sid` exist, aborting when it is new. 0, -ERANGE or -ENOMEM. */
  addStream(sid: number): number {
    const { memory } = this.#smmu.kernel;
    if (!sidInRange(this.geometry, sid)) return -ERRNO.ERANGE;
    if (steAddress(memory, this.geometry, this.base, sid) >= 0) return 0;
    const table = this.#smmu.alloc(STRTAB_L2_BYTES);
    if (table < 0) return table;
    this.#abortAll(table, STRTAB_L2_STES);
    // The SMMU may follow the descriptor at once: the table is complete before.
    this.#smmu.kernel.cpu.barrier();
    const desc = new Int32Array(L1STD_WORDS);
    makeL1Std(desc, table);
    memory.store64(l1StdAddress(this.base, sid), desc[0]!, desc[1]!);
    return 0;
  }

  /** Address of the STE of a stream that was added. */
  ste(sid: number): number {
    return steAddress(this.#smmu.kernel.memory, this.geometry, this.base, sid);
  }

  #abortAll(pa: number, count: number): void {
    const { memory } = this.#smmu.kernel;
    const ste = new Int32Array(STE_WORDS);
    makeAbortSte(ste);
    for (let i = 0; i < count; i++) {
      // The table is zeroed: only words that are not need a store.
      for (let word = 0; word < STE_WORDS; word++) {
        if (ste[word] !== 0) memory.store32(pa + i * STE_BYTES + word * 4, ste[word]!);
      }
    }
  }
}
