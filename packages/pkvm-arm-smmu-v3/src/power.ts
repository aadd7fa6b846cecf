import type { HypCpu } from "@smmuv3/platform";
import { OFFSET } from "@smmuv3/smmu-v3-defs";

import { startEvents } from "./identity.ts";
import type { Events } from "./identity.ts";
import { abortWhenDisabled } from "./registers.ts";
import { startSmmu } from "./reset.ts";
import type { HypSmmu } from "./smmu.ts";

/**
 * DMA aborts from here on; what changes until {@link resume} is in the tables by then. `events`: the host's queue, if it has one. The
 * SMMU's lock is held, as for {@link resume}. 0, or a negative errno with power needed as before.
 */
export function suspend(smmu: HypSmmu, events: Events | undefined): number {
  if (smmu.off) return 0;
  if (events !== undefined) {
    events.prod = smmu.window.read32(OFFSET.EVENTQ_PROD);
    events.cons = smmu.window.read32(OFFSET.EVENTQ_CONS);
  }
  const status = smmu.setCr0(0);
  smmu.off = status === 0;
  return status;
}

/** Power is back: the SMMU may know nothing any more. It is told everything again. */
export function resume(cpu: HypCpu, smmu: HypSmmu, events: Events | undefined): number {
  if (!smmu.off) return 0;
  smmu.off = false;
  let status = abortWhenDisabled(cpu, smmu.window);
  if (status === 0) status = startSmmu(cpu, smmu);
  if (status === 0 && events !== undefined) status = startEvents(cpu, smmu, events);
  smmu.off = status < 0;
  return status;
}
