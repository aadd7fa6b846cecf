// Everything that the hardware reaches from the registers EL2 wrote: stream table, context descriptors, translation tables.
import { hex, hi32, join, lo32, PAGE_SIZE } from "@smmuv3/platform";
import { CD, CD_WORDS, getAddress, getField, OFFSET, STE, STE_CONFIG, STE_EATS, STE_STRW, STE_VTCR_WORD, STE_WORDS } from "@smmuv3/smmu-v3-defs";
import { OWNER, wrong } from "./ownership.ts";
import type { Violation } from "./op.ts";
import { forEachStage2Leaf, forEachSte, forEachTableLeaf, streamTable } from "./tables.ts";
import type { World } from "./world.ts";

/** A stream that does more than abort. */
export interface LiveStream {
  readonly sid: number;
  readonly config: number;
}

/** Contexts of one stream that are looked at: PASIDs 0 to this. */
const PASIDS = 4;
const CONFIG_TRANSLATES = 4;

/** I1, I6, I7 as far as structures in memory can tell. */
export class StructureCheck {
  readonly #world: World;
  readonly #ste = new Int32Array(STE_WORDS);
  readonly #cd = new Int32Array(CD_WORDS);
  #violation: Violation | undefined = undefined;

  constructor(world: World) {
    this.#world = world;
  }

  /** Follows the hardware's stream table; `live` gets its streams. */
  check(live: LiveStream[]): Violation | undefined {
    const { smmu, ledger, machine } = this.#world;
    const { registers } = smmu;
    const table = streamTable(
      registers.read32(OFFSET.STRTAB_BASE),
      registers.read32(OFFSET.STRTAB_BASE + 4),
      registers.read32(OFFSET.STRTAB_BASE_CFG),
    );
    this.#violation = undefined;
    const { words, base } = machine.memory;
    const roots = new Set<string>();
    const inside = forEachSte(
      machine.memory,
      table,
      (sid, pa) => {
        const word = words[(pa - base) / 4]!;
        const config = (word >>> 1) & 7;
        if ((word & 1) === 0 || (config & CONFIG_TRANSLATES) === 0) return;
        live.push({ sid, config });
        machine.memory.read(pa, this.#ste);
        this.#entry(sid, config, roots);
      },
      (pa, size) => {
        this.#mine(pa, size, "the stream table");
      },
    );
    if (!inside) return wrong("the stream table leaves RAM", "I6");
    return this.#found() ?? (ledger.finalized ? this.#hostStage2() : undefined);
  }

  /** What EL1 reaches with its CPU: I7. */
  hostOnly(): Violation | undefined {
    this.#violation = undefined;
    return this.#hostStage2();
  }

  /** What {@link #report} was told first. */
  #found(): Violation | undefined {
    return this.#violation;
  }

  #entry(sid: number, config: number, roots: Set<string>): void {
    const ste = this.#ste;
    const at = `STE of ${hex(sid)}`;
    if (config === STE_CONFIG.bypass) this.#report(`${at} bypasses translation`, "I6");
    if (getField(ste, 0, STE.EATS) !== STE_EATS.abort) this.#report(`${at} has EATS ${getField(ste, 0, STE.EATS)}: translated requests skip stage 2`, "I11");
    if (getField(ste, 0, STE.STRW) !== STE_STRW.nsEl1) this.#report(`${at} has STRW ${getField(ste, 0, STE.STRW)}`, "I6");
    if ((config & 2) !== 0) {
      const root = getAddress(ste, 0, STE.S2TTB);
      const vtcr = ste[STE_VTCR_WORD]! & 0x7_ffff;
      if (this.#first(roots, `${root} ${this.#ownerOf(sid)}`)) this.#stage2(`stage 2 of ${hex(sid)}`, root, vtcr, this.#ownerOf(sid));
    }
    if (config === STE_CONFIG.s1) this.#contexts(sid, roots);
  }

  #first(roots: Set<string>, key: string): boolean {
    if (roots.has(key)) return false;
    roots.add(key);
    return true;
  }

  /** Who a stream belongs to, as an owner of pages. */
  #ownerOf(sid: number): number {
    const handle = this.#world.ledger.assigned.get(sid);
    return handle === undefined ? OWNER.host : handle + 1;
  }

  /** Stage 1 alone: its contexts and tables are EL2's. */
  #contexts(sid: number, roots: Set<string>): void {
    const { memory } = this.#world.machine;
    const ste = this.#ste;
    const pointer = getAddress(ste, 0, STE.S1ContextPtr);
    const count = Math.min(2 ** getField(ste, 0, STE.S1CDMax), PASIDS);
    if (getField(ste, 0, STE.S1Fmt) !== 0 || memory.pageIndex(pointer) < 0) {
      this.#report(`STE of ${hex(sid)}: S1 without stage 2, and its contexts are not EL2's`, "I6");
      return;
    }
    this.#mine(pointer, count * CD_WORDS * 4, `contexts of ${hex(sid)}`);
    for (let pasid = 0; pasid < count; pasid++) {
      const cd = this.#cd;
      memory.read(pointer + pasid * CD_WORDS * 4, cd);
      if (getField(cd, 0, CD.V) === 0) continue;
      if (getField(cd, 0, CD.EPD1) === 0) this.#report(`CD ${pasid} of ${hex(sid)}: TTB1 is in use`, "I6");
      if (getField(cd, 0, CD.EPD0) === 1) continue;
      const root = getAddress(cd, 0, CD.TTB0);
      if (!this.#first(roots, `s1 ${root} ${this.#ownerOf(sid)}`)) continue;
      const levels = Math.ceil((64 - getField(cd, 0, CD.T0SZ) - 12) / 9);
      this.#tables(`stage 1 of ${hex(sid)}`, this.#ownerOf(sid), (leaf, table) =>
        forEachTableLeaf(memory, root, 64 - getField(cd, 0, CD.T0SZ), 4 - levels, leaf, table),
      );
    }
  }

  #stage2(what: string, root: number, vtcr: number, owner: number): void {
    const { memory } = this.#world.machine;
    this.#tables(what, owner, (leaf, table) => forEachStage2Leaf(memory, root, vtcr, leaf, table));
  }

  #tables(
    what: string,
    owner: number,
    walk: (leaf: (pa: number, size: number, rights: number) => void, table: (pa: number) => void) => boolean,
  ): void {
    const inside = walk(
      (pa, size) => {
        this.#leaf(what, pa, size, owner);
      },
      (pa) => {
        this.#mine(pa, PAGE_SIZE, `the tables of ${what}`, owner);
      },
    );
    if (!inside) this.#report(`the tables of ${what} leave RAM`, "I6");
  }

  /** A leaf: RAM of its owner, or device space that is not EL2's. */
  #leaf(what: string, pa: number, size: number, owner: number): void {
    const { ledger, hardware, protectsDma } = this.#world;
    const { base, size: bytes } = ledger.memory;
    if (pa >= base + bytes || pa + size <= base) {
      const { smmuBase } = hardware;
      const window = hardware.firmware.nodes[0]!.reg[0]!.size;
      if (protectsDma && pa < smmuBase + window && smmuBase < pa + size) this.#report(`${what} maps the SMMU's registers`, "I7");
      return;
    }
    for (let at = pa; at < pa + size; at += PAGE_SIZE) {
      const page = ledger.memory.pageIndex(at);
      if (page < 0) continue;
      const fine = ledger.owner[page] === owner || (owner === OWNER.host && ledger.isHosts(page));
      if (!fine) this.#report(`${what} maps ${hex(at)}, which is not its owner's`, "I1");
    }
  }

  /** Structures of EL2's own. */
  #mine(pa: number, size: number, what: string, alsoOf: number = OWNER.hyp): void {
    const { ledger } = this.#world;
    for (let at = pa - (pa % PAGE_SIZE); at < pa + size; at += PAGE_SIZE) {
      const owner = ledger.owner[ledger.memory.pageIndex(at)];
      if (owner !== OWNER.hyp && (owner !== alsoOf || owner === OWNER.host)) {
        this.#report(`${what} is in page ${hex(at)}, which is not EL2's`, "I7");
        return;
      }
    }
  }

  /** EL1's own stage 2, and its TLB. */
  #hostStage2(): Violation | undefined {
    const { machine, ledger } = this.#world;
    const regime = machine.hostStage2;
    if (regime === undefined) return wrong("the host's stage 2 is off", "I7");
    const root = join(lo32(regime.ttb), hi32(regime.ttb));
    this.#stage2("the host's stage 2", root, regime.vtcr, OWNER.host);
    if (this.#violation !== undefined) return this.#violation;
    const { perm } = machine.host.memory;
    for (let page = 0; page < perm.length; page++) {
      if (perm[page] !== 0 && !ledger.isHosts(page)) return wrong(`the CPU's TLB still has ${hex(ledger.address(page))}`, "I2");
    }
    return undefined;
  }

  #report(text: string, invariant: string): void {
    this.#violation ??= wrong(text, invariant);
  }
}
