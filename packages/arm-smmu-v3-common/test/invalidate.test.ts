import { CMD, CMD_WORDS, COMMAND_NAMES, getField, printCommand } from "@smmuv3/smmu-v3-defs";
import { describe, expect, test } from "vitest";
import { CommandBatch, INV, Invalidator, makeInvs, mergeInvs, unrefInvs } from "../src/index.ts";
import type { Invs, InvTag } from "../src/index.ts";

const K = 1024;
const M = K * K;

/** Every list as `SMMU: commands`, by name or in full. */
class Smmus {
  readonly lists: string[] = [];
  readonly full: string[] = [];
  status: number = 0;
  readonly #batches = new Map<number, CommandBatch>();

  batchOf(smmu: number): CommandBatch {
    let batch = this.#batches.get(smmu);
    if (batch === undefined) {
      batch = new CommandBatch({
        issue: (words, count, sync) => {
          const names: string[] = [];
          for (let i = 0; i < count; i++) {
            const command = words.slice(i * CMD_WORDS, (i + 1) * CMD_WORDS);
            names.push(COMMAND_NAMES.get(getField(command, 0, CMD.Opcode))!.replace("TLBI_", ""));
            this.full.push(printCommand(command));
          }
          this.lists.push(`${smmu}: ${names.join(" ")}${sync ? "" : " ..."}`);
          return this.status;
        },
      });
      this.#batches.set(smmu, batch);
    }
    return batch;
  }
}

function on(tags: readonly InvTag[], options: { sva?: boolean; invs?: Invs } = {}): { smmus: Smmus; invalidator: Invalidator; order: string[] } {
  const smmus = new Smmus();
  const order: string[] = [];
  const invs = options.invs ?? makeInvs(tags)!;
  const invalidator = new Invalidator({
    pageShift: 12,
    ...options,
    batchOf: (smmu) => smmus.batchOf(smmu),
    barrier: () => order.push("barrier"),
    current() {
      order.push("current");
      return invs;
    },
    relax() {
      throw new Error("nobody has to wait");
    },
  });
  return { smmus, invalidator, order };
}

const S1: InvTag = { smmu: 0, type: INV.s1Asid, id: 5, ril: true };
const S2: InvTag = { smmu: 0, type: INV.s2Vmid, id: 7, ril: true };
const CLEAR: InvTag = { smmu: 0, type: INV.s2VmidS1Clear, id: 7, ril: true };
const ATS: InvTag = { smmu: 0, type: INV.ats, id: 9 };
const ATS_FULL: InvTag = { smmu: 0, type: INV.atsFull, id: 9 };
const plain = (tag: InvTag): InvTag => ({ ...tag, ril: false });

describe("Invalidator", () => {
  test.each<[string, InvTag[], number, string[]]>([
    ["nothing is attached", [], 4 * K, []],
    ["stage 1", [S1], 4 * K, ["0: NH_VA"]],
    ["stage 1 of EL2", [{ ...S1, e2h: true }], 4 * K, ["0: EL2_VA"]],
    ["ATS after the SMMU", [S1, ATS], 4 * K, ["0: NH_VA", "0: ATC_INV"]],
    ["devices together", [S1, ATS, { ...ATS, id: 10 }, { ...ATS, ssid: 3 }], 4 * K, ["0: NH_VA", "0: ATC_INV ATC_INV ATC_INV"]],
    ["guests' stage 1 after stage 2", [S2, CLEAR, ATS_FULL], 4 * K, ["0: S2_IPA", "0: NH_ALL", "0: ATC_INV"]],
    ["SMMUs by themselves", [S1, { ...S1, smmu: 1 }, ATS, { ...ATS, smmu: 1 }], 4 * K, ["0: NH_VA", "0: ATC_INV", "1: NH_VA", "1: ATC_INV"]],
    ["two ASIDs of one SMMU", [S1, { ...S1, id: 6 }], 4 * K, ["0: NH_VA NH_VA"]],
    ["without ranges one each", [plain(S1)], 12 * K, ["0: NH_VA NH_VA NH_VA"]],
    ["without ranges, more than a list", [plain(S1)], 280 * K, ["0: " + "NH_VA ".repeat(64) + "...", "0: NH_VA NH_VA NH_VA NH_VA NH_VA NH_VA"]],
    ["without ranges too much", [plain(S1)], 513 * 4 * K, ["0: NH_ASID"]],
    ["each SMMU as it can", [S1, { ...plain(S1), smmu: 1 }], 513 * 4 * K, ["0: NH_VA NH_VA", "1: NH_ASID"]],
    ["everything of stage 2 covers guests' stage 1", [plain(S2), plain(CLEAR), ATS_FULL], 513 * 4 * K, ["0: S12_VMALL", "0: ATC_INV"]],
    ["and only there", [plain(S2), plain(CLEAR), { ...S2, smmu: 1 }, { ...CLEAR, smmu: 1 }], 513 * 4 * K, ["0: S12_VMALL", "1: S2_IPA S2_IPA", "1: NH_ALL"]],
  ])("%s", (_, tags, size, lists) => {
    const { smmus, invalidator, order } = on(tags);
    expect(invalidator.invalidate(0x10_0000, size, 4 * K, true)).toBe(0);
    expect(smmus.lists).toEqual(lists);
    // With ATS it looks again, behind the lock.
    expect(order).toEqual(["barrier", "current", ...(tags.some(({ type }) => type >= INV.ats) ? ["current"] : [])]);
  });

  test.each<[string, InvTag[], string[]]>([
    ["stage 1", [S1, ATS], ["0: NH_ASID", "0: ATC_INV"]],
    ["stage 1 of EL2", [{ ...S1, e2h: true }], ["0: EL2_ASID"]],
    ["stage 2 with guests", [S2, CLEAR, ATS_FULL], ["0: S12_VMALL", "0: ATC_INV"]],
    ["nothing is attached", [], []],
  ])("everything: %s", (_, tags, lists) => {
    const { smmus, invalidator } = on(tags);
    expect(invalidator.invalidateAll()).toBe(0);
    expect(smmus.lists).toEqual(lists);
  });

  test("the commands in full", () => {
    const { smmus, invalidator } = on([S1, { ...ATS, ssid: 3 }, { ...S2, smmu: 1 }, { ...CLEAR, smmu: 1 }, { ...ATS_FULL, smmu: 1 }]);
    invalidator.invalidate(2 * M, 2 * M, 2 * M, true);
    expect(smmus.full).toEqual([
      "CMD_TLBI_NH_VA ASID=5 NUM=0x1f SCALE=4 Leaf=1 TTL=2 TG=1 Address=0x200000",
      "CMD_ATC_INV SSV=1 SSID=3 SID=9 AtcSize=9 Address=0x200000",
      "CMD_TLBI_S2_IPA VMID=7 NUM=0x1f SCALE=4 Leaf=1 TTL=2 TG=1 Address=0x200000",
      "CMD_TLBI_NH_ALL VMID=7",
      "CMD_ATC_INV SID=9 AtcSize=0x34",
    ]);
    smmus.full.length = 0;
    invalidator.invalidateAll();
    expect(smmus.full).toEqual([
      "CMD_TLBI_NH_ASID ASID=5", "CMD_ATC_INV SSV=1 SSID=3 SID=9 AtcSize=0x34", "CMD_TLBI_S12_VMALL VMID=7", "CMD_ATC_INV SID=9 AtcSize=0x34",
    ]);
  });

  test("a process's tables: with the erratum one command, everywhere", () => {
    const tags = [S1, { ...S1, smmu: 1, fullCont: true }];
    const count = (sva: boolean, among: InvTag[]): number => {
      const { smmus, invalidator } = on(among, { sva });
      invalidator.invalidate(0, 33 * 4 * K, 4 * K, false);
      return smmus.full.length;
    };
    expect([count(true, tags), count(false, tags), count(true, [S1])]).toEqual([2, 4, 2]);
  });

  test("rows without users are left out, and the batch still ends", () => {
    const invs = makeInvs([S1, { ...S1, id: 6 }, ATS, { ...ATS, id: 10 }])!;
    unrefInvs(invs, makeInvs([S1, ATS])!, () => {});
    const { smmus, invalidator } = on([], { invs });
    invalidator.invalidate(0, 4 * K, 4 * K, true);
    expect(smmus.full).toEqual([
      "CMD_TLBI_NH_VA ASID=6 Leaf=1 TTL=3 TG=1", "CMD_ATC_INV SID=0xa",
    ]);
    expect(smmus.lists).toEqual(["0: NH_VA", "0: ATC_INV"]);
  });

  test("an array that is cut while a row is being worked on", () => {
    const invs = makeInvs([S1, { ...S1, smmu: 1 }, { ...S1, smmu: 2 }])!;
    const { smmus, invalidator } = on([], { invs });
    const batchOf = smmus.batchOf.bind(smmus);
    let pending = true;
    smmus.batchOf = (smmu) => {
      if (smmu === 1 && pending) unrefInvs(invs, makeInvs([{ ...S1, smmu: 1 }, { ...S1, smmu: 2 }])!, () => {});
      if (smmu === 1) pending = false;
      return batchOf(smmu);
    };
    expect(invalidator.invalidate(0, 4 * K, 4 * K, true)).toBe(0);
    expect(smmus.lists).toEqual(["0: NH_VA", "1: NH_VA"]);
    expect(smmus.batchOf(1).count).toBe(0);
  });

  test("while ATS is on its way the array is not cut", () => {
    const invs = makeInvs([S1, ATS])!;
    const { smmus, invalidator } = on([], { invs });
    const batchOf = smmus.batchOf.bind(smmus);
    let refused = 0;
    smmus.batchOf = (smmu) => {
      if (refused === 0) {
        const busy = (): never => {
          refused++;
          throw new Error("an invalidation runs");
        };
        expect(() => unrefInvs(invs, makeInvs([ATS])!, busy)).toThrow("runs");
      }
      return batchOf(smmu);
    };
    invalidator.invalidate(0, 4 * K, 4 * K, true);
    expect([refused, invs.count]).toEqual([1, 2]);
    // Given back at the end.
    unrefInvs(invs, makeInvs([S1])!, () => {
      throw new Error("nobody runs");
    });
    expect(invs.count).toBe(0);
  });

  test.each([
    ["a device that was detached after the array was looked up gets nothing", false, ["0: NH_VA", "0: ATC_INV"], ["CMD_ATC_INV SID=0xa"]],
    ["flaw: as the kernel does, it gets something", true, ["0: NH_VA", "0: ATC_INV"], ["CMD_ATC_INV SID=9"]],
  ])("%s", (_, keepsArray, lists, atc) => {
    const smmus = new Smmus();
    let published = makeInvs([S1, ATS])!;
    let looks = 0;
    const invalidator = new Invalidator({
      pageShift: 12, keepsArray, batchOf: (smmu) => smmus.batchOf(smmu), barrier: () => {}, relax: () => {},
      current() {
        const found = published;
        if (looks++ > 0) return found;
        // Before it is locked: another device comes, and the first one goes.
        published = mergeInvs(found, makeInvs([S1, { ...ATS, id: 10 }])!)!;
        unrefInvs(published, makeInvs([S1, ATS])!, () => {});
        return found;
      },
    });
    invalidator.invalidate(0, 4 * K, 4 * K, true);
    expect(smmus.lists).toEqual(lists);
    expect(smmus.full.filter((text) => text.includes("ATC"))).toEqual(atc);
    expect(published.cell[0]).toBe(0);
  });

  test("the first error is returned, the rest is done all the same", () => {
    const { smmus, invalidator } = on([S1, ATS]);
    smmus.status = -110;
    expect(invalidator.invalidate(0, 4 * K, 4 * K, true)).toBe(-110);
    expect(smmus.lists.length).toBe(2);
    smmus.status = 0;
    expect(invalidator.invalidate(0, 4 * K, 4 * K, true)).toBe(0);
  });

  test.each<[string, InvTag[], InvTag[], string[]]>([
    ["the last user of an ASID", [S1, ATS], [S1, ATS], ["0: NH_ASID"]],
    ["the last user of a VMID", [S2, CLEAR], [S2, CLEAR], ["0: S12_VMALL"]],
    ["a device, not the ASID", [S1, ATS], [ATS], []],
    ["nothing", [S1], [], []],
  ])("flushReleased: %s", (_, all, gone, lists) => {
    const { smmus, invalidator } = on([]);
    const removed = makeInvs(gone)!;
    unrefInvs(makeInvs(all)!, removed, () => {});
    expect(invalidator.flushReleased(removed)).toBe(0);
    expect(smmus.lists).toEqual(lists);
  });

  test("flushReleased: an ASID that is still used", () => {
    const { smmus, invalidator } = on([]);
    const invs = makeInvs([S1])!;
    Atomics.store(invs.words, 3 + 7, 2);
    const removed = makeInvs([S1])!;
    unrefInvs(invs, removed, () => {});
    expect([invalidator.flushReleased(removed), smmus.lists.length]).toEqual([0, 0]);
  });
});
