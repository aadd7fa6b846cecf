import type { IommuHandoff } from "@smmuv3/pkvm-abi";
import type { HypIommuDriver } from "@smmuv3/pkvm-hyp";
import { ABORT, ABORT_ACTION, ABORT_FLAG_WRITE, ERRNO, join } from "@smmuv3/platform";
import type { AbortAction, HypCpu } from "@smmuv3/platform";

import { EmulatedSmmu } from "./emulated-smmu.ts";
import { DmaIsolation } from "./isolation.ts";
import { smmuNode } from "./takeover.ts";

/**
 * The driver of the trap-and-emulate design: the host programs an SMMUv3 as on bare hardware, each access traps, and what
 * the hardware gets is the host's stage 1 on EL2's stage 2. There are no hypercalls.
 */
class EmulationDriver extends DmaIsolation implements HypIommuDriver {
  readonly #emulated: EmulatedSmmu[] = [];
  readonly #cpu: HypCpu;

  constructor(cpu: HypCpu) {
    super({ nested: true });
    this.#cpu = cpu;
  }

  override handoff(handoff: IommuHandoff): number {
    const id = super.handoff(handoff);
    const { core, idmap } = this;
    const smmu = this.smmus[id];
    if (core !== undefined && idmap !== undefined && smmu !== undefined) {
      const wires = smmuNode(core, smmu.mmioBase)?.interrupts;
      this.#emulated.push(new EmulatedSmmu(core, smmu, idmap, wires?.["combined"] ?? wires?.["gerror"]));
    }
    return id;
  }

  setState(): number {
    return -ERRNO.EOPNOTSUPP;
  }

  eventQueue(): number {
    return -ERRNO.EOPNOTSUPP;
  }

  dataAbort(frame: Int32Array): AbortAction | undefined {
    const ipa = join(frame[ABORT.ipaLo]!, frame[ABORT.ipaHi]!);
    const emulated = this.#at(ipa);
    if (emulated === undefined) return undefined;
    const offset = ipa - emulated.smmu.mmioBase;
    const size = frame[ABORT.size]!;
    emulated.lock.lock(this.#cpu);
    if ((frame[ABORT.flags]! & ABORT_FLAG_WRITE) !== 0) {
      this.#cpu.barrier();
      emulated.write(offset, size, frame[ABORT.valueLo]!, frame[ABORT.valueHi]!);
    } else {
      frame[ABORT.valueLo] = emulated.read(offset, size);
      frame[ABORT.valueHi] = emulated.hi;
    }
    emulated.lock.unlock(this.#cpu);
    return ABORT_ACTION.emulated;
  }

  #at(ipa: number): EmulatedSmmu | undefined {
    for (let i = 0; i < this.#emulated.length; i++) {
      const { mmioBase, mmioSize } = this.smmus[i]!;
      if (ipa >= mmioBase && ipa < mmioBase + mmioSize) return this.#emulated[i];
    }
    return undefined;
  }
}

/** EL2's SMMUv3 driver for the design in which the host does not know of EL2. */
export function emulationDriver(cpu: HypCpu): HypIommuDriver {
  return new EmulationDriver(cpu);
}
