import { describe, expect, test } from "vitest";
import { ACCESS } from "@smmuv3/platform";
import { STE, STE_CONFIG } from "@smmuv3/smmu-v3-defs";
import type { StaleReport } from "../src/index.ts";
import { CDS, PA, Rig, S1, S2, STRTAB } from "./rig.ts";
import type { RigOptions } from "./rig.ts";

const VA = 0x4000_1000;
const IPA = 0x1_0000_0000;

function watched(options: RigOptions = {}): { rig: Rig; reports: readonly StaleReport[] } {
  const rig = new Rig({ witness: true, ...options });
  return { rig, reports: rig.smmu.staleReports };
}

/** Stream 1, VMID 1, ASID 5, with one page that has been used. */
function warm(options: RigOptions = {}): { rig: Rig; reports: readonly StaleReport[]; root: number; leaf: number } {
  const { rig, reports } = watched(options);
  const root = rig.stage1(1, { ASID: 5 }, { S2VMID: 1 });
  rig.map(root, VA, PA, S1.rw);
  rig.access(1, VA);
  return { rig, reports, root, leaf: rig.leaf(root, VA) };
}

interface Mistake {
  readonly name: string;
  readonly run: () => readonly StaleReport[];
  readonly kind: StaleReport["kind"];
  readonly missing: string;
}

const MISTAKES: readonly Mistake[] = [
  {
    name: "4.4.2: no TLBI after unmap",
    run() {
      const { rig, reports, leaf } = warm();
      rig.memory.store64(leaf, 0, 0);
      rig.access(1, VA);
      return reports;
    },
    kind: "tlb",
    missing: "CMD_TLBI_NH_VA VMID=0x1 ASID=0x5 Address=0x40001000 Leaf=1",
  },
  {
    name: "4.4.2: TLBI of another VMID",
    run() {
      const { rig, reports, leaf } = warm();
      rig.memory.store64(leaf, 0, 0);
      rig.command("TLBI_NH_VA", { VMID: 2, ASID: 5, Address: VA });
      rig.access(1, VA);
      return reports;
    },
    kind: "tlb",
    missing: "CMD_TLBI_NH_VA VMID=0x1 ASID=0x5 Address=0x40001000 Leaf=1",
  },
  {
    name: "4.4.2: TLBI of another ASID",
    run() {
      const { rig, reports, leaf } = warm();
      rig.memory.store64(leaf, 0, 0);
      rig.command("TLBI_NH_ASID", { VMID: 1, ASID: 6 });
      rig.access(1, VA);
      return reports;
    },
    kind: "tlb",
    missing: "CMD_TLBI_NH_VA VMID=0x1 ASID=0x5 Address=0x40001000 Leaf=1",
  },
  {
    name: "4.4.2: TLBI of the page before",
    run() {
      const { rig, reports, leaf } = warm();
      rig.memory.store64(leaf, 0, 0);
      rig.command("TLBI_NH_VA", { VMID: 1, ASID: 5, Address: VA - 0x1000 });
      rig.access(1, VA);
      return reports;
    },
    kind: "tlb",
    missing: "CMD_TLBI_NH_VA VMID=0x1 ASID=0x5 Address=0x40001000 Leaf=1",
  },
  {
    name: "4.4.1: TTL of another level",
    run() {
      const { rig, reports, leaf } = warm();
      rig.memory.store64(leaf, 0, 0);
      rig.command("TLBI_NH_VA", { VMID: 1, ASID: 5, Address: VA, TG: 1, TTL: 2 });
      rig.access(1, VA);
      return reports;
    },
    kind: "tlb",
    missing: "CMD_TLBI_NH_VA VMID=0x1 ASID=0x5 Address=0x40001000 Leaf=1",
  },
  {
    name: "4.7.3: no SYNC, the TLBI still waits",
    run() {
      const { rig, reports, leaf } = warm({ progress: "manual" });
      rig.memory.store64(leaf, 0, 0);
      rig.command("TLBI_NH_VA", { VMID: 1, ASID: 5, Address: VA, Leaf: 1 });
      rig.access(1, VA);
      return reports;
    },
    kind: "tlb",
    missing: "CMD_SYNC",
  },
  {
    name: "3.21.1: a block in place of a table",
    run() {
      const { rig, reports, root } = warm();
      const level1 = (rig.memory.load32(root) & ~0xfff) >>> 0;
      rig.memory.store64(level1 + 8, 0x4000_0000 | S1.rw | 1, 8);
      rig.access(1, VA);
      return reports;
    },
    kind: "walk",
    missing: "CMD_TLBI_NH_VA VMID=0x1 ASID=0x5 Address=0x40001000",
  },
  {
    name: "4.4.2: an ASID used again for other tables",
    run() {
      const { rig, reports } = warm();
      const other = rig.alloc(0x1000);
      rig.map(other, VA, PA + 0x10_0000, S1.rw);
      rig.cd(CDS + 64, { TTB0: other, ASID: 5 });
      rig.command("CFGI_CD", { SID: 1, Leaf: 1 });
      rig.access(1, VA);
      return reports;
    },
    kind: "tlb",
    missing: "CMD_TLBI_NH_ASID VMID=0x1 ASID=0x5",
  },
  {
    name: "4.3.1: no CFGI after a change of the STE",
    run() {
      const { rig, reports } = warm();
      rig.ste(1, { Config: STE_CONFIG.bypass });
      rig.access(1, VA);
      return reports;
    },
    kind: "ste",
    missing: "CMD_CFGI_STE SID=0x1 Leaf=1",
  },
  {
    name: "4.3.1: V = 1 before the rest",
    run() {
      const { rig, reports } = watched();
      rig.ste(1, {});
      rig.access(1, VA);
      rig.map(rig.stage1(1), VA, PA, S1.rw);
      rig.access(1, VA);
      return reports;
    },
    kind: "ste",
    missing: "CMD_CFGI_STE SID=0x1 Leaf=1",
  },
  {
    name: "4.3.1: no CFGI after V 0 -> 1",
    run() {
      const { rig, reports } = watched();
      rig.access(1, VA);
      rig.ste(1, { Config: STE_CONFIG.bypass });
      rig.access(1, VA);
      return reports;
    },
    kind: "ste",
    missing: "CMD_CFGI_STE SID=0x1 Leaf=1",
  },
  {
    name: "4.3.1: CFGI of another stream",
    run() {
      const { rig, reports } = warm();
      rig.ste(1, { Config: STE_CONFIG.bypass });
      rig.command("CFGI_STE", { SID: 2, Leaf: 1 });
      rig.access(1, VA);
      return reports;
    },
    kind: "ste",
    missing: "CMD_CFGI_STE SID=0x1 Leaf=1",
  },
  {
    name: "4.3.3: no CFGI after a change of the CD",
    run() {
      const { rig, reports, root } = warm();
      rig.cd(CDS + 64, { TTB0: root, ASID: 6 });
      rig.access(1, VA);
      return reports;
    },
    kind: "cd",
    missing: "CMD_CFGI_CD SID=0x1 SSID=0x0 Leaf=1",
  },
  {
    name: "4.4.3: no TLBI after unmap, stage 2",
    run() {
      const { rig, reports } = watched();
      const root = rig.stage2(2, 3);
      rig.map(root, IPA, PA, S2.rw);
      rig.access(2, IPA);
      rig.memory.store64(rig.leaf(root, IPA), 0, 0);
      rig.access(2, IPA);
      return reports;
    },
    kind: "tlb",
    missing: "CMD_TLBI_S2_IPA VMID=0x3 Address=0x100000000 Leaf=1",
  },
  {
    name: "4.4.3: stage 1 is forgotten after a TLBI by IPA",
    run() {
      const { rig, reports } = watched();
      const { root1, root2 } = rig.nested(7, 1, { ASID: 7 });
      rig.map(root1, VA, IPA, S1.rw);
      rig.map(root2, IPA, PA, S2.rw);
      rig.access(7, VA);
      rig.memory.store64(rig.leaf(root2, IPA), 0, 0);
      rig.command("TLBI_S2_IPA", { VMID: 1, Address: IPA });
      rig.access(7, VA);
      return reports;
    },
    kind: "tlb",
    missing: "CMD_TLBI_S2_IPA VMID=0x1 Address=0x100000000 Leaf=1, CMD_TLBI_NH_ALL VMID=0x1",
  },
  {
    name: "4.4.2: Leaf = 1 although a table is gone",
    run() {
      const { rig, reports, root, leaf } = warm();
      const level1 = (rig.memory.load32(root) & ~0xfff) >>> 0;
      rig.memory.store64(leaf, 0, 0);
      rig.memory.store64(level1 + 8, 0, 0);
      rig.command("TLBI_NH_VA", { VMID: 1, ASID: 5, Address: VA, Leaf: 1 });
      rig.access(1, VA);
      return reports;
    },
    kind: "walk",
    missing: "CMD_TLBI_NH_VA VMID=0x1 ASID=0x5 Address=0x40001000",
  },
  {
    name: "4.4.3: Leaf = 1 although a table of stage 2 is gone",
    run() {
      const { rig, reports } = watched();
      const root = rig.stage2(2, 3);
      rig.map(root, IPA, PA, S2.rw);
      rig.access(2, IPA);
      rig.memory.store64(root, 0, 0);
      rig.command("TLBI_S2_IPA", { VMID: 3, Address: IPA, Leaf: 1 });
      rig.access(2, IPA);
      return reports;
    },
    kind: "walk",
    missing: "CMD_TLBI_S2_IPA VMID=0x3 Address=0x100000000",
  },
  {
    name: "4.4.2: a global page",
    run() {
      const { rig, reports } = watched();
      const root = rig.stage1(3, { ASID: 3 }, { S2VMID: 1 });
      rig.map(root, VA, PA, S1.global);
      rig.access(3, VA);
      rig.memory.store64(rig.leaf(root, VA), 0, 0);
      rig.command("TLBI_NH_ASID", { VMID: 1, ASID: 3 });
      rig.access(3, VA);
      return reports;
    },
    kind: "tlb",
    missing: "CMD_TLBI_NH_VA VMID=0x1 ASID=0x0 Address=0x40001000 Leaf=1",
  },
  {
    name: "4.4.2: a page of EL2",
    run() {
      const { rig, reports } = watched({ cr2: 3 });
      const root = rig.stage1(4, { ASID: 6 }, { STRW: 2 });
      rig.map(root, VA, PA, S1.rw);
      rig.access(4, VA);
      rig.memory.store64(rig.leaf(root, VA), 0, 0);
      rig.access(4, VA);
      return reports;
    },
    kind: "tlb",
    missing: "CMD_TLBI_EL2_VA ASID=0x6 Address=0x40001000 Leaf=1",
  },
  {
    name: "4.3.3: a CD of a substream",
    run() {
      const { rig, reports } = watched();
      const root = rig.stage1(2, {}, { S1CDMax: 1, S1DSS: 2 });
      rig.map(root, VA, PA, S1.rw);
      rig.cd(CDS + 192, { TTB0: root, ASID: 9 });
      rig.access(2, VA, ACCESS.ssidValid, 1);
      rig.cd(CDS + 192, { V: 0 });
      rig.access(2, VA, ACCESS.ssidValid, 1);
      return reports;
    },
    kind: "cd",
    missing: "CMD_CFGI_CD SID=0x2 SSID=0x1 Leaf=1",
  },
];

describe("mistakes of a driver", () => {
  test.each(MISTAKES)("$name", ({ run, kind, missing }) => {
    const reports = run();
    expect(reports.map((report) => [report.kind, report.missing])).toEqual([[kind, missing]]);
  });
});

describe("no mistake, no report", () => {
  test("a change, its invalidation, SYNC", () => {
    const { rig, reports, leaf } = warm();
    rig.memory.store64(leaf, 0, 0);
    rig.command("TLBI_NH_VA", { VMID: 1, ASID: 5, Address: VA, Leaf: 1 });
    rig.command("SYNC");
    rig.access(1, VA);
    rig.memory.store64(leaf, (PA | 0) | S1.rw | 3, 9);
    rig.access(1, VA);
    rig.ste(1, { Config: STE_CONFIG.bypass });
    rig.command("CFGI_STE", { SID: 1, Leaf: 1 });
    rig.access(1, VA);
    expect(reports).toEqual([]);
  });

  test("bits that hardware sets, and that belong to software", () => {
    const { rig, reports, leaf } = warm();
    const word = rig.memory.index(leaf, true);
    rig.memory.words[word + 1]! |= 0x0780_0000;
    rig.memory.words[word]! &= ~0x400;
    rig.access(1, VA);
    expect(reports).toEqual([]);
  });

  test("words of an STE that its Config does not use", () => {
    const { rig, reports } = watched();
    rig.ste(1, { Config: STE_CONFIG.bypass });
    rig.access(1, VA);
    rig.fields(STE, STRTAB + 64, { S2TTB: 0x1000 });
    rig.access(1, VA);
    expect(reports).toEqual([]);
  });

  test.each([["bypass", 1], ["terminate", 0]])("CD 0, where S1DSS has traffic without a substream %s", (_name, S1DSS) => {
    const { rig, reports } = watched();
    rig.stage1(2, {}, { S1CDMax: 1, S1DSS: 2 });
    rig.access(2, VA);
    rig.ste(2, { Config: STE_CONFIG.s1, S1ContextPtr: CDS + 128, S1CDMax: 1, S1DSS });
    rig.command("CFGI_STE", { SID: 2, Leaf: 1 });
    rig.access(2, VA);
    rig.cd(CDS + 128, { V: 0 });
    rig.access(2, VA);
    expect(reports).toEqual([]);
  });

  test("an SMMU that keeps nothing, of a CD that an illegal STE leads to", () => {
    const { rig, reports } = warm({ profile: "eager" });
    rig.cd(CDS + 64, { V: 0 });
    rig.fields(STE, STRTAB + 64, { S1Fmt: 3, S1CDMax: 31 });
    rig.access(1, VA);
    expect(reports).toEqual([]);
  });

  test("an SMMU that keeps nothing", () => {
    const { rig, reports, leaf } = warm({ profile: "eager" });
    rig.memory.store64(leaf, 0, 0);
    rig.access(1, VA);
    rig.ste(1, { Config: STE_CONFIG.bypass });
    rig.access(1, VA);
    expect(reports).toEqual([]);
  });
});

test("a report has everything, once", () => {
  const { rig, reports, leaf } = warm();
  const before = [rig.memory.load32(leaf) >>> 0, rig.memory.load32(leaf + 4) >>> 0];
  rig.memory.store64(leaf, 0, 0);
  for (let i = 0; i < 3; i++) rig.access(1, VA + 4, ACCESS.write);
  expect(reports).toEqual([
    {
      kind: "tlb", sid: 1, ssid: -1, address: "0x40001004", entry: "TLB VMID=0x1 ASID=0x5 VA=0x40001000",
      source: leaf, cached: before, memory: [0, 0],
      missing: "CMD_TLBI_NH_VA VMID=0x1 ASID=0x5 Address=0x40001000 Leaf=1", section: "4.4.2",
    },
  ]);
});

test("a function is called instead", () => {
  const seen: string[] = [];
  const rig = new Rig({ witness: ({ kind }) => seen.push(kind) });
  rig.ste(1, { Config: STE_CONFIG.bypass });
  rig.access(1, VA);
  rig.ste(1, {});
  rig.access(1, VA);
  expect([seen, rig.smmu.staleReports]).toEqual([["ste"], []]);
});
