import { REG } from "@smmuv3/smmu-v3-defs";
import { PRESETS } from "@smmuv3/smmu-v3-model";
import type { IdRegisters } from "@smmuv3/smmu-v3-model";
import { describe, expect, test } from "vitest";
import { BUFFER, Rig, RW, withField } from "./fixture.ts";

const PLAIN = PRESETS.qemuStage1;
const OVERRIDES = withField(PLAIN, REG.IDR1.ATTR_TYPES_OVR, 1);
const STE = "C(CFGI_STE)";
const CD = "C(CFGI_CD)";
const ASID = "C(TLBI_NH_ASID)";
const PREFETCH = "PREFETCH_CONFIG";
const times = (n: number, text: string): string[] => new Array<string>(n).fill(text);

/** Starts in `from`, records the move to `to`. */
type State = "identity" | "blocked" | "s1" | "other s1";

function move(id: IdRegisters, from: State, to: State): string[] {
  const rig = new Rig({ id });
  const client = rig.clients[0]!;
  const target = (state: State): ReturnType<Rig["domain"]> | "identity" | "blocked" =>
    state === "s1" || state === "other s1" ? rig.domain() : state;
  rig.attach(client, target(from));
  const domain = target(to);
  return rig.golden(() => {
    expect(rig.attach(client, domain)).toBe(0);
  });
}

describe("S7 and 4.11: command traces, with and without ATTR_TYPES_OVR", () => {
  test.each<[State, State, string[], string[]]>([
    // from, to, with ATTR_TYPES_OVR, without
    ["blocked", "s1", [CD, CD, STE, STE, PREFETCH], [CD, CD, STE, STE, PREFETCH]],
    ["s1", "other s1", [CD, CD, CD, PREFETCH, ASID], [CD, CD, CD, PREFETCH, ASID]],
    ["s1", "identity", [...times(3, STE), PREFETCH, ASID, CD, CD], [...times(2, STE), PREFETCH, ASID, CD, CD]],
    ["s1", "blocked", [STE, STE, PREFETCH, ASID, CD, CD], [STE, STE, PREFETCH, ASID, CD, CD]],
    ["identity", "blocked", [STE, STE, PREFETCH], [STE, PREFETCH]],
    ["blocked", "identity", [STE, STE, PREFETCH], [STE, PREFETCH]],
    ["identity", "s1", [CD, CD, ...times(3, STE), PREFETCH], [CD, CD, STE, STE, PREFETCH]],
  ])("%s to %s", (from, to, overrides, plain) => {
    expect(move(OVERRIDES, from, to)).toEqual(overrides);
    expect(move(PLAIN, from, to)).toEqual(plain);
  });

  test("each stream of a device has its STE written, and its CD invalidated, in one batch", () => {
    const rig = new Rig({ clients: [[3, 7]] });
    const domain = rig.domain();
    expect(rig.trace(() => rig.attach(rig.clients[0]!, domain))).toEqual([
      "CMD_CFGI_CD SID=3 Leaf=1",
      "CMD_CFGI_CD SID=7 Leaf=1",
      "CMD_SYNC CS=2",
      "CMD_CFGI_CD SID=3 Leaf=1",
      "CMD_CFGI_CD SID=7 Leaf=1",
      "CMD_SYNC CS=2",
      ...[3, 7].flatMap((sid) => [
        `CMD_CFGI_STE SID=${sid} Leaf=1`,
        "CMD_SYNC CS=2",
        `CMD_CFGI_STE SID=${sid} Leaf=1`,
        "CMD_SYNC CS=2",
        `CMD_PREFETCH_CONFIG SID=${sid}`,
      ]),
    ]);
  });

  test("I9 the ASID is flushed when the last device leaves, not before", () => {
    const rig = new Rig();
    const [a, b] = rig.clients;
    const domain = rig.domain();
    rig.attach(a!, domain);
    rig.attach(b!, domain);
    expect(rig.golden(() => rig.attach(a!, "blocked"))).not.toContain(ASID);
    expect(rig.golden(() => rig.attach(b!, "blocked")).filter((line) => line === ASID)).toHaveLength(1);
  });

  test("an SMMU with stage 2 only", () => {
    const rig = new Rig({ id: PRESETS.qemuStage2 });
    const domain = rig.domain();
    expect(rig.golden(() => rig.attach(rig.clients[0]!, domain))).toEqual([STE, STE, PREFETCH]);
    expect(rig.golden(() => rig.attach(rig.clients[0]!, "blocked"))).toEqual([STE, STE, PREFETCH, "C(TLBI_S12_VMALL)"]);
  });
});

const SYNC = "CMD_SYNC CS=2";
const M2 = 2 << 20;

describe("invalidation", () => {
  const mapped = (id: IdRegisters, size: number): { rig: Rig; unmap: (iova: number, size: number) => string[] } => {
    const rig = new Rig({ id });
    const domain = rig.domain();
    rig.attach(rig.clients[0]!, domain);
    // Not congruent, so 4K pages.
    expect(rig.iommu.map(domain, 2 * M2, BUFFER + 0x1000, size, RW)).toBe(0);
    return { rig, unmap: (iova, bytes) => rig.trace(() => rig.iommu.unmap(domain, iova, bytes)) };
  };
  const NO_RIL = withField(PLAIN, REG.IDR3.RIL, 0);

  test("a page", () => {
    expect(mapped(PLAIN, M2).unmap(2 * M2, 0x1000)).toEqual([
      "CMD_TLBI_NH_VA ASID=1 Leaf=1 TTL=3 TG=1 Address=0x400000", SYNC,
    ]);
    expect(mapped(NO_RIL, M2).unmap(2 * M2, 0x1000)).toEqual(["CMD_TLBI_NH_VA ASID=1 Leaf=1 Address=0x400000", SYNC]);
    expect(mapped(PRESETS.qemuStage2, M2).unmap(2 * M2, 0x1000)).toEqual([
      "CMD_TLBI_S2_IPA VMID=1 Leaf=1 TTL=3 TG=1 Address=0x400000", SYNC,
    ]);
  });

  test("I2 2M where a table of pages is: first the walk, then the leaf", () => {
    expect(mapped(PLAIN, M2).unmap(2 * M2, M2)).toEqual([
      "CMD_TLBI_NH_VA ASID=1 NUM=0x1f SCALE=4 TG=1 Address=0x400000", SYNC,
      "CMD_TLBI_NH_VA ASID=1 NUM=0x1f SCALE=4 Leaf=1 TTL=2 TG=1 Address=0x400000", SYNC,
    ]);
  });

  test("I3 without range invalidation: one each, up to 512, SYNC at the end", () => {
    const pages = 200;
    const commands = mapped(NO_RIL, M2).unmap(2 * M2, pages * 0x1000);
    expect(commands).toHaveLength(pages + 1);
    expect(commands.at(-1)).toBe(SYNC);
    const all = new Rig({ id: NO_RIL });
    const domain = all.domain();
    all.attach(all.clients[0]!, domain);
    expect(all.trace(() => { domain.ops.flushIotlbAll!(domain); })).toEqual(["CMD_TLBI_NH_ASID ASID=1", SYNC]);
  });

  test("a domain without devices is mapped, unmapped and freed without a command", () => {
    const rig = new Rig();
    const domain = rig.domain();
    const commands = rig.trace(() => {
      expect(rig.iommu.map(domain, 0, BUFFER, M2, RW)).toBe(0);
      expect(rig.iommu.iovaToPhys(domain, 0x12345)).toBe(BUFFER + 0x12345);
      expect(rig.iommu.unmap(domain, 0, M2)).toBe(M2);
      expect(rig.iommu.freeDomain(domain)).toBe(0);
    });
    expect(commands).toEqual([]);
  });
});
