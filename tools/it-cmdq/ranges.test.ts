// Range invalidation against the SMMU's TLB: of pages that have all changed, those in the range are seen anew, the others are not.
import { Counters, Memory, TRANSLATION } from "@smmuv3/platform";
import type { Cpu } from "@smmuv3/platform";
import {
  CommandBatch, CommandQueue, INV, Invalidator, makeCdtableSte, makeInvs, makeS1Cd, planRange, planRangeOver, planRangeSplit, planSingle,
  queueBase, strtabBase, strtabBaseCfg, strtabGeometry, tlbiNhVa,
} from "@smmuv3/arm-smmu-v3-common";
import type { TlbiEmit } from "@smmuv3/arm-smmu-v3-common";
import { GERROR_BIT, PRESETS, SmmuV3 } from "@smmuv3/smmu-v3-model";
import { maskOf, OFFSET, REG, STE_S1DSS } from "@smmuv3/smmu-v3-defs";
import { describe, expect, test } from "vitest";
import { Random } from "./random.ts";

const K = 1024;
const M = K * K;
const RAM = 0x4000_0000;
const [RING, STRTAB, CDTAB, L1, L2, L3] = [RAM, RAM + 0x1000, RAM + 0x2000, RAM + 0x3000, RAM + 0x4000, RAM + 0x1_0000];
const SID = 3;
const ASID = 5;
/** Pages of 4K from address 0 on: four tables. Behind them blocks of 2M. */
const PAGES = 2048;
const BLOCKS = 500;
/** What distinguishes the two output addresses. */
const NEW = 2 ** 33;

/** One SMMU with a stage 1 whose every leaf can be changed at once, without it being told. */
class Rig {
  readonly memory: Memory = Memory.allocate({ base: RAM, size: 0x2_0000 });
  readonly smmu: SmmuV3 = new SmmuV3({
    memory: this.memory, id: PRESETS.full, profile: "lazy", policy: { commandReserved: "illegal" },
  });
  readonly batch: CommandBatch;

  constructor() {
    const { memory, smmu } = this;
    const { registers } = smmu;
    this.point(0);
    memory.write(L1, Int32Array.of(L2 | 3, 0));
    for (let table = 0; table < 4; table++) memory.write(L2 + table * 8, Int32Array.of((L3 + table * 4096) | 3, 0));
    const entry = new Int32Array(16);
    makeS1Cd(entry, {
      ttb: L1, tcr: { ips: 5, tg: 0, sh: 3, orgn: 1, irgn: 1, tsz: 25 }, mairLo: 0xff, mairHi: 0, asid: ASID, stall: false, dirty: false,
    });
    memory.write(CDTAB, entry);
    makeCdtableSte(entry, { pa: CDTAB, s1fmt: 0, s1cdmax: 0, s1dss: STE_S1DSS.ssid0, stallDisable: true }, { attrTypesOvr: true });
    memory.write(STRTAB + SID * 64, entry);
    const base = new Int32Array(2);
    strtabBase(base, STRTAB);
    registers.write64(OFFSET.STRTAB_BASE, base[0]!, base[1]!);
    registers.write32(OFFSET.STRTAB_BASE_CFG, strtabBaseCfg(strtabGeometry(6, false)));
    queueBase(base, RING, 8);
    registers.write64(OFFSET.CMDQ_BASE, base[0]!, base[1]!);
    registers.write32(OFFSET.CR0, maskOf(REG.CR0.CMDQEN) | maskOf(REG.CR0.SMMUEN));
    const cpu: Cpu = {
      level: 1, memory, counters: new Counters(), ioremap: () => registers, now: () => 0, relax: () => {}, barrier: () => {},
      irqSave: () => {}, irqRestore: () => {},
    };
    this.batch = new CommandBatch(new CommandQueue({ cpu, window: registers, pa: RING, log2: 8 }));
  }

  /** All leaves lead to `offset` and their own address. */
  point(offset: number): void {
    const { memory } = this;
    // AF, inner shareable, nG, read-write for all.
    for (let page = 0; page < PAGES; page++) memory.write(L3 + page * 8, Int32Array.of((page * 4 * K) | 0xf43, offset / 2 ** 32));
    for (let block = 4; block < 4 + BLOCKS; block++) memory.write(L2 + block * 8, Int32Array.of((block * 2 * M) | 0xf41, offset / 2 ** 32));
  }

  /** The SMMU sees what is in memory now for `iova`. */
  fresh(iova: number): boolean {
    const { smmu } = this;
    const status = smmu.translate(SID, -1, iova, 0, 0);
    const pa = (smmu.paHi >>> 0) * 2 ** 32 + (smmu.paLo >>> 0);
    if (status !== TRANSLATION.ok || (pa !== iova && pa !== iova + NEW)) throw new Error(`0x${iova.toString(16)}: status ${status}`);
    return pa !== iova;
  }
}

type Plan = typeof planRange;

/** Invalidates by `plan`; returns the addresses, of every `leaf` bytes from 0 on, that are seen anew. */
function seenAnew(rig: Rig, plan: Plan, iova: number, size: number, leaf: number, leafOnly: boolean): number[] {
  const [from, count] = leaf === 4 * K ? [0, PAGES] : [8 * M, BLOCKS];
  const all = Array.from({ length: count }, (_, i) => from + i * leaf);
  const { batch } = rig;
  rig.point(0);
  const everything = new Invalidator({
    current: () => makeInvs([{ smmu: 0, type: INV.s1Asid, id: ASID }])!, batchOf: () => batch, barrier: () => {}, relax: () => {}, pageShift: 12,
  });
  everything.invalidateAll();
  expect(all.every((address) => !rig.fresh(address))).toBe(true);
  rig.point(NEW);
  const emit: TlbiEmit = (w0, w2, w3) => {
    tlbiNhVa(batch.words, batch.next(), 0, ASID, w0, w2, w3);
  };
  expect(plan(iova, size, 12, leaf, leafOnly, emit)).toBe(true);
  expect(batch.submit()).toBe(0);
  // No command was illegal.
  expect(rig.smmu.registers.read32(OFFSET.GERROR) & GERROR_BIT.CMDQ_ERR).toBe(0);
  return all.filter((address) => rig.fresh(address));
}

const single: Plan = (iova, size, _, granule, leaf, emit) => planSingle(iova, size, granule, leaf, emit);
const SIZES = [1, 2, 31, 33, 65, 512, 1000, 1025];
/** `planSingle` does no more. */
const MAX_SINGLE = 512;

describe.each<{ name: string; plan: Plan; exact: boolean }>([
  { name: "planSingle", plan: single, exact: true },
  { name: "planRange", plan: planRange, exact: true },
  { name: "planRangeOver", plan: planRangeOver, exact: false },
  { name: "planRangeSplit", plan: planRangeSplit, exact: true },
])("$name", ({ plan, exact }) => {
  const random = new Random(7);
  const rig = new Rig();
  const cases = SIZES.flatMap((leaves) => [
    { leaves, leaf: 4 * K, leafOnly: true }, { leaves, leaf: 4 * K, leafOnly: false }, { leaves, leaf: 2 * M, leafOnly: true },
  ]).filter(({ leaves, leaf }) => leaves < (leaf === 4 * K ? PAGES : BLOCKS) && (plan !== single || leaves <= MAX_SINGLE));

  test.each(cases)("$leaves leaves of $leaf, leaves only: $leafOnly", ({ leaves, leaf, leafOnly }) => {
    const [from, count] = leaf === 4 * K ? [0, PAGES] : [8 * M, BLOCKS];
    for (const first of [random.below(count - leaves), count - leaves]) {
      const iova = from + first * leaf;
      const anew = seenAnew(rig, plan, iova, leaves * leaf, leaf, leafOnly);
      const wanted = Array.from({ length: leaves }, (_, i) => iova + i * leaf);
      const found = new Set(anew);
      expect(wanted.filter((address) => !found.has(address))).toEqual([]);
      // Where tables went away, what is not a leaf of this size may go with them: one page more is legal.
      const slack = leafOnly || leaf !== 4 * K ? 0 : 1;
      if (exact) expect(anew.length).toBeLessThanOrEqual(leaves + slack);
      else expect(anew.length).toBeLessThanOrEqual(Math.ceil(leaves * (1 + 1 / 16)));
    }
  });
});
