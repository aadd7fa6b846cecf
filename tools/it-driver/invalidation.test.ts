import { TRANSLATION } from "@smmuv3/platform";
import type { CommandSink } from "@smmuv3/arm-smmu-v3-common";
import { IotlbGather } from "@smmuv3/iommu-core";
import { PRESETS } from "@smmuv3/smmu-v3-model";
import { expect } from "vitest";
import { BUFFER, RW } from "./fixture.ts";
import { row } from "./rows.ts";

const PAGE = 0x1000;
const BLOCK = 2 << 20;
const IOVA = 0x5000_0000;
const { ok, abort } = TRANSLATION;

row("I4 a gather with a hole, or of another page size, is synced in between", (make) => {
  const rig = make();
  const client = rig.clients[0]!;
  const domain = rig.domain();
  rig.attach(client, domain);
  rig.iommu.map(domain, IOVA, BUFFER, 16 * PAGE, RW);
  rig.iommu.map(domain, IOVA + BLOCK, BUFFER, BLOCK, RW);
  const gather = new IotlbGather();
  const unmap = (iova: number, size: number): string[] => rig.golden(() => rig.iommu.unmapFast(domain, iova, size, gather));
  expect(unmap(IOVA, 2 * PAGE)).toEqual([]);
  expect(unmap(IOVA + 2 * PAGE, PAGE)).toEqual([]);
  expect(unmap(IOVA + 8 * PAGE, PAGE)).toEqual(["C(TLBI_NH_VA)"]);
  expect(unmap(IOVA + BLOCK, BLOCK)).toEqual(["C(TLBI_NH_VA)"]);
  expect(rig.golden(() => { gather.sync(domain); })).toEqual(["C(TLBI_NH_VA)"]);
  for (const page of [0, 1, 2, 8]) expect(rig.dma(client, IOVA + page * PAGE, 1)).toBe(abort);
  for (const page of [3, 7, 9]) expect(rig.dma(client, IOVA + page * PAGE, 1)).toBe(ok);
  expect(rig.dma(client, IOVA + BLOCK, 1)).toBe(abort);
});

row("I6 unmaps in the middle of attaching and detaching: no device keeps what was unmapped", (make) => {
  const hooks: (() => void)[] = [];
  const ats = { "ats-capable": true, "ats-supported": true, "pci-pasid-bits": 6 };
  for (const properties of [undefined, ats]) {
    const rig = make({
      id: PRESETS.mmu700,
      // The witness takes CD 0 for used where S1DSS sends transactions without PASID elsewhere; here memory is looked at instead.
      model: { witness: false },
      clients: [8, 9, 10].map((sid) =>
        properties === undefined ? { sids: [sid], properties: { "pasid-num-bits": 6 } } : { sids: [sid], pci: `0000:0${sid % 8}:00.0`, properties },
      ),
      driver: {
        impl: {
          name: "watched",
          // Where one CPU waits for a SYNC, another one runs.
          getSecondaryCmdq: (_smmu, _opcode, main): CommandSink => ({
            issue(words, count, sync) {
              const status = main.issue(words, count, sync);
              const hook = hooks.pop();
              hook?.();
              if (hook !== undefined) hooks.push(hook);
              return status;
            },
          }),
        },
      },
    });
    const domain = rig.domain();
    const pages = 64;
    rig.iommu.map(domain, IOVA, BUFFER, pages * PAGE, RW);
    let state = 12345;
    const random = (below: number): number => {
      state = (Math.imul(state, 1103515245) + 12345) & 0x7fff_ffff;
      return (state >>> 8) % below;
    };
    const warm = (): void => {
      for (const client of rig.clients) {
        for (const pasid of [-1, 3]) for (let page = 0; page < pages; page += 5) rig.dma(client, IOVA + page * PAGE, 1, pasid);
      }
    };
    let checks = 0;
    const interfere = (): void => {
      const page = random(pages);
      const iova = IOVA + page * PAGE;
      for (const client of rig.clients) for (const pasid of [-1, 3]) rig.dma(client, iova, 1, pasid);
      rig.iommu.unmap(domain, iova, PAGE);
      rig.machine.memory.store32(BUFFER + page * PAGE, 0);
      for (const client of rig.clients) for (const pasid of [-1, 3]) rig.dma(client, iova, 0xbad, pasid);
      expect(rig.machine.memory.load32(BUFFER + page * PAGE)).toBe(0);
      rig.iommu.map(domain, iova, BUFFER + page * PAGE, PAGE, RW);
      checks++;
    };
    for (let turn = 0; turn < 24; turn++) {
      const client = rig.clients[random(3)]!;
      warm();
      hooks.push(interfere);
      const kind = random(4);
      if (kind === 0) rig.attach(client, domain);
      else if (kind === 1) rig.attach(client, random(2) === 0 ? "blocked" : "identity");
      else if (kind === 2) rig.iommu.attachPasid(client.dev, 3, domain);
      else rig.iommu.detachPasid(client.dev, 3);
      hooks.length = 0;
    }
    expect(checks).toBeGreaterThan(40);
  }
});
