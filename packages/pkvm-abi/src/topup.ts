import { PAGE_SIZE } from "@smmuv3/platform";
import type { HostCpu } from "@smmuv3/platform";
import type { HypercallName } from "./hypercalls.ts";
import { frameArg, frameResult, hypercall, hypercallFrame } from "./marshal.ts";
import { REQUEST } from "./requests.ts";
import type { HypRequest } from "./requests.ts";

/** The request in a reply. */
export function frameRequest(frame: Int32Array): HypRequest {
  return { type: frameArg(frame, 2), what: frameArg(frame, 3), pages: frameArg(frame, 4) };
}

/** Where a host takes pages for EL2 from: blocks of a power of two bytes, naturally aligned; a negative errno when it has none. */
export interface TopupPages {
  alloc(bytes: number): number;
  free(pa: number, bytes: number): void;
}

/** Blocks are at least 2^2 pages: EL2 splits them, and each top-up is a hypercall. */
const MIN_ORDER = 2;
/** More requests than one call can have: an empty pool needs one block for each level of a table. */
const ROUNDS = 16;

/** Gives `pool` a block of at least `pages` pages. 0, or a negative errno. */
export function topupPool(cpu: HostCpu, memory: TopupPages, pool: number, pages: number): number {
  const order = Math.max(MIN_ORDER, Math.ceil(Math.log2(pages)));
  const bytes = PAGE_SIZE * 2 ** order;
  const pa = memory.alloc(bytes);
  if (pa < 0) return pa;
  const status = hypercall(cpu, "__pkvm_topup_hyp", pool, pa / PAGE_SIZE, order);
  if (status < 0) memory.free(pa, bytes);
  return status;
}

/**
 * {@link hypercall} that gives EL2 the memory it asks for, and repeats the call while it is -ENOMEM for that reason. A call that
 * was done in part is not repeated: the caller goes on from its result, and the memory is there.
 * @returns the result, or a negative errno; that of the top-up when there is no memory
 */
export function hypercallWithTopup(
  cpu: HostCpu,
  memory: TopupPages,
  name: HypercallName,
  ...args: readonly number[]
): number {
  for (let round = 0; ; round++) {
    const frame = hypercallFrame(cpu, name, args);
    const result = frameResult(frame);
    const { type, what, pages } = frameRequest(frame);
    if (type !== REQUEST.memory || round === ROUNDS) return result;
    const status = topupPool(cpu, memory, what, pages);
    if (result >= 0) return result;
    if (status < 0) return status;
  }
}
