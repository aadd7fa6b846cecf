import { ERRNO, PAGE_SIZE } from "@smmuv3/platform";
import {
  CommandQueue, EventQueue, eventQueuePointers, priQueuePointers, queuePointers, SharedCommandQueue, sharedQueueState,
} from "@smmuv3/arm-smmu-v3-common";
import type { CommandRing, SmmuFeatures } from "@smmuv3/arm-smmu-v3-common";
import { CMD_BYTES, EVENT_BYTES, PRIQ_BYTES } from "@smmuv3/smmu-v3-defs";
import type { SmmuDevice } from "./smmu.ts";

/** log2 of the entries of the smallest command queue: one batch of 64 and its SYNC must fit. */
const MIN_CMDQ_LOG2 = 7;
const PAGE_LOG2: number = Math.log2(PAGE_SIZE);

/** Offsets of the event queue's and the page request queue's indices where page 1 does not work, in page 0. */
export const PAGE0_INDICES = { evtqProd: 0xa8, evtqCons: 0xac, priqProd: 0xc8, priqCons: 0xcc } as const;

export interface Rings {
  readonly cmdq: CommandRing;
  readonly evtq: EventQueue;
  readonly priq: EventQueue | undefined;
}

/** log2 of the entries: as many as the hardware has, a block of the allocator and the kernel's own wishes allow. */
function depth(smmu: SmmuDevice, hardware: number, entryBytes: number, limit: number = Infinity): number {
  const entry = Math.log2(entryBytes);
  const page = PAGE_LOG2 - entry;
  if (smmu.params.kdump) return Math.min(hardware, page);
  return Math.min(hardware, smmu.params.maxBlockLog2 - entry, Math.max(limit, page));
}

/** The SMMU's queues, or a negative errno. `onWait`: a step of waiting with interrupts masked. */
export function allocRings(smmu: SmmuDevice, features: SmmuFeatures, onWait: () => void): Rings | number {
  const { kernel, params, window } = smmu;
  const { cpu, memory } = kernel;
  const cmdqLog2 = depth(smmu, features.cmdqLog2, CMD_BYTES, params.cmdqMaxLog2);
  const cmdq = smmu.allocQueue(cmdqLog2, CMD_BYTES);
  if (cmdq.pa < 0) return cmdq.pa;
  if (cmdq.log2 < MIN_CMDQ_LOG2) {
    smmu.log("err", `command queue size <= ${2 ** (MIN_CMDQ_LOG2 - 1)} entries not supported`);
    return -ERRNO.ENXIO;
  }
  const evtq = smmu.allocQueue(depth(smmu, features.evtqLog2, EVENT_BYTES), EVENT_BYTES);
  if (evtq.pa < 0) return evtq.pa;
  const polled = features.msi && smmu.coherent && !params.disableMsipolling;
  const ring = { cpu, window, ...cmdq, syncMethod: polled ? "msi" : "sev" } as const;
  const { evtqProd, evtqCons, priqProd, priqCons } = PAGE0_INDICES;
  const page0 = smmu.quirks.page0RegsOnly;
  const rings = {
    cmdq: params.sharedQueue
      ? new SharedCommandQueue({ ...ring, state: sharedQueueState(cmdq.log2, false), onWait })
      : new CommandQueue(ring),
    evtq: new EventQueue({ memory, pointers: page0 ? queuePointers(window, evtqProd, evtqCons) : eventQueuePointers(window), ...evtq }),
    priq: undefined,
  };
  if (!features.pri) return rings;
  const priq = smmu.allocQueue(depth(smmu, features.priqLog2, PRIQ_BYTES), PRIQ_BYTES);
  if (priq.pa < 0) return priq.pa;
  const pointers = page0 ? queuePointers(window, priqProd, priqCons) : priQueuePointers(window);
  return { ...rings, priq: new EventQueue({ memory, pointers, entryBytes: PRIQ_BYTES, ...priq }) };
}
