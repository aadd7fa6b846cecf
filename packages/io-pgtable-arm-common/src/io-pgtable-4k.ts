import { ERRNO } from "@smmuv3/platform";
import type { IotlbGather } from "./config.ts";
import { IoPgtable } from "./io-pgtable.ts";

/** Of a slot: the table that it would be in cannot be had. */
const NO_MEMORY = -2;

/**
 * 4K granule: level 2 resolves IOVA bits 29:21, level 3 bits 20:12.
 *
 * Each method is one pass for one leaf. Whatever is unusual (a table missing, memory that is not permitted, a conflict, a run, an
 * error) is left to the general method, with nothing changed. Descriptors of this code are never of type 2, so bit 1 alone tells a
 * table from a block or a hole. RAM is at most 4 GiB, so the low word of an address tells where a table is. Numbers are literals,
 * also those of `walk-cache.ts`: V8 reads an imported constant from memory and checks it on each use.
 */
export class IoPgtable4k extends IoPgtable {
  override mapPagesPair(
    iovaLo: number,
    iovaHi: number,
    paLo: number,
    paHi: number,
    pgsize: number,
    pgcount: number,
    prot: number,
  ): number {
    const attr = this.walkCache[512 | (prot & 63)]!;
    if (pgcount === 1 && ((iovaHi & this.rangeHi) | (paHi & this.outputHi)) === 0 && attr !== 0) {
      const slot = pgsize === 0x1000 ? this.pageSlot(iovaLo, iovaHi, true) : this.blockSlot(iovaLo, iovaHi, pgsize);
      const words = this.words;
      if (slot >= 0 && words[slot] === 0) {
        words[slot | 1] = (paHi & 0xffff) | (attr & 0x68_0000);
        words[slot] = (paLo & ~0xfff) | (attr & 0xfff) | (pgsize === 0x1000 ? 3 : 1);
        this.mappedPages = 1;
        return 0;
      }
      if (slot === NO_MEMORY) {
        this.mappedPages = 0;
        return -ERRNO.ENOMEM;
      }
    }
    return super.mapPagesPair(iovaLo, iovaHi, paLo, paHi, pgsize, pgcount, prot);
  }

  override unmapPagesPair(
    iovaLo: number,
    iovaHi: number,
    pgsize: number,
    pgcount: number,
    gather: IotlbGather | null,
  ): number {
    if (pgcount === 1 && (iovaHi & this.rangeHi) === 0) {
      const slot = pgsize === 0x1000 ? this.pageSlot(iovaLo, iovaHi, false) : this.blockSlot(iovaLo, iovaHi, pgsize);
      const words = this.words;
      if (slot >= 0 && (words[slot]! & 1) !== 0) {
        if (pgsize !== 0x1000 && (words[slot]! & 2) !== 0) this.dropTable(slot, pgsize === 0x20_0000 ? 2 : 1, iovaLo, iovaHi);
        words[slot] = 0;
        words[slot | 1] = 0;
        if (gather !== null) this.gatherPage(gather, iovaLo, iovaHi, pgsize);
        return 1;
      }
    }
    return super.unmapPagesPair(iovaLo, iovaHi, pgsize, pgcount, gather);
  }

  override iovaToPhysPair(iovaLo: number, iovaHi: number): boolean {
    const cache = this.walkCache;
    const words = this.words;
    const perm = this.perm;
    const key = (iovaHi << 11) | (iovaLo >>> 21);
    const at = 1024 | ((key << 1) & 0x3fe);
    fast: if ((iovaHi & this.rangeHi) === 0) {
      let table = cache[at | 1]!;
      if (cache[at] !== key) {
        const above = key >>> 9;
        const at2 = (above << 1) & 0x1fe;
        if (cache[at2] !== above) break fast;
        const slot = cache[at2 | 1]! | ((key << 1) & 0x3fe);
        const desc = words[slot]!;
        if ((desc & 1) === 0 || (perm[slot >>> 10]! & 1) === 0) break fast;
        if ((desc & 2) === 0) {
          this.paLo = (desc & ~0xfff) | (iovaLo & 0x1f_ffff);
          this.paHi = words[slot | 1]! & 0xffff;
          return true;
        }
        table = ((desc - this.baseLo) >>> 2) & 0x3fff_fc00;
        cache[at] = key;
        cache[at | 1] = table;
      }
      const slot = table | ((iovaLo >>> 11) & 0x3fe);
      const desc = words[slot]!;
      if ((desc & 1) === 0 || (perm[slot >>> 10]! & 1) === 0) break fast;
      this.paLo = (desc & ~0xfff) | (iovaLo & 0xfff);
      this.paHi = words[slot | 1]! & 0xffff;
      return true;
    }
    return super.iovaToPhysPair(iovaLo, iovaHi);
  }

  /**
   * Slot of a page, which may be read and written; -1 when anything is unusual.
   * @param grow makes the table that it is in; {@link NO_MEMORY} when there is none to be had
   */
  private pageSlot(iovaLo: number, iovaHi: number, grow: boolean): number {
    const cache = this.walkCache;
    const perm = this.perm;
    const key = (iovaHi << 11) | (iovaLo >>> 21);
    const at = 1024 | ((key << 1) & 0x3fe);
    let table = cache[at | 1]!;
    if (cache[at] !== key) {
      const above = key >>> 9;
      const at2 = (above << 1) & 0x1fe;
      if (cache[at2] !== above) return -1;
      const pointer = cache[at2 | 1]! | ((key << 1) & 0x3fe);
      let desc = this.words[pointer]!;
      if ((perm[pointer >>> 10]! & 1) === 0) return -1;
      if ((desc & 2) === 0) {
        if (!grow || desc !== 0 || (perm[pointer >>> 10]! & 2) === 0) return -1;
        if (!this.growAt(pointer)) return NO_MEMORY;
        desc = this.words[pointer]!;
      }
      table = ((desc - this.baseLo) >>> 2) & 0x3fff_fc00;
      cache[at] = key;
      cache[at | 1] = table;
    }
    const slot = table | ((iovaLo >>> 11) & 0x3fe);
    return (perm[slot >>> 10]! & 3) === 3 ? slot : -1;
  }

  /** The same for 2 MiB and 1 GiB. */
  private blockSlot(iovaLo: number, iovaHi: number, pgsize: number): number {
    if (pgsize === 0x4000_0000) return this.slotOf1G(iovaLo, iovaHi);
    const cache = this.walkCache;
    const key = (iovaHi << 2) | (iovaLo >>> 30);
    const at = (key << 1) & 0x1fe;
    if (cache[at] !== key || pgsize !== 0x20_0000 || (this.sizes & 0x20_0000) === 0) return -1;
    const slot = cache[at | 1]! | ((iovaLo >>> 20) & 0x3fe);
    return (this.perm[slot >>> 10]! & 3) === 3 ? slot : -1;
  }

  /** At level 1: bits 38:30 below a first level that resolves 47:39, or more bits of a first level. */
  private slotOf1G(iovaLo: number, iovaHi: number): number {
    const perm = this.perm;
    const index = (iovaHi << 3) | (iovaLo >>> 29);
    let slot = this.root;
    if (this.startLevel === 0) {
      slot |= (iovaHi >>> 6) & this.rootMask;
      const desc = this.words[slot]!;
      if ((desc & 2) === 0 || (perm[slot >>> 10]! & 1) === 0) return -1;
      slot = (((desc - this.baseLo) >>> 2) & 0x3fff_fc00) | (index & 0x3fe);
    } else if (this.startLevel === 1) {
      slot = (slot + (index & this.rootMask)) | 0;
    } else {
      return -1;
    }
    return (this.sizes & 0x4000_0000) !== 0 && (perm[slot >>> 10]! & 3) === 3 ? slot : -1;
  }
}
