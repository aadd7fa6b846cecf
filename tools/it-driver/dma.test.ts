import type { CommandSink } from "@smmuv3/arm-smmu-v3-common";
import type { ImplOps } from "@smmuv3/arm-smmu-v3";
import { TRANSLATION } from "@smmuv3/platform";
import { COMMAND_NAMES, REG } from "@smmuv3/smmu-v3-defs";
import { PRESETS } from "@smmuv3/smmu-v3-model";
import type { ProfileName } from "@smmuv3/smmu-v3-model";
import { describe, expect, test } from "vitest";
import { BUFFER, Rig, RW, withField } from "./fixture.ts";
import type { RigOptions } from "./fixture.ts";

const PAGE = 0x1000;
const IOVA = 0x1234_5000_0000 % 2 ** 39;
const HARDWARE = {
  "stage 1": PRESETS.qemuStage1,
  "stage 2": PRESETS.qemuStage2,
  "both stages, MSIs": PRESETS.reference,
  "stage 1 without RIL": withField(PRESETS.qemuStage1, REG.IDR3.RIL, 0),
  "stage 1, linear table": withField(PRESETS.qemuStage1, REG.IDR1.SIDSIZE, 6),
  "64K granule": withField(withField(PRESETS.qemuStage1, REG.IDR5.GRAN4K, 0), REG.IDR5.GRAN16K, 0),
} as const;
const PROFILES: readonly ProfileName[] = ["lazy", "eager", "finite"];
const GRID = Object.entries(HARDWARE).flatMap(([name, id]) => PROFILES.map((profile) => ({ name, id, profile })));

function rigOf(options: RigOptions & { profile: ProfileName }): Rig {
  return new Rig({ ...options, model: { profile: options.profile, ...options.model } });
}

describe.each(GRID)("$name, $profile", ({ id, profile }) => {
  test("DMA reaches what is mapped, while it is mapped", () => {
    const rig = rigOf({ id, profile });
    const client = rig.clients[0]!;
    const domain = rig.domain();
    const page = domain.pageSizes[0]!;
    expect(rig.attach(client, domain)).toBe(0);
    expect(rig.write(client.sid, IOVA, 1)).toBe(TRANSLATION.abort);
    for (let i = 0; i < 8; i++) {
      expect(rig.iommu.map(domain, IOVA + i * page, BUFFER + (7 - i) * page, page, RW)).toBe(0);
    }
    for (let i = 0; i < 8; i++) {
      expect(rig.write(client.sid, IOVA + i * page + 8, 0x1000 + i)).toBe(TRANSLATION.ok);
      expect(rig.machine.memory.load32(BUFFER + (7 - i) * page + 8)).toBe(0x1000 + i);
    }
    // Unmapped: gone at once; its neighbours stay.
    expect(rig.iommu.unmap(domain, IOVA + 3 * page, 2 * page)).toBe(2 * page);
    const statuses = Array.from({ length: 8 }, (_, i) => rig.write(client.sid, IOVA + i * page, 9));
    const { ok, abort } = TRANSLATION;
    expect(statuses).toEqual([ok, ok, ok, abort, abort, ok, ok, ok]);
    // Mapped elsewhere: the new place.
    expect(rig.iommu.map(domain, IOVA + 3 * page, BUFFER + 20 * page, page, RW)).toBe(0);
    expect(rig.write(client.sid, IOVA + 3 * page, 0x77)).toBe(ok);
    expect(rig.machine.memory.load32(BUFFER + 20 * page)).toBe(0x77);
    expect(rig.machine.memory.load32(BUFFER + 4 * page)).not.toBe(0x77);
  });

  test("identity passes, blocked aborts, in any order", () => {
    const rig = rigOf({ id, profile });
    const client = rig.clients[0]!;
    const domain = rig.domain();
    const page = domain.pageSizes[0]!;
    rig.iommu.map(domain, IOVA, BUFFER + page, page, RW);
    const { ok, abort } = TRANSLATION;
    const states = ["identity", domain, "blocked", domain, "identity", "blocked", "identity"] as const;
    for (const state of states) {
      rig.attach(client, state);
      const paging = typeof state !== "string";
      const expected = state === "identity" ? [ok, BUFFER, 1] : paging ? [ok, BUFFER + page, 1] : [abort, 0, 0];
      const place = paging ? IOVA : BUFFER;
      rig.machine.memory.fill(BUFFER, 2 * page, 0);
      expect(rig.write(client.sid, place, 1)).toBe(expected[0]);
      const words = [rig.machine.memory.load32(BUFFER), rig.machine.memory.load32(BUFFER + page)];
      expect(words).toEqual([expected[1] === BUFFER ? 1 : 0, expected[1] === BUFFER + page ? 1 : 0]);
    }
  });

  test("the ID of a freed domain is clean for the next one", () => {
    const rig = rigOf({ id, profile });
    const client = rig.clients[0]!;
    for (let round = 0; round < 5; round++) {
      const domain = rig.domain();
      const page = domain.pageSizes[0]!;
      rig.iommu.map(domain, IOVA, BUFFER + round * page, page, RW);
      rig.attach(client, domain);
      expect(rig.write(client.sid, IOVA, round)).toBe(TRANSLATION.ok);
      expect(rig.machine.memory.load32(BUFFER + round * page)).toBe(round);
      rig.attach(client, "blocked");
      expect(rig.iommu.freeDomain(domain)).toBe(0);
    }
  });

  test("a large unmap leaves nothing, its tables included", () => {
    const rig = rigOf({ id, profile });
    const client = rig.clients[0]!;
    const domain = rig.domain();
    const [page, block] = [domain.pageSizes[0]!, domain.pageSizes[1]!];
    rig.attach(client, domain);
    const size = Math.min(block, 16 << 20);
    expect(rig.iommu.map(domain, block, BUFFER + page, size, RW)).toBe(0);
    for (let i = 0; i < size; i += size / 16) expect(rig.write(client.sid, block + i, i)).toBe(TRANSLATION.ok);
    expect(rig.iommu.unmap(domain, block, size)).toBe(size);
    for (let i = 0; i < size; i += size / 16) expect(rig.write(client.sid, block + i, i)).toBe(TRANSLATION.abort);
  });
});

describe("the DMA API on top", () => {
  test.each(PROFILES)("maps, transfers, unmaps: %s", (profile) => {
    const rig = rigOf({ profile, iommu: { defaultDomainType: "dma" } });
    const client = rig.clients[0]!;
    expect(rig.iommu.domainOf(client.dev)!.type).toBe("paging");
    const dma = rig.iommu.dma;
    for (let i = 0; i < 50; i++) {
      const pa = BUFFER + i * 0x1800;
      const address = dma.mapPage(client.dev, pa, 0x1800, 0);
      expect(address).toBeGreaterThan(0);
      expect(rig.write(client.sid, address + 0x17fc, i)).toBe(TRANSLATION.ok);
      expect(rig.machine.memory.load32(pa + 0x17fc)).toBe(i);
      expect(dma.unmapPage(client.dev, address, 0x1800, 0)).toBe(0);
      expect(rig.write(client.sid, address, i)).toBe(TRANSLATION.abort);
    }
  });
});

/** An implementation whose queue loses TLB invalidations. */
const loseTlbi: ImplOps = {
  name: "broken",
  getSecondaryCmdq(_smmu, opcode, main): CommandSink | undefined {
    if (COMMAND_NAMES.get(opcode)?.startsWith("TLBI") !== true) return undefined;
    return { issue: (words, _count, sync) => main.issue(words, 0, sync) };
  },
};

describe("a missing invalidation", () => {
  test.each([["lazy", TRANSLATION.ok], ["eager", TRANSLATION.abort]] as const)("%s", (profile, expected) => {
    const rig = rigOf({ profile, driver: { impl: loseTlbi } });
    const client = rig.clients[0]!;
    const domain = rig.domain();
    rig.attach(client, domain);
    rig.iommu.map(domain, IOVA, BUFFER, PAGE, RW);
    expect(rig.write(client.sid, IOVA, 1)).toBe(TRANSLATION.ok);
    expect(rig.trace(() => rig.iommu.unmap(domain, IOVA, PAGE))).toEqual(["CMD_SYNC CS=2"]);
    expect(rig.write(client.sid, IOVA, 2)).toBe(expected);
  });
});
