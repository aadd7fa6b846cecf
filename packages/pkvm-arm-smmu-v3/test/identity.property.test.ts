// The hypercalls about the SMMU against what the host was told.
import { OWNER, PAGE_STATE } from "@smmuv3/pkvm-hyp";
import { ERRNO, PAGE_SIZE } from "@smmuv3/platform";
import { getAddress, getField, REG, STE, STE_CONFIG } from "@smmuv3/smmu-v3-defs";
import fc from "fast-check";
import { expect, test } from "vitest";
import { identityDriver } from "../src/index.ts";
import { hardwareSte, isolated, POOL_BASE, rootsOf, run } from "./el2.ts";
import type { Running } from "./el2.ts";

const QUEUE = 0x4038_0000;
const LOG2 = 9;
const IDENTITY = 1;
const SIDS = [0, 1, 0x42, 0xff, 0x100, 0xffff];
const EVENTQEN = 4;

/** What the host asked for each stream, and got. */
type Streams = Map<number, number>;

interface Step {
  readonly toString: () => string;
  readonly run: (running: Running, streams: Streams) => void;
}

const call = (text: string, go: Step["run"]): Step => ({ toString: () => text, run: go });
const value = fc.oneof(
  fc.constant(QUEUE + LOG2),
  fc.constantFrom(0, 1, 2, 3, 9, 0xff, 0x100, 0xffff, 0x1_0000, QUEUE, POOL_BASE + 3, 2 ** 32, 2 ** 53 - 1),
  fc.nat(0xffff_ffff),
);
const page = fc.nat(4).map((at) => QUEUE / PAGE_SIZE + at);

/** 0, or the errno of a request that makes no sense, in the order in which it is checked. */
function verdict(iommu: number, sid: number, pasid: number, state: number): number {
  if (iommu !== 0) return -ERRNO.ENODEV;
  return sid <= 0xffff && pasid === 0 && state <= IDENTITY ? 0 : -ERRNO.EINVAL;
}

const setState = fc.record({
  iommu: fc.constantFrom(0, 0, 0, 1, 2 ** 53 - 1),
  sid: fc.oneof({ weight: 4, arbitrary: fc.constantFrom(...SIDS) }, { weight: 1, arbitrary: fc.constantFrom(0x1_0000, 2 ** 32, 2 ** 53 - 1) }),
  pasid: fc.constantFrom(0, 0, 0, 1),
  state: fc.constantFrom(0, 1, 1, 2),
}).map(({ iommu, sid, pasid, state }) => call(`set_state ${iommu} ${sid} ${pasid} ${state}`, ({ cpu }, streams) => {
  const expected = verdict(iommu, sid, pasid, state);
  expect(cpu.call("__pkvm_iommu_set_state", iommu, sid, pasid, state)).toBe(expected);
  if (expected === 0) streams.set(sid, state);
}));

const step = fc.oneof(
  { weight: 3, arbitrary: setState },
  {
    weight: 2,
    arbitrary: fc.tuple(fc.constantFrom(0, 0, 0, 1), fc.constantFrom(0, 0, 1, 2, 3, 2 ** 40), value).map(([iommu, op, x]) =>
      call(`event_queue ${iommu} ${op} ${x}`, ({ cpu }) => {
        expect(cpu.call("__pkvm_iommu_event_queue", iommu, op, x)).toBeGreaterThan(-4096);
      })),
  },
  { weight: 1, arbitrary: page.map((pfn) => call(`unshare ${pfn}`, ({ cpu }) => { cpu.call("__pkvm_host_unshare_hyp", pfn); })) },
  { weight: 1, arbitrary: page.map((pfn) => call(`share ${pfn}`, ({ cpu }) => { cpu.call("__pkvm_host_share_hyp", pfn); })) },
  { weight: 1, arbitrary: page.map((pfn) => call(`donate ${pfn}`, ({ cpu }) => { cpu.call("__pkvm_host_donate_hyp", pfn); })) },
);

function roots(): number[] {
  const { cpu } = run(identityDriver);
  cpu.call("__pkvm_iommu_set_state", 0, 1, 0, IDENTITY);
  return rootsOf(hardwareSte(cpu, 1)!);
}

test("streams do what was last asked for, events go to pinned memory of the host, and EL2 goes on", () => {
  const own = roots();
  let attached = 0;
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60, size: "max" }), (steps) => {
      const running = run(identityDriver);
      const { cpu, smmu, core } = running;
      const streams: Streams = new Map();
      for (let at = 0; at < 4; at++) cpu.call("__pkvm_host_share_hyp", QUEUE / PAGE_SIZE + at);
      for (const one of steps) {
        one.run(running, streams);
        for (const sid of SIDS) {
          const ste = hardwareSte(cpu, sid);
          const identity = streams.get(sid) === IDENTITY;
          expect([sid, ste === undefined || isolated(ste, own)]).toEqual([sid, true]);
          const config = ste === undefined ? STE_CONFIG.abort : getField(ste, 0, STE.Config);
          expect([sid, config]).toEqual([sid, identity ? STE_CONFIG.s2 : STE_CONFIG.abort]);
        }
        expect(smmu.get("CR0") & 9).toBe(9);
        if ((smmu.get("CR0") & EVENTQEN) === 0) continue;
        const base = Int32Array.of(smmu.get("EVENTQ_BASE"), smmu.get("EVENTQ_BASE", 1));
        const first = cpu.memory.pageIndex(getAddress(base, 0, REG.EVENTQ_BASE.ADDR));
        const pages = Math.ceil((32 * 2 ** getField(base, 0, REG.EVENTQ_BASE.LOG2SIZE)) / PAGE_SIZE);
        for (let at = first; at < first + pages; at++) {
          const found = [core.states.owner(at), core.states.state(at), core.states.pins(at)];
          expect(found).toEqual([OWNER.host, PAGE_STATE.sharedOwned, 1]);
        }
      }
      if ((smmu.get("CR0") & EVENTQEN) !== 0) attached++;
    }),
    { seed: 12345, numRuns: 100 },
  );
  expect(attached).toBeGreaterThan(10);
});
