import { frameResult, functionId, HYPERCALLS, setFrame, SMCCC_SUCCESS } from "@smmuv3/pkvm-abi";
import type { HypercallName } from "@smmuv3/pkvm-abi";
import { FRAME_WORDS, PAGE_SIZE } from "@smmuv3/platform";
import fc from "fast-check";
import { expect, test } from "vitest";
import { OWNER } from "../src/index.ts";
import { RAM_BASE, RAM_SIZE } from "./fake-cpu.ts";
import { boot, page, pfn, POOL_BASE, POOL_PAGES } from "./host.ts";

const NAMES = Object.keys(HYPERCALLS) as HypercallName[];
/** Values that get past the first check, and values that should not. */
const INTERESTING = [
  0, 1, 2, 3, 63, 64, 65, 255, pfn(RAM_BASE), pfn(POOL_BASE), pfn(page(100)), pfn(page(101)), page(100), page(200), RAM_BASE,
  RAM_BASE + RAM_SIZE - PAGE_SIZE, POOL_BASE, 0x0905_0000, 0xffff_ffff, 2 ** 40, 2 ** 52, 2 ** 53 - 1,
];

const interesting = fc.constantFrom(...INTERESTING);
/** A hypercall with these arguments, or where there is none with whatever `noise` has in those registers. */
const hypercall = fc.record({
  name: fc.constantFrom(...NAMES),
  args: fc.array(fc.option(interesting, { freq: 7 }), { minLength: 4, maxLength: 4 }),
  noise: fc.int32Array({ minLength: FRAME_WORDS, maxLength: FRAME_WORDS }),
});
const fault = fc.record({ ipa: interesting, write: fc.boolean() });

test("no hypercall and no abort of a hostile host stops EL2", () => {
  let succeeded = 0;
  fc.assert(
    fc.property(fc.array(fc.oneof(hypercall, hypercall, fault), { maxLength: 300, size: "max" }), (steps) => {
      const { cpu, core, driver } = boot();
      for (const step of steps) {
        if ("ipa" in step) {
          cpu.abort(step.ipa, step.write);
          continue;
        }
        const frame = step.noise.slice();
        setFrame(frame, 0, functionId(step.name));
        step.args.forEach((value, at) => {
          if (value !== null) setFrame(frame, at + 1, value);
        });
        cpu.vectors!.hvc(frame);
        expect(frame[0]).toBe(SMCCC_SUCCESS);
        const result = frameResult(frame);
        expect(result).toBeGreaterThan(-4096);
        if (result >= 0) succeeded++;
      }
      // Whatever happened, DMA follows ownership, and EL2's memory is EL2's.
      const wrong = Array.from({ length: RAM_SIZE / PAGE_SIZE }, (_, at) => at).filter(
        (at) => driver.dma.has(RAM_BASE + at * PAGE_SIZE) !== (core.states.owner(at) === OWNER.host),
      );
      expect(wrong).toEqual([]);
      const pool = cpu.memory.pageIndex(POOL_BASE);
      for (let at = pool; at < pool + POOL_PAGES; at++) expect(core.states.owner(at)).toBe(OWNER.hyp);
    }),
    { seed: 12345, numRuns: 100 },
  );
  expect(succeeded).toBeGreaterThan(500);
});
