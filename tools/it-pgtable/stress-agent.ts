// A worker that maps and unmaps its own pages of tables that it shares.
import { parentPort, workerData } from "node:worker_threads";
import { IOMMU_PROT } from "@smmuv3/io-pgtable-arm-common";
import { attach } from "./shared-ram.ts";
import type { Sharing } from "./shared-ram.ts";

/** One round, for every agent the same; the agent's number picks its pages. */
export interface Round {
  readonly sharing: Sharing;
  /** Agents add one when they are ready, and begin when all are. */
  readonly gate: Int32Array;
  readonly agents: number;
  /** Slots of the address space: page `k` of slot `s` is at `s * stride + k * 4096`, and belongs to agent `k % agents`. */
  readonly slots: number;
  readonly stride: number;
  readonly pages: number;
  /** Passes of unmap and map over a random half. */
  readonly passes: number;
  readonly seed: number;
}

export interface RoundResult {
  readonly errors: readonly string[];
  /** IOVA and PA of what the agent left mapped. */
  readonly mapped: readonly (readonly [iova: number, pa: number])[];
}

const RW = IOMMU_PROT.READ | IOMMU_PROT.WRITE;

function run(round: Round, me: number): RoundResult {
  const { slots, stride, pages, passes, agents, gate } = round;
  const table = attach(round.sharing, () => {});
  const errors: string[] = [];
  const model = new Map<number, number>();
  let random = (round.seed * 2654435761 + me * 40503) | 1;
  const below = (n: number): number => {
    random ^= random << 13;
    random ^= random >>> 17;
    random ^= random << 5;
    return (random >>> 0) % n;
  };
  const mine: number[] = [];
  for (let slot = 0; slot < slots; slot++) {
    for (let page = me; page < pages; page += agents) mine.push(slot * stride + page * 4096);
  }
  const map = (iova: number): void => {
    const pa = iova + 4096 * (1 + below(2 ** 20)) + (me + 1) * 2 ** 40;
    const status = table.mapPages(iova, pa, 4096, 1, RW);
    if (status !== 0) errors.push(`map 0x${iova.toString(16)}: ${status}`);
    model.set(iova, pa);
  };

  Atomics.add(gate, 0, 1);
  while (Atomics.load(gate, 0) < agents) continue;

  for (const iova of mine) map(iova);
  for (let pass = 0; pass < passes; pass++) {
    for (const iova of mine) {
      if (below(2) === 0) continue;
      const bytes = table.unmapPages(iova, 4096, 1, null);
      if (bytes !== 4096) errors.push(`unmap 0x${iova.toString(16)}: ${bytes}`);
      if (table.iovaToPhys(iova) !== 0) errors.push(`0x${iova.toString(16)} is still there`);
      map(iova);
      if (table.iovaToPhys(iova + 5) !== model.get(iova)! + 5) errors.push(`0x${iova.toString(16)} is another`);
    }
  }
  return { errors, mapped: [...model] };
}

const me = workerData as number;
parentPort!.on("message", (round: Round) => {
  parentPort!.postMessage(run(round, me));
});
