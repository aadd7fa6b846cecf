import { ERRNO, TRANSLATION } from "@smmuv3/platform";
import type { CommandSink } from "@smmuv3/arm-smmu-v3-common";
import type { PagingDomain } from "@smmuv3/arm-smmu-v3";
import { DOMAIN_FLAG } from "@smmuv3/iommu-core";
import type { IommuDomain } from "@smmuv3/iommu-core";
import { PRESETS } from "@smmuv3/smmu-v3-model";
import { describe, expect, test } from "vitest";
import { BUFFER, Rig, RW } from "./fixture.ts";

const PAGE = 0x1000;
const IOVA = 0x5000_0000;
const PASID = 0x403;
const CLIENT = {
  sids: [8], pci: "0000:01:00.0",
  properties: { "ats-capable": true, "ats-supported": true, "pci-pasid-bits": 12 },
};

/** What goes wrong: after how many good ones. */
interface Faults {
  pages: number;
  arrays: number;
  commands: number;
}

const NEVER = 1e9;

/** A rig in which pages, invalidation arrays and lists of commands fail on request. */
function faultyRig(): { rig: Rig; faults: Faults; used: Faults } {
  const faults: Faults = { pages: NEVER, arrays: NEVER, commands: NEVER };
  const used: Faults = { pages: 0, arrays: 0, commands: 0 };
  const fails = (what: keyof Faults): boolean => {
    used[what]++;
    return faults[what]-- <= 0;
  };
  const rig = new Rig({
    id: PRESETS.mmu700,
    clients: [CLIENT],
    model: { profile: "lazy" },
    driver: {
      allocInvs: (words) => (fails("arrays") ? undefined : new Int32Array(words)),
      impl: {
        name: "faulty",
        // Every list that waits for its SYNC may be one that is not completed.
        getSecondaryCmdq: (_smmu, _opcode, main): CommandSink => ({
          issue: (words, count, sync) =>
            sync && fails("commands") ? (main.issue(words, count, true), -ERRNO.ETIMEDOUT) : main.issue(words, count, sync),
        }),
      },
    },
  });
  const { pages } = rig.kernel;
  const alloc = pages.alloc.bind(pages);
  pages.alloc = (bytes, align, limit) => (fails("pages") ? -ERRNO.ENOMEM : alloc(bytes, align, limit));
  return { rig, faults, used };
}

/** Everything that the SMMU reads of the device, and what the kernel believes. */
function state(rig: Rig): unknown {
  const master = rig.device.masters.get(8)!;
  const { cdTable } = master;
  const cds = [0, 1, PASID].map((ssid) => {
    if (cdTable === undefined) return "none";
    const at = cdTable.address(ssid);
    return at < 0 ? "none" : [...rig.cd(rig.clients[0]!, ssid)];
  });
  // A table that was allocated and is not in use is not the hardware's.
  const used = cds.map((cd) => (Array.isArray(cd) && cd.some((word) => word !== 0) ? cd : "none"));
  return {
    ste: [...rig.ste(8)], used, ats: [master.atsEnabled, rig.atcs.has(8), CLIENT.pci], rid: master.rid,
    iopf: master.iopfRefs, attached: [...master.attached.keys()],
  };
}

type Step = (rig: Rig, domains: Readonly<Record<string, IommuDomain>>) => number;

const rid = (to: string): Step => (rig, domains) => rig.attach(rig.clients[0]!, domains[to] ?? (to as "identity"));
const pasid = (to: string): Step => (rig, domains) => rig.iommu.attachPasid(rig.clients[0]!.dev, PASID, domains[to]!);

const CASES: readonly (readonly [name: string, before: readonly Step[], step: Step])[] = [
  ["identity -> S1", [rid("identity")], rid("one")],
  ["blocked -> S1", [rid("blocked")], rid("one")],
  ["blocked -> S2", [rid("blocked")], rid("s2")],
  ["identity -> S2", [rid("identity")], rid("s2")],
  ["S1 -> other S1", [rid("one")], rid("two")],
  ["S1 -> S2", [rid("one")], rid("s2")],
  ["S2 -> S1", [rid("s2")], rid("one")],
  ["S2 -> other S2", [rid("s2")], rid("other s2")],
  ["PASID over identity", [rid("identity")], pasid("one")],
  ["PASID over blocked", [rid("blocked")], pasid("one")],
  ["PASID over S1", [rid("one")], pasid("two")],
  ["PASID replaced", [rid("one"), pasid("one")],
    (rig, { two }) => rig.iommu.replacePasid(rig.clients[0]!.dev, PASID, two!)],
  ["RID under a PASID", [rid("identity"), pasid("one")], rid("two")],
];

/** The state before the step, with the step not taken. */
function prepared(before: readonly Step[]): ReturnType<typeof faultyRig> & { domains: Record<string, PagingDomain> } {
  const made = faultyRig();
  const { rig } = made;
  const client = rig.clients[0]!;
  const s2 = (): PagingDomain => rig.paging(client, DOMAIN_FLAG.nestParent);
  const domains = { one: rig.paging(), two: rig.paging(), s2: s2(), "other s2": s2() };
  for (const domain of Object.values(domains)) rig.iommu.map(domain, IOVA, BUFFER, PAGE, RW);
  for (const step of before) expect(step(rig, domains)).toBe(0);
  return { ...made, domains };
}

describe.each(CASES)("%s", (_, before, step) => {
  test.each(["pages", "arrays"] as const)("every failing allocation leaves everything as it was: %s", (what) => {
    const counting = prepared(before);
    counting.used[what] = 0;
    expect(step(counting.rig, counting.domains)).toBe(0);
    const needed = counting.used[what];
    let failed = 0;
    for (let nth = 0; nth < needed; nth++) {
      const { rig, faults, domains } = prepared(before);
      const old = state(rig);
      const invs = Object.values(domains).map((domain) => domain.invs.count);
      faults[what] = nth;
      let status = 0;
      const commands = rig.golden(() => {
        status = step(rig, domains);
      });
      if (status === 0) continue;
      failed++;
      expect([status, commands, state(rig)]).toEqual([-ERRNO.ENOMEM, [], old]);
      expect(Object.values(domains).map((domain) => domain.invs.count)).toEqual(invs);
      faults[what] = NEVER;
      expect(step(rig, domains)).toBe(0);
    }
    // What is purged after the commit does without memory; the arrays of the commit itself do not.
    if (what === "arrays") expect(failed).toBeGreaterThan(0);
  });

  test("every failing command before the commit store leaves everything as it was; after it, nothing fails", () => {
    const counting = prepared(before);
    counting.used.commands = 0;
    expect(step(counting.rig, counting.domains)).toBe(0);
    const after = state(counting.rig);
    const needed = counting.used.commands;
    expect(needed).toBeGreaterThan(1);
    const outcomes: number[] = [];
    for (let nth = 0; nth < needed; nth++) {
      const { rig, faults, domains } = prepared(before);
      const old = state(rig);
      faults.commands = nth;
      const armed = step(rig, domains);
      outcomes.push(armed);
      faults.commands = NEVER;
      if (armed === 0) {
        expect(state(rig)).toEqual(after);
        continue;
      }
      expect([armed, state(rig)]).toEqual([-ERRNO.ETIMEDOUT, old]);
      // Nothing of it is left behind: it works afterwards, and DMA goes where it should.
      expect(step(rig, domains)).toBe(0);
      expect(state(rig)).toEqual(after);
    }
    // Once the store that counts is made, no failure is reported any more.
    expect(outcomes).toEqual([...outcomes].sort((a, b) => a - b));
    expect(outcomes[0]).toBe(-ERRNO.ETIMEDOUT);
    expect(outcomes.at(-1)).toBe(0);
  });
});

test("the ASID of an attach that failed is clean", () => {
  const { rig, faults, domains } = prepared([rid("blocked")]);
  const client = rig.clients[0]!;
  faults.commands = 1;
  expect(rig.attach(client, domains["one"]!)).toBe(-ERRNO.ETIMEDOUT);
  faults.commands = NEVER;
  expect(rig.iommu.freeDomain(domains["one"]!)).toBe(0);
  const next = rig.domain();
  rig.iommu.map(next, IOVA, BUFFER + PAGE, PAGE, RW);
  rig.attach(client, next);
  expect(rig.dma(client, IOVA, 0x5a)).toBe(TRANSLATION.ok);
  expect(rig.machine.memory.load32(BUFFER + PAGE)).toBe(0x5a);
});
