import { PAGE_SIZE } from "@smmuv3/platform";
import type { DeviceContext } from "./device-contexts.ts";
import { firstStageBits } from "./walk.ts";
import type { RvWalker } from "./walk.ts";

/** A cached translation of one page, with the leaves that it was made from. */
export interface CachedPage {
  /** Address bits of the first stage, 0 when it is Bare. */
  readonly firstBits: number;
  readonly pa: number;
  readonly rights: number;
  readonly firstStart: number;
  readonly firstSize: number;
  readonly secondStart: number;
  readonly secondSize: number;
}

/** `lazy` keeps everything until it is invalidated; `eager` keeps nothing. */
export type RvProfile = "lazy" | "eager";

const PSCIDS = 2 ** 20 + 1;

/** One number for an address space; the halves are -1 where a stage is Bare. */
function spaceOf({ gscid, pscid }: DeviceContext): number {
  return (gscid + 1) * PSCIDS + (pscid + 1);
}

/** The device-directory cache and the IOATC. */
export class RvCaches {
  /** Translations that were served without a walk. */
  hits = 0;
  readonly #keep: boolean;
  readonly #contexts = new Map<number, DeviceContext>();
  readonly #spaces = new Map<number, Map<number, CachedPage>>();

  constructor(profile: RvProfile) {
    this.#keep = profile === "lazy";
  }

  context(did: number): DeviceContext | undefined {
    return this.#contexts.get(did);
  }

  keepContext(did: number, context: DeviceContext): void {
    if (this.#keep) this.#contexts.set(did, context);
  }

  page(context: DeviceContext, iova: number): CachedPage | undefined {
    return this.#spaces.get(spaceOf(context))?.get(Math.floor(iova / PAGE_SIZE));
  }

  /** Remembers the walker's last translation. */
  keepPage(context: DeviceContext, iova: number, walker: RvWalker): void {
    if (!this.#keep) return;
    const key = spaceOf(context);
    let space = this.#spaces.get(key);
    if (space === undefined) this.#spaces.set(key, (space = new Map<number, CachedPage>()));
    const { rights, firstStart, firstSize, secondStart, secondSize } = walker;
    const pa = walker.pa - (walker.pa % PAGE_SIZE);
    const firstBits = firstStageBits(context.firstMode);
    space.set(Math.floor(iova / PAGE_SIZE), { firstBits, pa, rights, firstStart, firstSize, secondStart, secondSize });
  }

  /** IODIR.INVAL_DDT; -1: all devices. */
  dropContext(did: number): void {
    if (did < 0) this.#contexts.clear();
    else this.#contexts.delete(did);
  }

  /**
   * IOTINVAL.VMA: -1 for an operand that is not valid; `gscid` -1: address spaces of the host. `iova`: its low 48 bits.
   */
  dropFirst(gscid: number, pscid: number, iova: number): void {
    this.#drop(
      (g, p) => g === gscid && (pscid < 0 || p === pscid),
      ({ firstBits, firstStart, firstSize }) => {
        const offset = (iova % 2 ** firstBits) - firstStart;
        return iova < 0 || (firstSize > 0 && offset >= 0 && offset < firstSize);
      },
    );
  }

  /** IOTINVAL.GVMA: -1 for an operand that is not valid. */
  dropSecond(gscid: number, gpa: number): void {
    this.#drop(
      (g) => (gscid < 0 ? g >= 0 : g === gscid),
      ({ secondStart, secondSize }) => gpa < 0 || (gpa >= secondStart && gpa < secondStart + secondSize),
    );
  }

  clear(): void {
    this.#contexts.clear();
    this.#spaces.clear();
  }

  #drop(ofSpace: (gscid: number, pscid: number) => boolean, ofPage: (page: CachedPage) => boolean): void {
    for (const [key, space] of this.#spaces) {
      if (!ofSpace(Math.floor(key / PSCIDS) - 1, (key % PSCIDS) - 1)) continue;
      for (const [page, entry] of space) if (ofPage(entry)) space.delete(page);
    }
  }
}
