// A host that changes domains, streams, PASIDs, mappings and owners of pages at random. After each step every stream and PASID tries every
// address, and reaches exactly the page that the ledger of this test says.
import { expect, test } from "vitest";
import { IOMMU_STATE, POOL } from "@smmuv3/pkvm-abi";
import { ERRNO, PAGE_SIZE, TRANSLATION } from "@smmuv3/platform";
import { PAGE, RAM_BASE, SID, World } from "./hyp-fixture.ts";

const STEPS = 600;
const PAGES: readonly number[] = [0, 1, 2, 512].map((index) => PAGE + index * PAGE_SIZE);
const SIDS: readonly number[] = [SID, SID + 1];
const PASIDS: readonly number[] = [0, 1, 70];
const DOMAINS: readonly number[] = [2, 3, 4, 5];
const RW = 3;

interface Domain {
  readonly type: number;
  /** Pages by address in {@link PAGES}. */
  readonly maps: Map<number, number>;
}

/** What ought to be. */
class Ledger {
  readonly domains = new Map<number, Domain>();
  /** State by stream and PASID; blocked where nothing is. */
  readonly states = new Map<string, number>();
  /** Pages that EL2 has. */
  readonly taken = new Set<number>();

  /** Page that `iova` leads to; undefined: none. */
  target(sid: number, pasid: number, iova: number): number | undefined {
    const state = this.states.get(`${sid}.${pasid}`) ?? IOMMU_STATE.blocking;
    if (state === IOMMU_STATE.identity) return this.taken.has(iova) ? undefined : iova;
    return this.domains.get(state)?.maps.get(iova);
  }
  attached(domain: number): boolean {
    return [...this.states.values()].includes(domain);
  }
  mapped(page: number): boolean {
    return [...this.domains.values()].some(({ maps }) => [...maps.values()].includes(page));
  }
}

function random(seed: number): (n: number) => number {
  let state = seed;
  return (n) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * n);
  };
}

/** One step; what EL2 answers must be what the ledger says of it. */
function step(world: World, ledger: Ledger, pick: (n: number) => number): void {
  const one = (list: readonly number[]): number => list[pick(list.length)]!;
  const domain = one(DOMAINS);
  const known = ledger.domains.get(domain);
  const [sid, pasid, iova, page] = [one(SIDS), one(PASIDS), one(PAGES), one(PAGES)];
  switch (pick(10)) {
    case 0: {
      const type = 1 + pick(2);
      const status = world.call("__pkvm_iommu_alloc_domain", 0, domain, type);
      expect(status).toBe(known === undefined ? 0 : -ERRNO.EBUSY);
      if (status === 0) ledger.domains.set(domain, { type, maps: new Map() });
      return;
    }
    case 1: {
      const status = world.call("__pkvm_iommu_free_domain", domain);
      expect(status).toBe(known === undefined ? -ERRNO.ENOENT : ledger.attached(domain) ? -ERRNO.EBUSY : 0);
      if (status === 0) ledger.domains.delete(domain);
      return;
    }
    case 2: {
      const bytes = world.call("__pkvm_iommu_map_pages", domain, iova, page, PAGE_SIZE, 1, RW);
      if (known === undefined) expect(bytes).toBe(-ERRNO.ENOENT);
      else if (ledger.taken.has(page)) expect(bytes).toBe(-ERRNO.EPERM);
      else expect(bytes).toBe(known.maps.has(iova) ? -ERRNO.EEXIST : PAGE_SIZE);
      if (bytes > 0) known!.maps.set(iova, page);
      return;
    }
    case 3: {
      const bytes = world.call("__pkvm_iommu_unmap_pages", domain, iova, PAGE_SIZE, 1);
      expect(bytes).toBe(known === undefined ? -ERRNO.ENOENT : known.maps.has(iova) ? PAGE_SIZE : 0);
      known?.maps.delete(iova);
      return;
    }
    case 4: {
      const status = world.call("__pkvm_host_donate_hyp", page / PAGE_SIZE);
      expect(status).toBe(ledger.taken.has(page) ? -ERRNO.EPERM : ledger.mapped(page) ? -ERRNO.EBUSY : 0);
      if (status === 0) ledger.taken.add(page);
      return;
    }
    case 5: {
      const status = world.call("__pkvm_hyp_donate_host", page / PAGE_SIZE);
      expect(status).toBe(ledger.taken.has(page) ? 0 : -ERRNO.EPERM);
      ledger.taken.delete(page);
      return;
    }
    default: {
      const state = pick(3) === 0 ? pick(2) : domain;
      const status = world.call("__pkvm_iommu_set_state", 0, sid, pasid, state);
      if (status === 0) ledger.states.set(`${sid}.${pasid}`, state);
      else expect([-ERRNO.ENOENT, -ERRNO.EINVAL, -ERRNO.EBUSY]).toContain(status);
      // What is never refused, and what there is no domain for.
      if (state === IOMMU_STATE.blocking) expect(status).toBe(0);
      if (state >= IOMMU_STATE.firstDomain && known === undefined) expect(status).toBe(-ERRNO.ENOENT);
    }
  }
}

function sweep(world: World, ledger: Ledger, mark: number): void {
  const { machine } = world;
  let value = mark;
  for (const sid of SIDS) {
    const dma = machine.dmaMaster("probe", sid, world.smmu);
    for (const pasid of PASIDS) {
      dma.ssid = pasid === 0 ? -1 : pasid;
      for (const iova of PAGES) {
        const before = PAGES.map((page) => machine.memory.load32(page + 8));
        const done = dma.write(iova + 8, Int32Array.of(++value)) === TRANSLATION.ok;
        const target = ledger.target(sid, pasid, iova);
        expect([sid, pasid, iova, done]).toEqual([sid, pasid, iova, target !== undefined]);
        const after = PAGES.map((page, i) => (page === target ? value : before[i]));
        expect(PAGES.map((page) => machine.memory.load32(page + 8))).toEqual(after);
      }
    }
  }
}

test.each((["lazy", "eager", "finite"] as const).flatMap((profile) => [1, 2, 3].map((seed) => [profile, seed] as const)))(
  "cache profile %s, seed %i",
  (profile, seed) => {
    const world = new World("paging", { profile });
    expect(world.call("__pkvm_topup_hyp", POOL.iommu, RAM_BASE / PAGE_SIZE + 0x800, 8)).toBe(0);
    const ledger = new Ledger();
    const pick = random(seed);
    for (let at = 0; at < STEPS; at++) {
      step(world, ledger, pick);
      sweep(world, ledger, at * 1000);
    }
    expect(ledger.states.size).toBe(SIDS.length * PASIDS.length);
    expect(world.sound).toBe(true);
  },
);
