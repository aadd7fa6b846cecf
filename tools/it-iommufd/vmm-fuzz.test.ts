// Random days of a virtual machine: what its device reaches is what its kernel has mapped, after every step.
import { TRANSLATION } from "@smmuv3/platform";
import fc from "fast-check";
import { expect, test } from "vitest";
import type { ProfileName } from "@smmuv3/smmu-v3-model";
import { GUEST_BYTES, Host, IPA, PAGE, RW } from "./fixture.ts";
import { VirtualMachine } from "./vmm.ts";

const { ok, abort } = TRANSLATION;
const BUFFER: number = IPA + GUEST_BYTES / 2;
const IOVA = 0x5_0000_0000;
const SLOTS = 12;

const step = fc.oneof(
  fc.record({ do: fc.constant("map" as const), slot: fc.nat(SLOTS - 1), page: fc.nat(63), count: fc.integer({ min: 1, max: 4 }) }),
  fc.record({ do: fc.constant("unmap" as const), slot: fc.nat(SLOTS - 1), page: fc.constant(0), count: fc.constant(0) }),
  fc.record({ do: fc.constant("attach" as const), slot: fc.nat(3), page: fc.constant(0), count: fc.constant(0) }),
);

test.each<ProfileName>(["lazy", "eager", "finite"])("%s", (profile) => {
  let hits = 0;
  fc.assert(
    fc.property(fc.array(step, { minLength: 10, maxLength: 40 }), (steps) => {
      const host = new Host({ profile });
      const machine = new VirtualMachine(host, { devices: [{ client: 0, vsid: 0x30 }] });
      const guest = machine.boot();
      const dev = guest.devices[0]!;
      const group = guest.iommu.groupOf(dev)!;
      const { identityDomain, blockedDomain } = group.instance.ops;
      const domains = [0, 1].map(() => {
        const domain = guest.iommu.allocPaging(dev);
        if (typeof domain === "number") throw new Error(`allocPaging: ${domain}`);
        return { domain, slots: new Map<number, { page: number; count: number }>() };
      });
      let at = -1;
      guest.iommu.attachGroup(group, blockedDomain);
      let value = 1;
      for (const { do: what, slot, page, count } of steps) {
        const { domain, slots } = domains[slot & 1]!;
        const iova = IOVA + slot * 8 * PAGE;
        if (what === "attach") {
          at = slot;
          const target = [domains[0]!.domain, domains[1]!.domain, identityDomain, blockedDomain][slot]!;
          expect(guest.iommu.attachGroup(group, target)).toBe(0);
        } else if (what === "map" && !slots.has(slot)) {
          expect(guest.iommu.map(domain, iova, BUFFER + page * PAGE, count * PAGE, RW)).toBe(0);
          slots.set(slot, { page, count });
        } else if (what === "unmap" && slots.has(slot)) {
          expect(guest.iommu.unmap(domain, iova, slots.get(slot)!.count * PAGE)).toBe(slots.get(slot)!.count * PAGE);
          slots.delete(slot);
        }
        for (let probe = 0; probe < SLOTS; probe++) {
          const mapping = at === 0 || at === 1 ? domains[at]!.slots.get(probe) : undefined;
          const expected = mapping === undefined ? abort : ok;
          const offset = mapping === undefined ? 0 : (mapping.count - 1) * PAGE;
          expect(host.write(8, IOVA + probe * 8 * PAGE + offset, ++value)).toBe(expected);
          if (mapping !== undefined) expect(machine.memory.load32(BUFFER + mapping.page * PAGE + offset)).toBe(value);
        }
        expect(host.write(8, BUFFER, ++value)).toBe(at === 2 ? ok : abort);
        machine.run();
      }
      expect(host.smmu.staleReports).toEqual([]);
      hits += host.smmu.counters.read("tlb.hits").total;
      machine.close();
      expect([host.fd.close(), host.user.pinned]).toEqual([0, 0]);
    }),
    { numRuns: 12, seed: 5 },
  );
  expect(hits > 0).toBe(profile !== "eager");
});
