// Every STE put in the place of every other one under DMA: between any two stores, the SMMU does what the old STE says, or the new one,
// or, where no order of stores can do that, nothing at all.
import { TRANSLATION } from "@smmuv3/platform";
import {
  cfgiSte, CommandBatch, makeAbortSte, makeBypassSte, makeCdtableSte, makeNestedSte, makeS2Ste, steSafe, steUsed, writeEntry,
} from "@smmuv3/arm-smmu-v3-common";
import { DOMAIN_FLAG } from "@smmuv3/iommu-core";
import { STE_S1DSS, STE_WORDS } from "@smmuv3/smmu-v3-defs";
import { PRESETS } from "@smmuv3/smmu-v3-model";
import type { ProfileName } from "@smmuv3/smmu-v3-model";
import { describe, expect, test } from "vitest";
import { BUFFER, RAM, Rig, RW } from "./fixture.ts";

const PAGE = 0x1000;
const KINDS = [
  "abort", "bypass", "s1", "s1 ats", "s1 bypass", "s1 terminate", "other s1 bypass", "s2", "s2 ats", "nested", "nested bypass",
] as const;
type Kind = (typeof KINDS)[number];

/** Where a DMA to BUFFER goes: a page after it, or -1 when it aborts. */
type Landing = number;

class Bench {
  readonly rig: Rig;
  readonly images: ReadonlyMap<Kind, Int32Array>;
  readonly #pa: number;
  readonly #batch: CommandBatch;

  constructor(profile: ProfileName) {
    const clients = [8, 9].map((sid) => ({ sids: [sid], properties: { "pasid-num-bits": 4 } }));
    const rig = new Rig({ id: PRESETS.mmu700, clients, model: { profile } });
    this.rig = rig;
    const [client, second] = rig.clients;
    // Stage 1: BUFFER goes one page up. Stage 2: pages 0 and 1 go three pages up, tables stay where they are.
    const s1 = rig.paging();
    rig.iommu.map(s1, BUFFER, BUFFER + PAGE, PAGE, RW);
    const s2 = rig.paging(client, DOMAIN_FLAG.nestParent);
    rig.iommu.map(s2, RAM, RAM, BUFFER - RAM, RW);
    rig.iommu.map(s2, BUFFER, BUFFER + 3 * PAGE, 2 * PAGE, RW);
    rig.attach(client!, s1);
    rig.attach(second!, s1);
    const options = { attrTypesOvr: true };
    const build = (make: (ste: Int32Array) => void): Int32Array => {
      const ste = new Int32Array(STE_WORDS);
      make(ste);
      return ste;
    };
    const table = (of: typeof client, s1dss: number, ats: boolean): Int32Array =>
      build((ste) => {
        const { base: pa, geometry } = rig.device.masters.get(of!.sid)!.cdTable!;
        const { s1fmt, s1cdmax } = geometry;
        makeCdtableSte(ste, { pa, s1fmt, s1cdmax, s1dss, stallDisable: false }, { ...options, ats });
      });
    const nested = (s1dss: number): Int32Array =>
      build((ste) => {
        const vste = table(client, s1dss, false).slice(0, 4);
        vste[3] = 0;
        vste[2] = vste[2]! & 0xff;
        makeNestedSte(ste, vste, s2.stage2, options, s2.s2fwb);
      });
    this.images = new Map<Kind, Int32Array>([
      ["abort", build(makeAbortSte)],
      ["bypass", build((ste) => { makeBypassSte(ste, true); })],
      ["s1", table(client, STE_S1DSS.ssid0, false)],
      ["s1 ats", table(client, STE_S1DSS.ssid0, true)],
      ["s1 bypass", table(client, STE_S1DSS.bypass, false)],
      ["s1 terminate", table(client, STE_S1DSS.terminate, false)],
      ["other s1 bypass", table(second, STE_S1DSS.bypass, false)],
      ["s2", build((ste) => { makeS2Ste(ste, s2.stage2, options, s2.s2fwb); })],
      ["s2 ats", build((ste) => { makeS2Ste(ste, s2.stage2, { ...options, ats: true }, s2.s2fwb); })],
      ["nested", nested(STE_S1DSS.ssid0)],
      ["nested bypass", nested(STE_S1DSS.bypass)],
    ]);
    this.#pa = rig.native.strtab.ste(client!.sid);
    this.#batch = new CommandBatch(rig.native.cmdq);
  }

  /** A DMA write: to which page after BUFFER it went. */
  dma(stamp: number): Landing {
    const { memory } = this.rig.machine;
    for (let page = 0; page < 6; page++) memory.store32(BUFFER + page * PAGE, 0);
    if (this.rig.write(8, BUFFER, stamp) !== TRANSLATION.ok) return -1;
    return [0, 1, 2, 3, 4, 5].findIndex((page) => memory.load32(BUFFER + page * PAGE) === stamp);
  }

  write(kind: Kind): number {
    return writeEntry({
      memory: this.rig.kernel.memory,
      pa: this.#pa,
      target: this.images.get(kind)!,
      used: steUsed,
      safe: steSafe,
      sync: () => {
        cfgiSte(this.#batch.words, this.#batch.next(), 8, true);
        return this.#batch.submit();
      },
    });
  }

  /** The syncs that it takes, and where DMA went between the stores. */
  move(from: Kind, to: Kind): { syncs: number; seen: Landing[]; ends: [Landing, Landing] } {
    this.write(from);
    const before = this.dma(1);
    const { memory } = this.rig.kernel;
    const plain = memory.store32.bind(memory);
    const seen: Landing[] = [];
    let stamp = 2;
    memory.store32 = (pa, value): void => {
      plain(pa, value);
      // The quadword is complete with its low word.
      if (pa >= this.#pa && pa < this.#pa + 64 && pa % 8 === 0) seen.push(this.dma(stamp++));
    };
    const syncs = this.write(to);
    memory.store32 = plain;
    return { syncs, seen, ends: [before, this.dma(stamp)] };
  }
}

const LANDINGS: Readonly<Record<Kind, Landing>> = {
  abort: -1, bypass: 0, s1: 1, "s1 ats": 1, "s1 bypass": 0, "s1 terminate": -1, "other s1 bypass": 0,
  s2: 3, "s2 ats": 3, nested: 4, "nested bypass": 3,
};

/**
 * Syncs from a row to a column, in the order of KINDS; `!`: with an invalid entry in between, where a third thing was seen. Stage 1
 * and stage 2 take the long way because both use S2VMID: 0 for the kernel's own stage 1, another for a stage 2.
 */
const SYNCS: readonly string[] = [
  "0  2  2  2  2  2  2  2  2  2  2",
  "2  0  3  3  2  3  2  2  2  2  2",
  "2  3  0  1  1  1  3! 3! 3! 3! 3!",
  "2  3  1  0  1  1  3! 3! 3! 3! 3!",
  "2  2  1  1  0  1  1  3! 3! 3! 3!",
  "2  3  1  1  1  0  3  3  3  3  3",
  "2  2  3! 3! 1  3  0  3! 3! 3! 3!",
  "2  2  3! 3! 3! 3  3! 0  1  2  2",
  "2  2  3! 3! 3! 3  3! 1  0  2  2",
  "2  2  3! 3! 3! 3  3! 3  3  0  1",
  "2  2  3! 3! 3! 3  3! 3  3  1  0",
];

describe.each(["lazy", "eager"] as const)("%s", (profile) => {
  test("S1, S2, S3, S4: every STE to every other one", () => {
    const bench = new Bench(profile);
    const table = KINDS.map((from) =>
      KINDS.map((to) => {
        const { syncs, seen, ends } = bench.move(from, to);
        expect([from, to, ...ends]).toEqual([from, to, LANDINGS[from], LANDINGS[to]]);
        const third = seen.filter((landing) => !ends.includes(landing));
        // Never somebody else's translation: what is neither old nor new is an abort.
        expect([from, to, third.filter((landing) => landing !== -1)]).toEqual([from, to, []]);
        // Images in which the entry is invalid are seen where both ends translate.
        return `${syncs}${third.length > 0 ? "!" : ""}`;
      }),
    );
    const rows = table.map((cells) => cells.map((cell) => cell.padEnd(2)).join(" ").trimEnd());
    expect(rows).toEqual(SYNCS);
  });

  test("PAGING -> BLOCKED never passes through IDENTITY", () => {
    for (const id of [PRESETS.qemuStage1, PRESETS.qemuStage2, PRESETS.mmu700]) {
      const rig = new Rig({ id, model: { profile } });
      const client = rig.clients[0]!;
      const domain = rig.domain();
      rig.iommu.map(domain, BUFFER, BUFFER + PAGE, PAGE, RW);
      rig.attach(client, domain);
      const { memory } = rig.kernel;
      const plain = memory.store32.bind(memory);
      let checks = 0;
      memory.store32 = (pa, value): void => {
        plain(pa, value);
        rig.machine.memory.store32(BUFFER, 0);
        rig.write(client.sid, BUFFER, 0x1d);
        expect(rig.machine.memory.load32(BUFFER)).toBe(0);
        checks++;
      };
      expect(rig.attach(client, "blocked")).toBe(0);
      expect(checks).toBeGreaterThan(2);
    }
  });

  test("R8 an IOMMU_RESV_DIRECT region translates without interruption from before the SMMU is enabled on", () => {
    let bad = 0;
    let checks = 0;
    const rmr = { iommu: "smmuv3@9050000", ids: [8], base: BUFFER, size: 4 * PAGE };
    const rig = new Rig({
      model: { profile },
      clients: [[8]],
      iommu: { defaultDomainType: "dma", rmrs: [rmr] },
      before({ machine, smmu, kernel }) {
        const master = machine.dmaMaster("boot", 8, smmu);
        const look = (): void => {
          checks++;
          machine.memory.store32(BUFFER + PAGE, 0);
          if (master.write(BUFFER + PAGE, Int32Array.of(checks)) !== TRANSLATION.ok) bad++;
          else if (machine.memory.load32(BUFFER + PAGE) !== checks) bad++;
        };
        const { memory } = kernel;
        const plain = memory.store32.bind(memory);
        memory.store32 = (pa, value): void => {
          plain(pa, value);
          // Outside of the buffer itself, and when a quadword is complete.
          if (pa % 8 === 0 && pa < BUFFER) look();
        };
      },
    });
    expect(rig.iommu.domainOf(rig.clients[0]!.dev)!.type).toBe("paging");
    expect([bad, checks > 20]).toEqual([0, true]);
    expect(rig.write(8, BUFFER + 8 * PAGE, 1)).toBe(TRANSLATION.abort);
  });
});
