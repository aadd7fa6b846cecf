import { HOST_DOMAINS } from "@smmuv3/pkvm-abi";
import { PAGE_SIZE } from "@smmuv3/platform";
import { BOOT_SID, CLIENT_SIDS } from "./hardware.ts";
import type { Op } from "./op.ts";
import { OWNER, PAGE } from "./ownership.ts";
import type { Random } from "./random.ts";
import type { World } from "./world.ts";

/** Values at which something may overflow, wrap or be one too many. */
const BOUNDARIES: readonly number[] = [
  0, 1, 2, 3, 255, 256, 511, 512, 4095, 4096, 0xffff, 0x1_0000, 2 ** 20 - 1, 2 ** 31 - 1, 2 ** 31, 2 ** 32 - 1, 2 ** 32, 2 ** 40 - 1, 2 ** 43, 2 ** 48,
  2 ** 52 - 4096, 2 ** 52, 2 ** 53 - 1,
];
/** StreamIDs of no device, at the edges of stream tables. */
const OTHER_SIDS: readonly number[] = [0, 1, 0x7f, 0xff, 0x100, 0x1ff, 0xffff, 0x1_0000, 2 ** 31];
const IOVA_PAGES = 64;
/** Where the attack maps: low, and above what a stage-1 table of one level holds. */
const IOVA_BASES: readonly number[] = [0, 0x1000_0000, 0x4000_0000, 0x80_0000_0000];
/** VM addresses that the attack gives pages at. */
const IPA_BASE = 0x8000_0000;
const IPA_PAGES = 32;

/** What an attacker knows and may name: a source of arguments. */
export class Scene {
  readonly world: World;
  readonly random: Random;
  /** Operations that the class has produced. */
  readonly ops: Op[] = [];
  #class = "traffic";

  constructor(world: World, random: Random) {
    this.world = world;
    this.random = random;
  }

  /** Starts a class: what {@link op} adds is its. */
  begin(name: string): void {
    this.#class = name;
    this.ops.length = 0;
  }

  op(call: Op["call"], ...args: number[]): void {
    this.ops.push({ class: this.#class, call, args });
  }

  boundary(): number {
    return this.random.pick(BOUNDARIES);
  }

  /** A page of the attack's own, an address. */
  arena(): number {
    return this.random.pick(this.world.arena);
  }

  /** Two different pages of the arena that lie side by side, the first one's address. */
  arenaRun(pages: number): number {
    const { arena } = this.world;
    for (let tries = 0; tries < 8; tries++) {
      const first = this.arena();
      if (Array.from({ length: pages }, (_, i) => first + i * PAGE_SIZE).every((pa) => arena.includes(pa))) return first;
    }
    return this.arena();
  }

  /** A page of the arena that the host has for itself, if there is one. */
  free(): number {
    const { ledger } = this.world;
    for (let tries = 0; tries < 16; tries++) {
      const pa = this.arena();
      const page = ledger.memory.pageIndex(pa);
      if (ledger.owner[page] === OWNER.host && ledger.flags[page] === 0 && ledger.mapped[page] === 0) return pa;
    }
    return this.arena();
  }

  /** A naturally aligned block of pages that the host has for itself, if there is one; an address. */
  freeBlock(pages: number): number {
    const { ledger, arena } = this.world;
    const own = (pa: number): boolean => {
      const page = ledger.memory.pageIndex(pa);
      return arena.includes(pa) && ledger.owner[page] === OWNER.host && ledger.flags[page] === 0 && ledger.mapped[page] === 0;
    };
    const fits = (pa: number): boolean =>
      pa % (pages * PAGE_SIZE) === 0 && Array.from({ length: pages }, (_, i) => pa + i * PAGE_SIZE).every(own);
    return arena.find(fits) ?? this.free();
  }

  /** A page that is not the host's, an address. */
  taken(): number {
    const { ledger } = this.world;
    for (let tries = 0; tries < 64; tries++) {
      const vm = this.vmPage();
      if (vm >= 0 && this.random.oneIn(2)) return vm;
      const page = this.random.below(ledger.owner.length);
      if (!ledger.isHosts(page)) return ledger.address(page);
    }
    return ledger.memory.base;
  }

  /** A page that a VM uses, or -1. */
  vmPage(): number {
    const vm = this.vm();
    const pages = vm === undefined ? [] : [...vm.pages.keys()];
    return pages.length === 0 ? -1 : this.world.ledger.address(this.random.pick(pages));
  }

  /** A page that the host has shared with EL2, or one that it has not. */
  shared(): number {
    const { ledger, arena } = this.world;
    const list = arena.filter((pa) => (ledger.flags[ledger.memory.pageIndex(pa)]! & PAGE.shared) !== 0);
    return list.length === 0 ? this.arena() : this.random.pick(list);
  }

  /** A page that the host has given EL2 to use for good, or one that it has not. */
  pinned(): number {
    const { ledger } = this.world;
    const pages = [...ledger.flags.keys()].filter((page) => (ledger.flags[page]! & PAGE.pinned) !== 0);
    return pages.length === 0 ? this.shared() : ledger.address(this.random.pick(pages));
  }

  /** Any address of a page: mostly one that means something. */
  page(): number {
    const { random } = this;
    switch (random.below(10)) {
      case 0:
        return this.taken();
      case 1:
        return Math.max(this.vmPage(), this.world.ledger.memory.base);
      case 2:
        return this.boundary() * (random.oneIn(2) ? PAGE_SIZE : 1);
      case 3:
        return this.world.hardware.smmuBase + random.below(32) * PAGE_SIZE;
      case 4:
        return this.shared();
      default:
        return random.oneIn(3) ? this.arena() : this.free();
    }
  }

  pfn(): number {
    return Math.floor(this.page() / PAGE_SIZE) % 2 ** 41;
  }

  sid(): number {
    const { random } = this;
    const known = [...CLIENT_SIDS, BOOT_SID, 0x123];
    return random.oneIn(4) ? (random.oneIn(3) ? random.below(0x1_0000) : random.pick(OTHER_SIDS)) : random.pick(known);
  }

  clientSid(): number {
    return this.random.pick(CLIENT_SIDS);
  }

  iommu(): number {
    return this.random.oneIn(6) ? this.boundary() : 0;
  }

  pasid(): number {
    return this.random.oneIn(2) ? 0 : this.random.oneIn(5) ? this.boundary() % 2 ** 32 : this.random.below(4);
  }

  /** A live domain, or an id that is none. */
  domain(): number {
    const ids = [...this.world.ledger.domains.keys()];
    if (ids.length === 0 || this.random.oneIn(8)) return this.random.oneIn(2) ? this.newDomain() : this.random.pick([0, 1, HOST_DOMAINS - 1, HOST_DOMAINS, HOST_DOMAINS + 1, HOST_DOMAINS * 2, 2 ** 32]);
    return this.random.pick(ids);
  }

  newDomain(): number {
    return 2 + this.random.below(6);
  }

  iova(): number {
    if (this.random.oneIn(12)) return this.boundary();
    return this.random.pick(IOVA_BASES) + this.random.below(IOVA_PAGES) * PAGE_SIZE;
  }

  /** An IOVA that a domain maps, with what it maps to; undefined: none. */
  mapping(): { readonly domain: number; readonly iova: number; readonly pa: number } | undefined {
    const { ledger } = this.world;
    const id = this.domain();
    const maps = [...(ledger.domains.get(id)?.maps ?? [])];
    if (maps.length === 0) return undefined;
    const [key, page] = this.random.pick(maps);
    return { domain: id, iova: key * PAGE_SIZE, pa: page < 0 ? 0 : ledger.address(page) };
  }

  /** A VM that is alive; undefined: none. */
  vm(): { readonly handle: number; readonly pages: ReadonlyMap<number, number> } | undefined {
    const alive = [...this.world.ledger.vms.values()].filter((vm) => vm.alive);
    return alive.length === 0 ? undefined : this.random.pick(alive);
  }

  handle(): number {
    return this.random.oneIn(8) ? this.boundary() : (this.vm()?.handle ?? 1);
  }

  /** The handle that the next VM will have: the lowest one that is free. */
  nextHandle(): number {
    const { vms, owner } = this.world.ledger;
    for (let handle = 1; ; handle++) {
      const vm = vms.get(handle);
      if (vm === undefined || (!vm.alive && !owner.includes(handle + 1))) return handle;
    }
  }

  ipa(): number {
    return this.random.oneIn(12) ? this.boundary() : IPA_BASE + this.random.below(IPA_PAGES) * PAGE_SIZE;
  }
}
