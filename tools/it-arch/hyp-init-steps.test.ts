// EL2 comes up step by step, each with effects of its own. Whichever step is the one that fails, the machine works: unprotected, or
// protected where it was none that mattered.
import { describe, expect, test } from "vitest";
import type { HostPort } from "@smmuv3/arch-common";
import { hypercallName, setFrame } from "@smmuv3/pkvm-abi";
import type { Board } from "@smmuv3/smmu-lab";
import { DEVICES, dmaWorks, KERNELS, newBoard } from "./hyp-kernels.ts";

/** Registers of `__pkvm_init`. */
const POOL_PAGES = 3;

interface Outcome {
  readonly protectedMode: boolean;
  /** The step that failed, as the kernel names it. */
  readonly step: string;
}

/** Boots a design, and says what became of it; the machine must work. */
function bootWith(name: string, prepare: (board: Board) => void, mayBlock = false): Outcome {
  const { bootKernel, startHypervisor, options } = KERNELS[name]!;
  const board = newBoard();
  prepare(board);
  startHypervisor(board.machine.hyp, board.firmware);
  const port: HostPort = bootKernel(board.machine.host, board.firmware, options);
  const { protectedMode, warnings } = port.status;
  const works = DEVICES.map((_, device) => dmaWorks(board, port, device));
  // An emulated SMMU cannot ask for memory: without any left, EL2 blocks a device rather than let it through.
  if (!(protectedMode && mayBlock)) expect(works).toEqual(DEVICES.map(() => true));
  expect([board.machine.panics, board.machine.aborts, board.machine.errors]).toEqual([[], [], []]);
  const failed = warnings.map((text) => /pKVM (.*) failed/.exec(text)?.[1]).find((step) => step !== undefined);
  expect(protectedMode).toBe(failed === undefined);
  return { protectedMode, step: failed ?? "" };
}

/** EL2 gets so many pages and not more. */
function poolOf(pages: number): (board: Board) => void {
  return ({ machine: { host } }) => {
    const hvc = host.hvc.bind(host);
    host.hvc = (frame) => {
      if (hypercallName(frame[0]!) === "__pkvm_init") setFrame(frame, POOL_PAGES, pages);
      hvc(frame);
    };
  };
}

/** The SMMU ignores what EL2 writes from its `nth` register write on, while it is handed over. */
function deafFrom(nth: number, seen: { writes: number }): (board: Board) => void {
  return ({ machine: { hyp, host } }) => {
    let handover = false;
    const hvc = host.hvc.bind(host);
    host.hvc = (frame) => {
      handover = hypercallName(frame[0]!) === "__pkvm_iommu_handoff";
      hvc(frame);
      handover = false;
    };
    const ioremap = hyp.ioremap.bind(hyp);
    hyp.ioremap = (pa, size) => {
      const window = ioremap(pa, size);
      const heard = (): boolean => !handover || seen.writes++ < nth;
      return {
        get hi() {
          return window.hi;
        },
        read32: (offset) => window.read32(offset),
        read64: (offset) => window.read64(offset),
        write32: (offset, value) => {
          if (heard()) window.write32(offset, value);
        },
        write64: (offset, lo, hi) => {
          if (heard()) window.write64(offset, lo, hi);
        },
      };
    };
  };
}

describe.each(Object.keys(KERNELS))("%s works", (name) => {
  test("with any amount of memory for EL2", () => {
    const outcomes: Outcome[] = [];
    for (let pages = 1; outcomes.at(-1)?.protectedMode !== true; pages += pages < 24 ? 1 : 3) {
      expect(pages).toBeLessThan(600);
      outcomes.push(bootWith(name, poolOf(pages), name === "trap-emulate"));
    }
    // EL2's own, and the identity map.
    expect(new Set(outcomes.map(({ step }) => step)).size).toBeGreaterThanOrEqual(3);
  });

  test("when the SMMU stops answering EL2, at whatever step", () => {
    const seen = { writes: 0 };
    expect(bootWith(name, deafFrom(Infinity, seen)).protectedMode).toBe(true);
    const total = seen.writes;
    expect(total).toBeGreaterThan(10);
    let failures = 0;
    for (let nth = 0; nth < total; nth++) {
      const { protectedMode } = bootWith(name, deafFrom(nth, { writes: 0 }));
      if (!protectedMode) failures++;
    }
    expect(failures).toBeGreaterThan(5);
  });
});
