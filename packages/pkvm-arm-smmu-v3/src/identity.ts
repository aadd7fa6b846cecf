import { makeS2Ste, queueBase } from "@smmuv3/arm-smmu-v3-common";
import { EVENT_QUEUE_OP, IOMMU_NO_PASID, IOMMU_STATE } from "@smmuv3/pkvm-abi";
import type { HypIommuDriver } from "@smmuv3/pkvm-hyp";
import { ERRNO, PAGE_SIZE } from "@smmuv3/platform";
import type { AbortAction, HypCpu } from "@smmuv3/platform";
import { EVENT_BYTES, maskOf, OFFSET, REG } from "@smmuv3/smmu-v3-defs";

import { DmaIsolation } from "./isolation.ts";
import { writeAndAck } from "./registers.ts";
import type { HypSmmu } from "./smmu.ts";

/** log2 of the entries, in the low bits of `attach`'s value. */
const LOG2_MASK = 63;
const EVENT_IRQS: number = maskOf(REG.IRQ_CTRL.EVENTQ_IRQEN) | maskOf(REG.IRQ_CTRL.GERROR_IRQEN);
const EVENTQEN: number = maskOf(REG.CR0.EVENTQEN);

/** An event queue of the host: its EVENTQ_BASE, and the indices that it starts with. */
export interface Events {
  readonly base: Int32Array;
  prod: number;
  cons: number;
}

/** Enables an event queue, and the interrupts that go with it; the SMMU's lock is held. */
export function startEvents(cpu: HypCpu, smmu: HypSmmu, { base, prod, cons }: Events): number {
  smmu.window.write64(OFFSET.EVENTQ_BASE, base[0]!, base[1]!);
  smmu.window.write32(OFFSET.EVENTQ_PROD, prod);
  smmu.window.write32(OFFSET.EVENTQ_CONS, cons);
  const status = smmu.setCr0(smmu.cr0 | EVENTQEN);
  if (status < 0) return status;
  return writeAndAck(cpu, smmu.window, OFFSET.IRQ_CTRL, OFFSET.IRQ_CTRLACK, EVENT_IRQS);
}

/**
 * The driver of the hypercall designs. A stream is blocked or sees what the host owns, one to one; events go to memory of the
 * host, which drives the queue by hypercall. Accesses of the host to the registers abort.
 */
export class IdentityDriver extends DmaIsolation implements HypIommuDriver {
  /** Event queues by SMMU. */
  protected readonly events: (Events | undefined)[] = [];
  readonly #cpu: HypCpu;

  constructor(cpu: HypCpu) {
    super({ nested: false });
    this.#cpu = cpu;
  }

  setState(iommu: number, sid: number, pasid: number, state: number): number {
    const { idmap } = this;
    const smmu = this.smmus[iommu];
    if (smmu === undefined || idmap === undefined) return -ERRNO.ENODEV;
    if (!smmu.hasSid(sid) || pasid !== IOMMU_NO_PASID) return -ERRNO.EINVAL;
    if (state !== IOMMU_STATE.blocking && state !== IOMMU_STATE.identity) return -ERRNO.EINVAL;
    smmu.lock.lock(this.#cpu);
    let status: number;
    if (state === IOMMU_STATE.blocking) status = this.block(smmu, sid);
    else {
      makeS2Ste(smmu.ste, idmap.stage2(smmu), { attrTypesOvr: smmu.features.attrTypesOvr });
      status = this.identity(smmu, sid, smmu.ste);
    }
    smmu.lock.unlock(this.#cpu);
    return status;
  }

  eventQueue(iommu: number, op: number, value: number): number {
    const smmu = this.smmus[iommu];
    if (smmu === undefined) return -ERRNO.ENODEV;
    if (op === EVENT_QUEUE_OP.attach) return this.#attachEvents(smmu, value);
    if (op !== EVENT_QUEUE_OP.consume && op !== EVENT_QUEUE_OP.gerror) return -ERRNO.EINVAL;
    smmu.lock.lock(this.#cpu);
    let result = -ERRNO.EPIPE;
    if (!smmu.off) result = op === EVENT_QUEUE_OP.consume ? this.#consumeEvents(smmu, value) : this.#globalErrors(smmu);
    smmu.lock.unlock(this.#cpu);
    return result;
  }

  dataAbort(): AbortAction | undefined {
    return undefined;
  }

  /** The transactions of `sid` without PASID abort. The SMMU's lock is held, as for {@link identity}. */
  protected block(smmu: HypSmmu, sid: number): number {
    return smmu.blockSid(sid);
  }

  /** They see the identity map, as `ste` says. */
  protected identity(smmu: HypSmmu, sid: number, ste: Int32Array): number {
    return smmu.writeSte(sid, ste);
  }

  #attachEvents(smmu: HypSmmu, value: number): number {
    const { core } = this;
    const log2 = value % (LOG2_MASK + 1);
    const pa = value - log2;
    const bytes = EVENT_BYTES * 2 ** log2;
    if (core === undefined || log2 > smmu.features.evtqLog2) return -ERRNO.EINVAL;
    if (pa % Math.max(bytes, PAGE_SIZE) !== 0) return -ERRNO.EINVAL;
    // Pinning takes the host's lock, which comes before the SMMU's.
    const pinned = core.pinShared(pa, bytes);
    if (pinned < 0) return pinned;
    smmu.lock.lock(this.#cpu);
    let status = 0;
    if (smmu.off) status = -ERRNO.EPIPE;
    else if (this.events[smmu.index] !== undefined) status = -ERRNO.EBUSY;
    const refused = status < 0;
    if (!refused) {
      const base = new Int32Array(2);
      queueBase(base, pa, log2);
      const events = { base, prod: 0, cons: 0 };
      this.events[smmu.index] = events;
      // Without an acknowledge nobody knows whether the SMMU writes there: the pages stay pinned.
      status = startEvents(this.#cpu, smmu, events);
    }
    smmu.lock.unlock(this.#cpu);
    if (refused) core.unpin(pa, bytes);
    return status;
  }

  #consumeEvents(smmu: HypSmmu, value: number): number {
    if (value >= 2 ** 32) return -ERRNO.EINVAL;
    if ((smmu.cr0 & EVENTQEN) === 0) return -ERRNO.ENODEV;
    smmu.window.write32(OFFSET.EVENTQ_CONS, value | 0);
    return smmu.window.read32(OFFSET.EVENTQ_PROD) >>> 0;
  }

  /** The command queue's error is EL2's business; the others are the host's to know. */
  #globalErrors(smmu: HypSmmu): number {
    smmu.skipRefused();
    const errors = smmu.window.read32(OFFSET.GERROR);
    const active = errors ^ smmu.window.read32(OFFSET.GERRORN);
    if (active !== 0) smmu.window.write32(OFFSET.GERRORN, errors);
    return active >>> 0;
  }
}

/** EL2's SMMUv3 driver for designs in which the host asks by hypercall. */
export function identityDriver(cpu: HypCpu): HypIommuDriver {
  return new IdentityDriver(cpu);
}
