import { IOMMU_DOMAIN_TYPE, IOMMU_STATE, POOL, writeHandoff } from "@smmuv3/pkvm-abi";
import { OWNER } from "@smmuv3/pkvm-hyp";
import type { HypDomain, HypIommuPaging } from "@smmuv3/pkvm-hyp";
import { ERRNO, PAGE_SIZE } from "@smmuv3/platform";
import { CD, CD_WORDS, getAddress, getField, STE, STE_CONFIG, STE_S1DSS, STE_WORDS } from "@smmuv3/smmu-v3-defs";
import { describe, expect, test } from "vitest";
import { pagingDriver } from "../src/index.ts";
import { HANDOFF, HANDOFF_PAGE, hardwareSte, HOST_PAGE, node, run, SECOND_BASE, SMMU_SIZE } from "./el2.ts";
import type { RunOptions, Running } from "./el2.ts";

const SID = 5;
const { s1, s2 } = IOMMU_DOMAIN_TYPE;
const IOVA = 0x10_0000;
const RW = 3;
/** Memory that the host gives for domains. */
const TOPUP = 0x4080_0000;
const TOPUP_ORDER = 9;

/** EL2 with paging, asked directly: what the generic layer would do before is done. */
class Paging {
  readonly running: Running;
  readonly paging: HypIommuPaging;
  #next = 2;

  constructor(ids: Readonly<Record<string, number>> = {}, options: RunOptions = {}) {
    // 8 bits of SubstreamID.
    this.running = run(pagingDriver, { ids: { IDR1: 0x0273_0210, ...ids }, ...options });
    if (this.running.driver.paging === undefined) throw new Error("no paging");
    this.paging = this.running.driver.paging;
    expect(this.cpu.call("__pkvm_topup_hyp", POOL.iommu, TOPUP / PAGE_SIZE, TOPUP_ORDER)).toBe(0);
  }
  get cpu(): Running["cpu"] {
    return this.running.cpu;
  }
  domain(type: 1 | 2, id: number = this.#next++): HypDomain {
    const domain = { id, type, owner: OWNER.host, data: undefined };
    expect(this.paging.allocDomain(0, domain)).toBe(0);
    return domain;
  }
  attach(domain: HypDomain, pasid = 0): number {
    return this.paging.attach(0, SID, pasid, domain);
  }
  state(state: number, pasid = 0): number {
    return this.running.driver.setState(0, SID, pasid, state);
  }
  ste(): Int32Array {
    return hardwareSte(this.cpu, SID) ?? new Int32Array(STE_WORDS);
  }
  cd(pasid = 0): Int32Array {
    const cd = new Int32Array(CD_WORDS);
    this.cpu.memory.read(getAddress(this.ste(), 0, STE.S1ContextPtr) + pasid * 64, cd);
    return cd;
  }
  /** What a transaction without PASID meets: `blocked`, `identity`, `s1:ASID`, `s2:VMID`. */
  now(): string {
    const ste = this.ste();
    const config = getField(ste, 0, STE.Config);
    if (getField(ste, 0, STE.V) === 0 || config === STE_CONFIG.abort) return "blocked";
    if (config === STE_CONFIG.s2) {
      const vmid = getField(ste, 0, STE.S2VMID);
      return vmid === 0 ? "identity" : `s2:${vmid}`;
    }
    if (config !== STE_CONFIG.s1) return "?";
    if (getField(ste, 0, STE.S1DSS) !== STE_S1DSS.ssid0) return "blocked";
    const cd = this.cd();
    return getField(cd, 0, CD.V) === 0 ? "blocked" : `s1:${getField(cd, 0, CD.ASID)}`;
  }
  pasid(pasid: number): string {
    const ste = this.ste();
    if (getField(ste, 0, STE.V) === 0 || getField(ste, 0, STE.Config) !== STE_CONFIG.s1) return "blocked";
    if (pasid >= 2 ** getField(ste, 0, STE.S1CDMax)) return "blocked";
    const cd = this.cd(pasid);
    return getField(cd, 0, CD.V) === 0 ? "blocked" : `s1:${getField(cd, 0, CD.ASID)}`;
  }
  get breaks(): number {
    return this.cpu.counters.read("steBreaks").el2;
  }
  /** What streams meet at each command, from before `step` to after it. */
  watch(step: () => number, look: () => string = () => this.now()): { status: number; seen: string[] } {
    const seen = [look()];
    this.cpu.smmu.onCommand = () => { seen.push(look()); };
    const status = step();
    this.cpu.smmu.onCommand = () => {};
    seen.push(look());
    return { status, seen: seen.filter((one, i) => i === 0 || one !== seen[i - 1]) };
  }
}

describe("transitions of a stream", () => {
  const STATES = ["blocked", "identity", "s1:2", "s1:3", "s2:4", "s2:5"] as const;
  /** Both ends use S2VMID and differ in it and in another quadword. */
  const broken = (from: string, to: string): boolean =>
    from !== to && from !== "blocked" && to !== "blocked" && (from.startsWith("s2") || to.startsWith("s2"));
  const pairs = STATES.flatMap((from) => STATES.map((to) => [from, to] as const));

  test.each(pairs)("%s -> %s", (from, to) => {
    const one = new Paging();
    const domains = [one.domain(s1), one.domain(s1), one.domain(s2), one.domain(s2)];
    const go = (state: string): number =>
      state === "blocked" || state === "identity"
        ? one.state(state === "blocked" ? IOMMU_STATE.blocking : IOMMU_STATE.identity)
        : one.attach(domains[Number(state.slice(3)) - 2]!);
    expect(go(from)).toBe(0);
    const before = one.breaks;
    const { status, seen } = one.watch(() => go(to));
    expect(status).toBe(0);
    const expected = broken(from, to) ? [from, "blocked", to] : from === to ? [from] : [from, to];
    expect(seen).toEqual(expected);
    expect(one.breaks - before).toBe(broken(from, to) ? 1 : 0);
  });
});

describe("PASIDs", () => {
  test("come and go while the rest of the stream stays, changes, and is blocked", () => {
    const one = new Paging();
    const [a, b, c] = [one.domain(s1), one.domain(s1), one.domain(s1)];
    one.attach(a);
    expect(one.watch(() => one.attach(b, 7)).seen).toEqual(["s1:2"]);
    expect([one.now(), one.pasid(7)]).toEqual(["s1:2", "s1:3"]);
    // Another domain for the rest, and none.
    expect(one.watch(() => one.attach(c), () => one.pasid(7)).seen).toEqual(["s1:3"]);
    expect(one.now()).toBe("s1:4");
    expect(one.watch(() => one.state(IOMMU_STATE.blocking), () => one.pasid(7)).seen).toEqual(["s1:3"]);
    expect(one.now()).toBe("blocked");
    expect(one.watch(() => one.attach(a), () => one.pasid(7)).seen).toEqual(["s1:3"]);
    // Another domain for the PASID, and none.
    expect(one.watch(() => one.attach(c, 7), () => one.pasid(7)).seen).toEqual(["s1:3", "s1:4"]);
    expect(one.watch(() => one.state(IOMMU_STATE.blocking, 7)).seen).toEqual(["s1:2"]);
    expect(one.pasid(7)).toBe("blocked");
    expect(one.breaks).toBe(0);
  });

  test("without a domain for the rest", () => {
    const one = new Paging();
    const a = one.domain(s1);
    expect(one.attach(a, 3)).toBe(0);
    expect([one.now(), one.pasid(3)]).toEqual(["blocked", "s1:2"]);
    expect(one.state(IOMMU_STATE.blocking)).toBe(0);
    expect(one.pasid(3)).toBe("s1:2");
    expect(one.state(IOMMU_STATE.blocking, 3)).toBe(0);
    expect(getField(one.ste(), 0, STE.Config)).toBe(STE_CONFIG.abort);
    expect(one.running.core.iommuPool.freePages).toBeGreaterThan(0);
  });

  test("a larger table takes the place of the first without a break", () => {
    const one = new Paging();
    const [a, b] = [one.domain(s1), one.domain(s1)];
    one.attach(a);
    one.attach(b, 1);
    const pages = one.running.core.iommuPool.freePages;
    expect(one.watch(() => one.attach(b, 200)).seen).toEqual(["s1:2"]);
    expect([one.pasid(1), one.pasid(200)]).toEqual(["s1:3", "s1:3"]);
    expect(one.running.core.iommuPool.freePages).toBe(pages - 3);
    expect(one.attach(a, 256)).toBe(-ERRNO.E2BIG);
    expect(one.breaks).toBe(0);
  });

  test.each<[string, (one: Paging) => number, number]>([
    ["identity for a PASID", (one) => one.state(IOMMU_STATE.identity, 1), -ERRNO.EINVAL],
    ["stage 2 for a PASID", (one) => one.attach(one.domain(s2), 1), -ERRNO.EINVAL],
    ["a PASID beside identity", (one) => one.state(IOMMU_STATE.identity) || one.attach(one.domain(s1), 1), -ERRNO.EBUSY],
    ["a PASID beside stage 2", (one) => one.attach(one.domain(s2)) || one.attach(one.domain(s1), 1), -ERRNO.EBUSY],
    ["identity beside a PASID", (one) => one.attach(one.domain(s1), 1) || one.state(IOMMU_STATE.identity), -ERRNO.EBUSY],
    ["stage 2 beside a PASID", (one) => one.attach(one.domain(s1), 1) || one.attach(one.domain(s2)), -ERRNO.EBUSY],
    ["blocking what is not attached", (one) => one.state(IOMMU_STATE.blocking, 9), 0],
    ["a PASID that the hardware does not have", (one) => one.attach(one.domain(s1), 2 ** 20), -ERRNO.E2BIG],
    ["a stream that the hardware does not have", (one) => one.paging.attach(0, 2 ** 16, 0, one.domain(s1)), -ERRNO.EINVAL],
    ["an SMMU that there is not", (one) => one.paging.attach(1, 1, 0, one.domain(s1)), -ERRNO.ENODEV],
  ])("%s", (_what, ask, status) => {
    const one = new Paging();
    expect(ask(one)).toBe(status);
  });
});

describe("an attach that fails leaves the hardware as it was", () => {
  const starts: Record<string, (one: Paging) => void> = {
    blocked: (one) => { one.state(IOMMU_STATE.blocking); one.attach(one.domain(s1)); one.state(IOMMU_STATE.blocking); },
    identity: (one) => { one.state(IOMMU_STATE.identity); },
    s1: (one) => { one.attach(one.domain(s1)); },
    s2: (one) => { one.attach(one.domain(s2)); },
  };
  const image = (one: Paging): string => [...one.ste(), ...(one.now().startsWith("s1") ? one.cd() : [])].join();

  test.each(Object.keys(starts))("no memory, from %s", (start) => {
    const one = new Paging();
    starts[start]!(one);
    const next = one.domain(s1);
    const pool = one.running.core.iommuPool;
    while (pool.alloc(PAGE_SIZE, "streamTables") >= 0);
    const before = image(one);
    one.cpu.smmu.log.length = 0;
    expect(one.attach(next)).toBe(-ERRNO.ENOMEM);
    expect(image(one)).toBe(before);
    expect(one.cpu.smmu.log.filter((entry) => !entry.startsWith("CMDQ_PROD")).every((entry) => entry.startsWith("TLBI") || entry === "SYNC")).toBe(true);
  });

  test.each(Object.keys(starts).flatMap((start) => ([s1, s2] as const).flatMap((to) => [1, 2, 3].map((at) => [start, to, at] as const))))(
    "from %s to stage %i, when the SMMU stops answering at command %i",
    (start, to, at) => {
      const one = new Paging();
      starts[start]!(one);
      const next = one.domain(to);
      const before = image(one);
      let left = at;
      one.cpu.smmu.onCommand = (name) => {
        if (name === "SYNC" && --left === 0) one.cpu.smmu.consumes = false;
      };
      const status = one.attach(next);
      if (status === 0) return;
      expect(status).toBe(-ERRNO.ETIMEDOUT);
      expect(image(one)).toBe(before);
      // What an SMMU may have seen is never given away.
      expect(one.paging.freeDomain(next, () => {})).toBe(-ERRNO.ETIMEDOUT);
    },
  );

  test("blocking does not need memory, and blocks an SMMU that does not answer", () => {
    const one = new Paging();
    one.attach(one.domain(s1));
    const pool = one.running.core.iommuPool;
    while (pool.alloc(PAGE_SIZE, "streamTables") >= 0);
    one.cpu.smmu.consumes = false;
    expect(one.state(IOMMU_STATE.blocking)).toBe(-ERRNO.ETIMEDOUT);
    expect(one.now()).toBe("blocked");
  });

  test("what was blocked while the SMMU did not answer can be attached again, and its domain is not given away", () => {
    const one = new Paging();
    const [a, b] = [one.domain(s1), one.domain(s1)];
    one.attach(a);
    one.attach(b, 2);
    one.cpu.smmu.consumes = false;
    expect(one.state(IOMMU_STATE.blocking, 2)).toBe(-ERRNO.ETIMEDOUT);
    expect(one.state(IOMMU_STATE.blocking)).toBe(-ERRNO.ETIMEDOUT);
    one.cpu.smmu.consumes = true;
    expect([one.attach(b, 2), one.attach(a)]).toEqual([0, 0]);
    expect([one.now(), one.pasid(2)]).toEqual(["s1:2", "s1:3"]);
    expect([one.state(IOMMU_STATE.blocking, 2), one.state(IOMMU_STATE.blocking)]).toEqual([0, 0]);
    for (const domain of [a, b]) expect(one.paging.freeDomain(domain, () => {})).toBe(-ERRNO.ETIMEDOUT);
  });
});

describe.each([["stage 1", s1], ["stage 2", s2]] as const)("pages of %s", (_what, stage) => {
  const tlbis = (one: Paging): string[] => one.cpu.smmu.log.filter((entry) => entry.startsWith("TLBI"));

  test("map, look up, unmap: the TLB forgets before the page is let go", () => {
    const one = new Paging();
    const domain = one.domain(stage);
    one.attach(domain);
    expect(one.paging.mapPages(domain, IOVA, HOST_PAGE, PAGE_SIZE, 3, RW)).toBe(3 * PAGE_SIZE);
    expect(one.paging.iovaToPhys(domain, IOVA + PAGE_SIZE + 8)).toBe(HOST_PAGE + PAGE_SIZE + 8);
    one.cpu.smmu.log.length = 0;
    const gone: [number, number, number][] = [];
    const bytes = one.paging.unmapPages(domain, IOVA, PAGE_SIZE, 8, (pa, size) => {
      gone.push([pa - HOST_PAGE, size, tlbis(one).length]);
      expect(one.cpu.smmu.log.at(-1)).toBe("SYNC");
    });
    expect(bytes).toBe(3 * PAGE_SIZE);
    expect(gone.map(([pa, size]) => [pa, size])).toEqual([0, 1, 2].map((i) => [i * PAGE_SIZE, PAGE_SIZE]));
    expect(tlbis(one)).toEqual([stage === s1 ? "TLBI_NH_VA" : "TLBI_S2_IPA"]);
    expect(one.paging.iovaToPhys(domain, IOVA)).toBe(0);
  });

  test("without range invalidation each page has its command, many have one, none has none", () => {
    const one = new Paging({ IDR3: 0 });
    const domain = one.domain(stage);
    const round = (pages: number): string[] => {
      expect(one.paging.mapPages(domain, IOVA, 0x4040_0000, PAGE_SIZE, pages, RW)).toBe(pages * PAGE_SIZE);
      one.cpu.smmu.log.length = 0;
      expect(one.paging.unmapPages(domain, IOVA, PAGE_SIZE, pages, () => {})).toBe(pages * PAGE_SIZE);
      return tlbis(one);
    };
    expect(round(5)).toEqual([]);
    one.attach(domain);
    expect(round(5)).toHaveLength(5);
    one.state(IOMMU_STATE.blocking);
    expect(round(5)).toEqual([]);
  });

  test("blocks: as a whole only, and a table in a block's place gives its leaves back", () => {
    const one = new Paging();
    const domain = one.domain(stage);
    const block = 0x20_0000;
    one.attach(domain);
    expect(one.paging.mapPages(domain, block, 0x4040_0000, block, 1, RW)).toBe(block);
    expect(one.paging.unmapPages(domain, block, PAGE_SIZE, 4, () => { throw new Error("part of a block"); })).toBe(0);
    expect(one.paging.mapPages(domain, block + PAGE_SIZE, HOST_PAGE, PAGE_SIZE, 1, RW)).toBe(-ERRNO.EEXIST);
    expect(one.paging.mapPages(domain, 2 * block, HOST_PAGE, PAGE_SIZE, 2, RW)).toBe(2 * PAGE_SIZE);
    const sizes: number[] = [];
    expect(one.paging.unmapPages(domain, block, block, 2, (_pa, size) => sizes.push(size))).toBe(block + 2 * PAGE_SIZE);
    expect(sizes).toEqual([block, PAGE_SIZE, PAGE_SIZE]);
  });

  test.each([[0, true], [511, true], [512, false]])("a block does not replace what is mapped: page %d of its place", (page, refused) => {
    const one = new Paging();
    const domain = one.domain(stage);
    const block = 0x20_0000;
    const iova = block + page * PAGE_SIZE;
    expect(one.paging.mapPages(domain, iova, HOST_PAGE, PAGE_SIZE, 1, RW)).toBe(PAGE_SIZE);
    expect(one.paging.mapPages(domain, block, 0x4040_0000, block, 1, RW)).toBe(refused ? -ERRNO.EEXIST : block);
    expect(one.paging.iovaToPhys(domain, iova)).toBe(HOST_PAGE);
    expect(one.paging.unmapPages(domain, iova, PAGE_SIZE, 1, () => {})).toBe(PAGE_SIZE);
    // The table that is left is empty, and gives way.
    if (refused) expect(one.paging.mapPages(domain, block, 0x4040_0000, block, 1, RW)).toBe(block);
  });

  test.each<[string, number, number, number, number, number]>([
    ["a size that no leaf has", IOVA, HOST_PAGE, 0x3000, RW, -ERRNO.EINVAL],
    ["an IOVA that is not aligned", IOVA + 1, HOST_PAGE, PAGE_SIZE, RW, -ERRNO.EINVAL],
    ["an address that is not aligned", IOVA, HOST_PAGE + 1, PAGE_SIZE, RW, -ERRNO.EINVAL],
    ["an IOVA beyond the tables", 2 ** 50, HOST_PAGE, PAGE_SIZE, RW, -ERRNO.ERANGE],
    ["no access", IOVA, HOST_PAGE, PAGE_SIZE, 0, -ERRNO.EINVAL],
  ])("refused: %s", (_why, iova, pa, size, prot, status) => {
    const one = new Paging();
    const domain = one.domain(stage);
    expect(one.paging.mapPages(domain, iova, pa, size, 1, prot)).toBe(status);
    expect(one.paging.iovaToPhys(domain, iova)).toBe(0);
    expect(one.paging.unmapPages(domain, iova, size, 1, () => {})).toBe(0);
  });

  test("running out of table memory maps what it can, then nothing", () => {
    const one = new Paging();
    const domain = one.domain(stage);
    const pool = one.running.core.iommuPool;
    one.paging.mapPages(domain, 0, HOST_PAGE, PAGE_SIZE, 1, RW);
    while (pool.alloc(PAGE_SIZE, "streamTables") >= 0);
    const top = 0x20_0000 - 2 * PAGE_SIZE;
    expect(one.paging.mapPages(domain, top, HOST_PAGE, PAGE_SIZE, 4, RW)).toBe(2 * PAGE_SIZE);
    expect(one.paging.mapPages(domain, top + 2 * PAGE_SIZE, HOST_PAGE, PAGE_SIZE, 2, RW)).toBe(-ERRNO.ENOMEM);
  });

  test("an SMMU that does not answer keeps the pages in use", () => {
    const one = new Paging();
    const domain = one.domain(stage);
    one.attach(domain);
    one.paging.mapPages(domain, IOVA, HOST_PAGE, PAGE_SIZE, 1, RW);
    one.cpu.smmu.consumes = false;
    const never = (): void => { throw new Error("let go"); };
    expect(one.paging.unmapPages(domain, IOVA, PAGE_SIZE, 1, never)).toBe(-ERRNO.ETIMEDOUT);
    one.state(IOMMU_STATE.blocking);
    expect(one.paging.freeDomain(domain, never)).toBe(-ERRNO.ETIMEDOUT);
  });

  test("free gives back what is mapped and every table", () => {
    const one = new Paging();
    const pages = one.running.core.iommuPool.freePages;
    const domain = one.domain(stage);
    one.paging.mapPages(domain, IOVA, HOST_PAGE, PAGE_SIZE, 2, RW);
    const gone: number[] = [];
    expect(one.paging.freeDomain(domain, (pa) => gone.push(pa))).toBe(0);
    expect(gone).toEqual([HOST_PAGE, HOST_PAGE + PAGE_SIZE]);
    expect(one.running.core.iommuPool.freePages).toBe(pages);
  });
});

describe("two SMMUs", () => {
  const SECOND = { mmioBase: SECOND_BASE, cmdqBase: 0x40a0_0000, strtabBase: 0x40a1_0000 };

  /** A domain that was made before EL2 had the second one. */
  function both(flags = 1): { one: Paging; domain: HypDomain; status: number } {
    const one = new Paging({}, { devices: [node("smmuv3@9070000", "arm,smmu-v3", SECOND_BASE, SMMU_SIZE)], stop: true });
    const domain = one.domain(s1);
    writeHandoff(one.cpu.memory, HANDOFF_PAGE + PAGE_SIZE, { ...HANDOFF, ...SECOND, flags });
    expect(one.cpu.call("__pkvm_iommu_handoff", HANDOFF_PAGE + PAGE_SIZE)).toBe(1);
    expect(one.cpu.call("__pkvm_prot_finalize")).toBe(0);
    return { one, domain, status: one.paging.attach(1, 7, 0, domain) };
  }
  const tlbis = (log: readonly string[]): number => log.filter((entry) => entry.startsWith("TLBI_NH_VA")).length;

  test("invalidations go to those in which a stream leads to the domain", () => {
    const { one, domain, status } = both();
    expect([status, one.attach(domain)]).toEqual([0, 0]);
    const round = (): number[] => {
      one.paging.mapPages(domain, IOVA, HOST_PAGE, PAGE_SIZE, 1, RW);
      one.cpu.smmu.log.length = one.cpu.second.log.length = 0;
      expect(one.paging.unmapPages(domain, IOVA, PAGE_SIZE, 1, () => {})).toBe(PAGE_SIZE);
      return [tlbis(one.cpu.smmu.log), tlbis(one.cpu.second.log)];
    };
    expect(round()).toEqual([1, 1]);
    one.state(IOMMU_STATE.blocking);
    expect(round()).toEqual([0, 1]);
    one.running.driver.setState(1, 7, 0, IOMMU_STATE.blocking);
    expect(round()).toEqual([0, 0]);
  });

  test("tables of a coherent SMMU are not for one that is not", () => {
    expect(both(0).status).toBe(-ERRNO.EINVAL);
  });
});

test("tables of a domain are EL2's", () => {
  const one = new Paging();
  one.attach(one.domain(s1));
  expect(getAddress(one.ste(), 0, STE.S1ContextPtr)).toBeGreaterThanOrEqual(TOPUP);
  expect(getAddress(one.cd(), 0, CD.TTB0)).toBeGreaterThanOrEqual(TOPUP);
  expect(getField(one.ste(), 0, STE.S2VMID)).toBe(0);
});

test.each([
  ["no stage 1", { IDR0: 0x085d_fe3d }, s1, -ERRNO.EOPNOTSUPP],
  ["8-bit ASIDs", { IDR0: 0x085d_fe3f & ~(1 << 12) }, s1, -ERRNO.ENOSPC],
  ["8-bit VMIDs", { IDR0: 0x085d_fe3f & ~(1 << 18) }, s2, -ERRNO.ENOSPC],
] as const)("a domain on hardware with %s", (_what, ids, type, status) => {
  const one = new Paging(ids);
  expect(one.paging.allocDomain(0, { id: 300, type, owner: 0, data: undefined })).toBe(status);
});

describe("power", () => {
  test("off aborts, on restores everything; what changed meanwhile holds", () => {
    const one = new Paging();
    const { driver, smmu } = one.running;
    const domain = one.domain(s1);
    one.attach(domain);
    expect(driver.suspend?.(0)).toBe(0);
    expect(smmu.get("CR0")).toBe(0);
    smmu.log.length = 0;
    expect(one.state(IOMMU_STATE.identity)).toBe(0);
    expect(smmu.log).toEqual([]);
    expect(driver.resume?.(0)).toBe(0);
    expect(smmu.log[0]).toMatch(/^GBPA/);
    expect(smmu.log).toContain("TLBI_NSNH_ALL");
    expect(smmu.get("CR0") & 9).toBe(9);
    expect(one.now()).toBe("identity");
  });
});
