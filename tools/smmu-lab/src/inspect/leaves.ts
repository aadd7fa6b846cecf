import { pair, UnknownPage } from "../reference/bus.ts";
import type { Bus } from "../reference/bus.ts";
import { showRights } from "../reference/describe.ts";
import { NO_QUIRKS } from "../reference/quirks.ts";
import { addressOf, alignDown, classify, firstBitsOf, levelShift, mask, noAccess, RIGHT, stage1Rights, stage2Rights, walkStage2 } from "../reference/tables.ts";
import type { Context, Half, Shape, Stage1, Stage2 } from "../reference/tables.ts";

/** Leaves that follow one another in both address spaces, with the same rights. */
export interface LeafRange {
  readonly input: bigint;
  readonly output: bigint;
  readonly size: bigint;
  /** Descriptors. */
  readonly count: number;
  readonly rights: string;
}

/** What a set of tables maps. */
export interface Leaves {
  readonly count: number;
  readonly ranges: readonly LeafRange[];
  /** Tables that the dump does not hold, or that cannot be read. */
  readonly missing: readonly { readonly pa: bigint; readonly why: "unknown" | "unreadable" }[];
  /** Not all were listed: the tables point at themselves, or there are too many. */
  readonly cut: boolean;
}

/** Descriptors looked at, and ranges kept, before a listing is cut. */
const BUDGET = 1 << 24;
const RANGES = 1 << 16;

class Listing {
  readonly #ranges: LeafRange[] = [];
  readonly #missing: { pa: bigint; why: "unknown" | "unreadable" }[] = [];
  #count = 0;
  #budget = BUDGET;
  #cut = false;

  /** Takes leaves in ascending order. */
  add(input: bigint, output: bigint, size: bigint, rights: string): void {
    this.#count++;
    const last = this.#ranges.at(-1);
    if (last !== undefined && last.input + last.size === input && last.output + last.size === output && last.rights === rights) {
      this.#ranges[this.#ranges.length - 1] = { ...last, size: last.size + size, count: last.count + 1 };
    } else if (this.#ranges.length === RANGES) {
      this.#cut = true;
    } else {
      this.#ranges.push({ input, output, size, count: 1, rights });
    }
  }

  miss(pa: bigint, why: "unknown" | "unreadable"): void {
    this.#missing.push({ pa, why });
  }

  /** Something is left out. */
  cut(): void {
    this.#cut = true;
  }

  /** Another descriptor may be looked at. */
  spend(): boolean {
    if (this.#budget === 0) this.#cut = true;
    else this.#budget--;
    return !this.#cut || this.#budget > 0;
  }

  get result(): Leaves {
    return { count: this.#count, ranges: this.#ranges, missing: this.#missing, cut: this.#cut };
  }
}

interface Walk {
  readonly shape: Shape;
  /** Reads a descriptor; undefined where nothing answers. */
  readonly read: (address: bigint) => bigint | undefined;
  readonly rights: (desc: bigint, inherited: bigint) => string;
}

/** Lists a table and those under it; `above` are the tables that lead to it. */
function visit(listing: Listing, walk: Walk, above: readonly bigint[], table: bigint, level: number, base: bigint, inherited: bigint): void {
  const { shape } = walk;
  const bits = level === shape.startLevel ? firstBitsOf(shape) : shape.pageShift - 3;
  const shift = levelShift(shape.pageShift, level);
  const per = BigInt(shift);
  for (let index = 0n; index < 1n << BigInt(bits); index++) {
    if (!listing.spend()) return;
    const address = table + index * 8n;
    let desc: bigint | undefined;
    try {
      desc = walk.read(address);
    } catch (error) {
      if (!(error instanceof UnknownPage)) throw error;
      // The rest of the page is as unknown.
      listing.miss(alignDown(error.pa, 12), "unknown");
      index += 511n - ((address >> 3n) & 511n);
      continue;
    }
    if (desc === undefined) {
      listing.miss(address, "unreadable");
      return;
    }
    const input = base | (index << per);
    const kind = classify(desc, level, shape, false);
    if (kind === "table") {
      const next = addressOf(desc, shape.pageShift, shape.wide);
      if (next === table || above.includes(next)) listing.cut();
      else if (next <= mask(shape.outputBits)) visit(listing, walk, [...above, table], next, level + 1, input, inherited | desc);
    } else if (kind === "block" || kind === "page") {
      listing.add(input, addressOf(desc, shift, shape.wide), 1n << per, walk.rights(desc, inherited));
    }
  }
}

function accessFlag(desc: bigint, stage: Stage1 | Stage2): string {
  return noAccess(desc, stage) ? " AF=0" : "";
}

/** What stage 2 maps. */
export function stage2Leaves(bus: Bus, s2: Stage2): Leaves {
  const listing = new Listing();
  const walk: Walk = {
    shape: s2,
    read: (address) => descriptorAt(bus, address),
    rights: (desc) => showRights(stage2Rights(desc, s2)) + accessFlag(desc, s2),
  };
  visit(listing, walk, [], alignDown(s2.ttb, firstBitsOf(s2) + 3), s2.startLevel, 0n, 0n);
  return listing.result;
}

function descriptorAt(bus: Bus, address: bigint): bigint | undefined {
  const words = bus.read(address, 2);
  return words === undefined ? undefined : pair(words);
}

/** What stage 1 maps; its tables are read through `s2` where nested, its outputs are not translated further. */
export function stage1Leaves(bus: Bus, s1: Stage1, s2: Stage2 | undefined): Leaves {
  const listing = new Listing();
  const context: Context = { bus, quirks: NO_QUIRKS, onRead: () => {} };
  const read = (address: bigint): bigint | undefined => {
    if (s2 === undefined) return descriptorAt(bus, address);
    const found = walkStage2(context, s2, address, RIGHT.read);
    return found.fault === undefined ? descriptorAt(bus, found.pa) : undefined;
  };
  for (const [upper, half] of s1.halves.entries()) {
    if (!half.enabled) continue;
    const rights = (desc: bigint, inherited: bigint): string =>
      showRights(stage1Rights(desc, inherited, s1, half.flat)) + accessFlag(desc, s1);
    const base = upper === 1 ? mask(64) & ~mask(half.inputBits) : 0n;
    visit(listing, { shape: half, read, rights }, [], tableOf(half), half.startLevel, base, 0n);
  }
  return listing.result;
}

function tableOf(half: Half): bigint {
  return alignDown(half.ttb, firstBitsOf(half) + 3);
}
