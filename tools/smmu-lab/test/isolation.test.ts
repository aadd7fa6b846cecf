import { describe, expect, test } from "vitest";
import { ERRNO, PAGE_SIZE } from "@smmuv3/platform";
import { Isolation } from "../src/lab/isolation.ts";
import { fakes } from "./fakes.ts";
import type { Fakes } from "./fakes.ts";

/** The word that the VM keeps in its page number `index`. */
const sentinel = (index: number): number => 0x5ec2e700 + index;

interface Bench extends Fakes {
  readonly isolation: Isolation;
  /** Pages of the VM, in order. */
  readonly pages: number[];
}

/** A VM that writes its sentinels each time it runs, behind an IOMMU that is cut off from what was donated. */
function bench(isolates: boolean): Bench {
  const all = fakes();
  const { port, iommu, board } = all;
  const pages: number[] = [];
  const vmDonate = port.vmDonate.bind(port);
  port.vmDonate = (handle, pa) => {
    const status = vmDonate(handle, pa);
    if (status < 0) return status;
    pages.push(pa);
    if (isolates) iommu.mapped.delete(pa / PAGE_SIZE);
    return status;
  };
  port.onRun = () => {
    pages.forEach((pa, index) => {
      board.machine.memory.store32(pa, sentinel(index));
    });
  };
  return { ...all, isolation: new Isolation(board, port), pages };
}

const NONE = { pagesTaken: 0, reachableBefore: 0, dmaBlocked: 0, dmaLeaked: 0, stage2Faults: 0, donationsRefused: 0 };

describe("pages of a protected VM", () => {
  test("out of reach: two devices, two directions, all blocked", () => {
    const { isolation, port } = bench(true);
    for (let i = 0; i < 3; i++) isolation.takePage();
    isolation.finish();
    expect(isolation.tally).toEqual({ ...NONE, pagesTaken: 3, reachableBefore: 3, dmaBlocked: 12 });
    expect([...isolation.leaks, ...isolation.failures]).toEqual([]);
    expect(port.allocatedBytes).toBe(0);
  });

  test("in reach: all leak, and are told by device", () => {
    const { isolation } = bench(false);
    isolation.takePage();
    isolation.finish();
    expect(isolation.tally).toEqual({ ...NONE, pagesTaken: 1, reachableBefore: 1, dmaLeaked: 4 });
    expect(isolation.leaks).toEqual([
      expect.stringContaining("0000:00:01.0 read the VM's page"),
      expect.stringContaining("0000:00:01.0 wrote the VM's page"),
      expect.stringContaining("4000000.ethernet read the VM's page"),
      expect.stringContaining("4000000.ethernet wrote the VM's page"),
    ]);
    expect(isolation.failures).toEqual([]);
  });

  test("a page that no device reached before is counted as such", () => {
    const { isolation, iommu } = bench(true);
    iommu.aborts = true;
    isolation.takePage();
    expect(isolation.tally).toEqual({ ...NONE, pagesTaken: 1, dmaBlocked: 4 });
  });

  test("a donation that is refused while the page is mapped is made after the unmap", () => {
    const { isolation, port, iommu } = bench(true);
    port.donations.push(-ERRNO.EBUSY);
    isolation.takePage();
    expect(isolation.tally).toEqual({ ...NONE, pagesTaken: 1, reachableBefore: 1, dmaBlocked: 4, donationsRefused: 1 });
    expect(iommu.mapped.size).toBe(0);
    expect(isolation.failures).toEqual([]);
  });

  test("a page that changes hands wrongly later is a leak", () => {
    const { isolation, board, pages } = bench(true);
    isolation.takePage();
    board.machine.memory.store32(pages[0]!, 1);
    isolation.finish();
    expect(isolation.tally.dmaLeaked).toBe(1);
    expect(isolation.leaks).toEqual([expect.stringContaining("the VM's data changed later")]);
  });

  test("a page that comes back unwiped is a leak", () => {
    const { isolation, board, port } = bench(true);
    port.onDestroy = ([pa]) => {
      board.machine.memory.store32(pa!, 1);
    };
    isolation.takePage();
    isolation.finish();
    expect(isolation.leaks).toEqual([expect.stringContaining("came back to the host")]);
  });
});

describe("steps that do not work are failures, not proofs", () => {
  test.each<readonly [what: string, arrange: (bench: Bench) => void, failure: string]>([
    ["no VM", ({ port }) => (port.vmCreate = () => -ERRNO.ENOMEM), "no protected VM: ENOMEM"],
    ["no page", ({ port }) => (port.allocPages = () => -ERRNO.ENOMEM), "no page to take: ENOMEM"],
    ["no donation", ({ port }) => port.donations.push(-ERRNO.EPERM, -ERRNO.EPERM), "cannot be donated: EPERM"],
    ["vCPU stops", ({ port }) => (port.vmRun = () => 1), "the VM's vCPU exited with 1"],
  ])("%s", (_, arrange, failure) => {
    const all = bench(true);
    arrange(all);
    all.isolation.takePage();
    expect(all.isolation.failures[0]).toContain(failure);
  });

  test("a VM that cannot end", () => {
    const { isolation, port } = bench(true);
    isolation.takePage();
    port.vmDestroy = () => -ERRNO.EBUSY;
    isolation.finish();
    expect(isolation.failures).toEqual(["VM cannot be destroyed: EBUSY"]);
  });
});
