import { functionId, HYPERCALLS, setFrame, SMCCC_SUCCESS } from "@smmuv3/pkvm-abi";
import type { HypercallName } from "@smmuv3/pkvm-abi";
import { FRAME_WORDS, PAGE_SIZE } from "@smmuv3/platform";
import { expect, test } from "vitest";
import { OWNER } from "../src/index.ts";
import { RAM_BASE, RAM_SIZE } from "./fake-cpu.ts";
import { boot, page, pfn, POOL_BASE, POOL_PAGES } from "./host.ts";

/** xorshift32. */
function random(seed: number): () => number {
  let state = seed;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return state >>> 0;
  };
}

const NAMES = Object.keys(HYPERCALLS) as HypercallName[];
/** Values that get past the first check, and values that should not. */
const INTERESTING = [
  0, 1, 2, 3, 63, 64, 65, 255, pfn(RAM_BASE), pfn(POOL_BASE), pfn(page(100)), pfn(page(101)), page(100), page(200), RAM_BASE,
  RAM_BASE + RAM_SIZE - PAGE_SIZE, POOL_BASE, 0x0905_0000, 0xffff_ffff, 2 ** 40, 2 ** 52, 2 ** 53 - 1,
];

test.each([1, 2, 3, 4])("no hypercall of a hostile host stops EL2 (seed %i)", (seed) => {
  const { cpu, core, driver } = boot();
  const next = random(seed * 0x9e37_79b9);
  const frame = new Int32Array(FRAME_WORDS);
  let succeeded = 0;
  for (let i = 0; i < 4000; i++) {
    const name = NAMES[next() % NAMES.length]!;
    for (let word = 0; word < FRAME_WORDS; word++) frame[word] = next() | 0;
    frame[0] = functionId(name);
    for (let arg = 1; arg <= 4; arg++) {
      if (next() % 8 !== 0) setFrame(frame, arg, INTERESTING[next() % INTERESTING.length]!);
    }
    cpu.vectors!.hvc(frame);
    expect(frame[0]).toBe(SMCCC_SUCCESS);
    if (frame[3]! >= 0) succeeded++;
    cpu.abort(INTERESTING[next() % INTERESTING.length]!, next() % 2 === 0);
  }
  expect(succeeded).toBeGreaterThan(100);
  // Whatever happened, DMA follows ownership, and EL2's memory is EL2's.
  for (let at = 0; at < RAM_SIZE / PAGE_SIZE; at++) {
    expect(driver.dma.has(RAM_BASE + at * PAGE_SIZE)).toBe(core.states.owner(at) === OWNER.host);
  }
  const pool = cpu.memory.pageIndex(POOL_BASE);
  for (let at = pool; at < pool + POOL_PAGES; at++) expect(core.states.owner(at)).toBe(OWNER.hyp);
});
