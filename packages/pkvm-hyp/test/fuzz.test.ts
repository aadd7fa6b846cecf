import { frameResult, functionId, GUEST_CALL, HYPERCALLS, setFrame, SMCCC_SUCCESS } from "@smmuv3/pkvm-abi";
import type { HypercallName } from "@smmuv3/pkvm-abi";
import { FRAME_WORDS, PAGE_SIZE } from "@smmuv3/platform";
import fc from "fast-check";
import { expect, test } from "vitest";
import { OWNER, paging, passthrough, PAGE_STATE, power } from "../src/index.ts";
import { DMA_MMIO, RAM_BASE, RAM_SIZE, SID } from "./fake-cpu.ts";
import { boot, page, pfn, POOL_BASE, POOL_PAGES, RecordingPaging } from "./host.ts";

const NAMES = Object.keys(HYPERCALLS) as HypercallName[];
/** Values that get past the first check, and values that should not. */
const INTERESTING = [
  0, 1, 2, 3, 4, 7, SID.dma, SID.shared, 31, PAGE_SIZE, 2 * PAGE_SIZE, 2047, 2048, DMA_MMIO, pfn(DMA_MMIO), pfn(page(512)), 63, 64, 65, 255, pfn(RAM_BASE), pfn(POOL_BASE), pfn(page(100)), pfn(page(101)), page(100), page(200), RAM_BASE,
  RAM_BASE + RAM_SIZE - PAGE_SIZE, POOL_BASE, 0x0905_0000, 0xffff_ffff, 2 ** 40, 2 ** 52, 2 ** 53 - 1,
];

const interesting = fc.constantFrom(...INTERESTING);
const PAGES = [100, 101, 102, 103, 104, 105, 106, 107, 108].map(page);
const TABLES = [page(200), page(208), page(216)];
const IPAS = [0x8000_0000, 0x8000_1000, 0x8000_2000];
/** Values that an argument may well have, by its name. */
const LIKELY: Readonly<Record<string, readonly number[]>> = {
  pfn: PAGES.map(pfn), ipa: IPAS, handle: [1, 1, 2], vcpu: [0, 1], pool: [0, 1], order: [0, 1, 2], count: [1, 2],
  iommu: [0], sid: Object.values(SID), pasid: [0, 0, 1], state: [0, 1, 2, 3], domain: [2, 3], type: [1, 2],
  iova: [0, PAGE_SIZE, 0x40_0000], paddr: PAGES, pgsize: [PAGE_SIZE], pgcount: [1, 2, 3], prot: [3], sg_pa: PAGES, nent: [1, 2],
  id: [0, 1], vsid: [5, 6], device: [0], on: [0, 1], mem_base: TABLES, mem_pages: [8], vcpus: [2], op: [0, 1, 2], value: [0],
};
const argument = (name: string) =>
  fc.oneof({ weight: 9, arbitrary: fc.constantFrom(...(LIKELY[name] ?? INTERESTING)) }, { weight: 1, arbitrary: interesting });
/** Those that make the others possible come more often. */
const NAMES_BY_WEIGHT: HypercallName[] = [
  ...NAMES, "__pkvm_init_vm", "__pkvm_host_donate_guest", "__pkvm_host_donate_guest", "__pkvm_topup_hyp", "__pkvm_iommu_map_pages",
  "__pkvm_iommu_alloc_domain", "__pkvm_device_assign", "__pkvm_pviommu_attach", "__pkvm_pviommu_add_vsid", "__pkvm_host_reclaim_page",
];
/** A hypercall; where it has no arguments whatever `noise` has in those registers. */
const hypercall = fc.constantFrom(...NAMES_BY_WEIGHT).chain((name) =>
  fc.record({
    name: fc.constant(name),
    args: fc.tuple(...HYPERCALLS[name].args.map(argument)),
    noise: fc.int32Array({ minLength: FRAME_WORDS, maxLength: FRAME_WORDS }),
  }),
);
const GUEST_ARGS: readonly (readonly string[])[] = [
  ["id", "vsid", "pasid", "guestDomain", "pasid"],
  ["id", "vsid", "pasid", "guestDomain", "pasid"],
  [],
  ["guestDomain"],
  ["guestDomain", "iova", "ipa", "size", "prot"],
  ["guestDomain", "iova", "size"],
];
const GUEST_LIKELY: Readonly<Record<string, readonly number[]>> = { guestDomain: [2048, 2049], size: [PAGE_SIZE, 2 * PAGE_SIZE] };
const guestArgument = (name: string) =>
  fc.oneof({ weight: 9, arbitrary: fc.constantFrom(...(GUEST_LIKELY[name] ?? LIKELY[name]!)) }, { weight: 1, arbitrary: interesting });
/** A hypercall of a guest. */
const guest = fc.record({
  guest: fc.constantFrom(1, 1, 1, 2, 3),
  registers: fc.oneof(
    fc.constantFrom(0, 1, 2, 2, 3, 4, 4, 4, 5).chain((op) =>
      fc.tuple(...GUEST_ARGS[op]!.map(guestArgument)).map((args) => [GUEST_CALL.pviommuOp, op, ...args])),
    fc.tuple(fc.constantFrom(GUEST_CALL.memShare, GUEST_CALL.memUnshare), fc.constantFrom(...IPAS)),
    fc.tuple(fc.constant(GUEST_CALL.devReqDma), fc.constantFrom(0, 1), fc.constantFrom(5, 6)),
  ),
});
const fault = fc.record({ ipa: interesting, write: fc.boolean() });

test("no hypercall and no abort of a hostile host stops EL2", () => {
  let succeeded = 0;
  let mapped = 0;
  let guests = 0;
  fc.assert(
    fc.property(fc.array(fc.oneof({ weight: 8, arbitrary: hypercall }, { weight: 2, arbitrary: guest }, { weight: 1, arbitrary: fault }), { maxLength: 300, size: "max" }), (steps) => {
      const { cpu, core, driver } = boot(true, [paging, power, passthrough()]);
      cpu.call("__pkvm_topup_hyp", 0, pfn(page(300)), 2);
      cpu.call("__pkvm_init_vm", TABLES[0]!, 8, 2);
      cpu.call("__pkvm_host_donate_guest", 1, pfn(PAGES[0]!), IPAS[0]!);
      cpu.call("__pkvm_device_assign", 1, 0, SID.net);
      cpu.call("__pkvm_pviommu_attach", 1, 0);
      cpu.call("__pkvm_pviommu_add_vsid", 1, 0, 0, SID.net, 5);
      for (const step of steps) {
        if ("ipa" in step) {
          cpu.abort(step.ipa, step.write);
          continue;
        }
        if ("guest" in step) {
          const [status] = cpu.guest(step.guest, ...step.registers);
          expect([0, -3]).toContain(status);
          if (status === 0) guests++;
          continue;
        }
        const frame = step.noise.slice();
        setFrame(frame, 0, functionId(step.name));
        step.args.forEach((value, at) => {
          setFrame(frame, at + 1, value);
        });
        cpu.vectors!.hvc(frame);
        expect(frame[0]).toBe(SMCCC_SUCCESS);
        const result = frameResult(frame);
        expect(result).toBeGreaterThan(-4096);
        if (result >= 0) succeeded++;
      }
      // Whatever happened, DMA follows ownership, and EL2's memory is EL2's.
      const wrong = Array.from({ length: RAM_SIZE / PAGE_SIZE }, (_, at) => at).filter(
        (at) => driver.dma.has(RAM_BASE + at * PAGE_SIZE) !== core.states.hostReaches(at),
      );
      expect(wrong).toEqual([]);
      for (const domain of driver.paging.domains) {
        for (const pa of RecordingPaging.leaves(domain).values()) {
          const at = cpu.memory.pageIndex(pa);
          if (at < 0) continue;
          expect([core.states.owner(at), core.states.state(at)]).toEqual([domain.owner, PAGE_STATE.owned]);
          expect(core.states.pins(at)).toBeGreaterThan(0);
          mapped++;
        }
      }
      const pool = cpu.memory.pageIndex(POOL_BASE);
      for (let at = pool; at < pool + POOL_PAGES; at++) expect(core.states.owner(at)).toBe(OWNER.hyp);
    }),
    { seed: 12345, numRuns: 100 },
  );
  expect(succeeded).toBeGreaterThan(1000);
  expect(mapped).toBeGreaterThan(20);
  expect(guests).toBeGreaterThan(20);
});
