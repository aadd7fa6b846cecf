import { TRANSLATION } from "@smmuv3/platform";
import type { CommandSink } from "@smmuv3/arm-smmu-v3-common";
import type { ImplOps } from "@smmuv3/arm-smmu-v3";
import { COMMAND_NAMES } from "@smmuv3/smmu-v3-defs";
import { PRESETS } from "@smmuv3/smmu-v3-model";
import type { ProfileName } from "@smmuv3/smmu-v3-model";
import { describe, expect, test } from "vitest";
import { BUFFER, Rig, RW } from "./fixture.ts";
import type { RigOptions } from "./fixture.ts";

const IOVA = 0x5000_0000;
const HARDWARE = { "stage 1": PRESETS.qemuStage1, "stage 2": PRESETS.qemuStage2, "both stages": PRESETS.reference } as const;
const GRID = Object.entries(HARDWARE).flatMap(([name, id]) => (["lazy", "finite"] as const).map((profile) => ({ name, id, profile })));

function watched(id: RigOptions["id"], profile: ProfileName, options: RigOptions = {}): Rig {
  return new Rig({ ...options, ...(id === undefined ? {} : { id }), model: { profile, witness: true } });
}

/** A working day of the driver: maps, transfers, unmaps, remaps with blocks, moves between domains, frees them. */
function workload(rig: Rig): void {
  const client = rig.clients[0]!;
  for (let round = 0; round < 3; round++) {
    const domain = rig.domain();
    const [page, block] = [domain.pageSizes[0]!, domain.pageSizes[1]!];
    rig.attach(client, domain);
    for (let i = 0; i < 32; i++) rig.iommu.map(domain, IOVA + i * page, BUFFER + i * page, page, RW);
    for (let i = 0; i < 32; i++) rig.write(client.sid, IOVA + i * page, i);
    for (let i = 0; i < 32; i += 4) rig.iommu.unmap(domain, IOVA + i * page, 2 * page);
    for (let i = 0; i < 32; i++) rig.write(client.sid, IOVA + i * page, i);
    for (let i = 0; i < 32; i += 4) rig.iommu.map(domain, IOVA + i * page, BUFFER + (40 + i) * page, 2 * page, RW);
    for (let i = 0; i < 32; i++) rig.write(client.sid, IOVA + i * page, i);
    // Tables come and go: a block in place of pages, and pages in place of a block.
    for (let turn = 0; turn < 2; turn++) {
      rig.iommu.map(domain, 2 * block, BUFFER, block, RW);
      rig.write(client.sid, 2 * block + page, 1);
      rig.iommu.unmap(domain, 2 * block, block);
      rig.write(client.sid, 2 * block + page, 1);
      rig.iommu.map(domain, 2 * block, BUFFER + page, page, RW);
      rig.write(client.sid, 2 * block, 1);
      rig.iommu.unmap(domain, 2 * block, page);
      rig.write(client.sid, 2 * block, 1);
    }
    for (const state of ["identity", domain, "blocked", domain, "identity", "blocked"] as const) {
      rig.attach(client, state);
      rig.write(client.sid, BUFFER, 1);
      rig.write(client.sid, IOVA + 2 * page, 1);
    }
    rig.iommu.freeDomain(domain);
  }
}

describe("the witness of stale entries", () => {
  test.each(GRID)("sees nothing in a normal run: $name, $profile", ({ id, profile }) => {
    const rig = watched(id, profile);
    workload(rig);
    expect(rig.smmu.staleReports).toEqual([]);
    expect(rig.smmu.counters.read("tlb.hits").total).toBeGreaterThan(profile === "lazy" ? 10 : 0);
  });

  test("sees what a queue that loses TLBIs leaves behind", () => {
    const loseTlbi: ImplOps = {
      name: "broken",
      getSecondaryCmdq(_smmu, opcode, main): CommandSink | undefined {
        if (COMMAND_NAMES.get(opcode)?.startsWith("TLBI") !== true) return undefined;
        return { issue: (words, _count, sync) => main.issue(words, 0, sync) };
      },
    };
    const rig = watched(PRESETS.qemuStage1, "lazy", { driver: { impl: loseTlbi } });
    const client = rig.clients[0]!;
    const domain = rig.domain();
    rig.attach(client, domain);
    rig.iommu.map(domain, IOVA, BUFFER, 0x1000, RW);
    expect(rig.write(client.sid, IOVA, 1)).toBe(TRANSLATION.ok);
    rig.iommu.unmap(domain, IOVA, 0x1000);
    expect(rig.write(client.sid, IOVA, 2)).toBe(TRANSLATION.ok);
    const [report] = rig.smmu.staleReports;
    expect(report).toMatchObject({ kind: "tlb", sid: client.sid, address: "0x50000000" });
    expect(report!.missing).toMatch(/^CMD_TLBI_NH_VA .*Address=0x50000000 Leaf=1$/u);
  });
});
