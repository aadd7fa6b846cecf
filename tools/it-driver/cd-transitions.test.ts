// Every CD put in the place of every other one under DMA; see transitions.test.ts.
import { TRANSLATION } from "@smmuv3/platform";
import { cdUsed, cfgiCd, clearCd, CommandBatch, makeS1Cd, makeSvaCd, tlbiNhAsid, writeEntry } from "@smmuv3/arm-smmu-v3-common";
import { CD_WORDS } from "@smmuv3/smmu-v3-defs";
import { PRESETS } from "@smmuv3/smmu-v3-model";
import type { ProfileName } from "@smmuv3/smmu-v3-model";
import { expect, test } from "vitest";
import { BUFFER, Rig, RW } from "./fixture.ts";
import { Process } from "./process.ts";

const PAGE = 0x1000;
const KINDS = ["none", "s1", "s1, other ASID", "other s1", "sva", "sva released"] as const;
type Kind = (typeof KINDS)[number];

/** Where a DMA to BUFFER goes: a page after it, or -1 when it aborts. */
const LANDINGS: Readonly<Record<Kind, number>> = { none: -1, s1: 1, "s1, other ASID": 1, "other s1": 2, sva: 3, "sva released": -1 };
const ASIDS = [41, 42, 43, 44];

/** Syncs from a row to a column, in the order of KINDS; `!`: an invalid CD was seen in between. */
const SYNCS: readonly string[] = [
  "0  2  2  2  2  2",
  "2  0  1  3! 3! 2",
  "2  1  0  3! 3! 2",
  "2  3! 3! 0  3! 2",
  "2  3! 3! 3! 0  2",
  "2  2  2  2  2  0",
];

test.each<ProfileName>(["lazy", "eager"])("every CD to every other one: %s", (profile) => {
  const rig = new Rig({ id: PRESETS.mmu700, model: { profile } });
  const client = rig.clients[0]!;
  const domains = [1, 2].map((page) => {
    const domain = rig.paging();
    rig.iommu.map(domain, BUFFER, BUFFER + page * PAGE, PAGE, RW);
    return domain;
  });
  const process = new Process(rig);
  process.map(BUFFER, BUFFER + 3 * PAGE);
  rig.attach(client, domains[0]!);
  const pa = rig.device.masters.get(client.sid)!.cdTable!.address(0);
  const batch = new CommandBatch(rig.native.cmdq);
  const build = (make: (cd: Int32Array) => void): Int32Array => {
    const cd = new Int32Array(CD_WORDS);
    make(cd);
    return cd;
  };
  const s1 = (of: number, asid: number): Int32Array =>
    build((cd) => {
      const { tcr, mair, pgd: ttb } = domains[of]!.pgtable;
      makeS1Cd(cd, { ttb, tcr, mairLo: mair.lo, mairHi: mair.hi, asid, stall: false, dirty: false });
    });
  const sva = (released: boolean): Int32Array =>
    build((cd) => {
      const { ttb, vaBits } = process.mm.table;
      const options = {
        asid: 44, ips: 4, mairLo: 0xf404_ff44 | 0, mairHi: 0, stall: false, stallForce: false, ha: false, hd: false, haft: false,
      };
      makeSvaCd(cd, options, released ? undefined : { ttb, vaBits, tg: 0 });
    });
  const images = new Map<Kind, Int32Array>([
    ["none", build(clearCd)], ["s1", s1(0, 41)], ["s1, other ASID", s1(0, 42)], ["other s1", s1(1, 43)], ["sva", sva(false)],
    ["sva released", sva(true)],
  ]);
  const write = (kind: Kind): number =>
    writeEntry({
      memory: rig.kernel.memory, pa, target: images.get(kind)!, used: cdUsed,
      sync: () => {
        cfgiCd(batch.words, batch.next(), client.sid, 0, true);
        return batch.submit();
      },
    });
  const settle = (): void => {
    for (const asid of ASIDS) tlbiNhAsid(batch.words, batch.next(), 0, asid);
    batch.submit();
  };
  const { memory } = rig.machine;
  let stamp = 0;
  const dma = (): number => {
    stamp++;
    for (let page = 0; page < 4; page++) memory.store32(BUFFER + page * PAGE, 0);
    if (rig.write(client.sid, BUFFER, stamp) !== TRANSLATION.ok) return -1;
    return [0, 1, 2, 3].findIndex((page) => memory.load32(BUFFER + page * PAGE) === stamp);
  };
  const cell = (from: Kind, to: Kind): string => {
    write(from);
    settle();
    const before = dma();
    const seen: number[] = [];
    const plain = rig.kernel.memory.store32.bind(rig.kernel.memory);
    rig.kernel.memory.store32 = (at, value): void => {
      plain(at, value);
      if (at >= pa && at < pa + 64 && at % 8 === 0) seen.push(dma());
    };
    const syncs = write(to);
    rig.kernel.memory.store32 = plain;
    settle();
    expect([from, to, before, dma()]).toEqual([from, to, LANDINGS[from], LANDINGS[to]]);
    const third = seen.filter((landing) => landing !== LANDINGS[from] && landing !== LANDINGS[to]);
    expect([from, to, third.filter((landing) => landing !== -1)]).toEqual([from, to, []]);
    return `${syncs}${third.length > 0 ? "!" : ""}`;
  };
  const rows = KINDS.map((from) => KINDS.map((to) => cell(from, to).padEnd(2)).join(" ").trimEnd());
  expect(rows).toEqual(SYNCS);
});
