import { makeS2Ste, queueBase } from "@smmuv3/arm-smmu-v3-common";
import { EVENT_QUEUE_OP, IOMMU_NO_PASID, IOMMU_STATE } from "@smmuv3/pkvm-abi";
import type { HypIommuDriver } from "@smmuv3/pkvm-hyp";
import { ERRNO, PAGE_SIZE } from "@smmuv3/platform";
import type { AbortAction, HypCpu } from "@smmuv3/platform";
import { EVENT_BYTES, maskOf, OFFSET, REG, STE_WORDS } from "@smmuv3/smmu-v3-defs";

import { DmaIsolation } from "./isolation.ts";
import { writeAndAck } from "./registers.ts";
import type { HypSmmu } from "./smmu.ts";

/** log2 of the entries, in the low bits of `attach`'s value. */
const LOG2_MASK = 63;
const EVENT_IRQS: number = maskOf(REG.IRQ_CTRL.EVENTQ_IRQEN) | maskOf(REG.IRQ_CTRL.GERROR_IRQEN);
const EVENTQEN: number = maskOf(REG.CR0.EVENTQEN);

/**
 * The driver of the hypercall designs. A stream is blocked or sees what the host owns, one to one; events go to memory of the
 * host, which drives the queue by hypercall. Accesses of the host to the registers abort.
 */
class IdentityDriver extends DmaIsolation implements HypIommuDriver {
  readonly #cpu: HypCpu;
  readonly #ste: Int32Array = new Int32Array(STE_WORDS);

  constructor(cpu: HypCpu) {
    super({ nested: false });
    this.#cpu = cpu;
  }

  setState(iommu: number, sid: number, pasid: number, state: number): number {
    const { idmap } = this;
    const smmu = this.smmus[iommu];
    if (smmu === undefined || idmap === undefined) return -ERRNO.ENODEV;
    if (!smmu.hasSid(sid) || pasid !== IOMMU_NO_PASID) return -ERRNO.EINVAL;
    if (state === IOMMU_STATE.blocking) return smmu.blockSid(sid);
    if (state !== IOMMU_STATE.identity) return -ERRNO.EINVAL;
    makeS2Ste(this.#ste, idmap.stage2(smmu), { attrTypesOvr: smmu.features.attrTypesOvr });
    return smmu.writeSte(sid, this.#ste);
  }

  eventQueue(iommu: number, op: number, value: number): number {
    const smmu = this.smmus[iommu];
    if (smmu === undefined) return -ERRNO.ENODEV;
    if (op === EVENT_QUEUE_OP.attach) return this.#attachEvents(smmu, value);
    if (op === EVENT_QUEUE_OP.consume) return this.#consumeEvents(smmu, value);
    return op === EVENT_QUEUE_OP.gerror ? this.#globalErrors(smmu) : -ERRNO.EINVAL;
  }

  dataAbort(): AbortAction | undefined {
    return undefined;
  }

  #attachEvents(smmu: HypSmmu, value: number): number {
    const { core } = this;
    const log2 = value % (LOG2_MASK + 1);
    const pa = value - log2;
    const bytes = EVENT_BYTES * 2 ** log2;
    if (core === undefined || log2 > smmu.features.evtqLog2) return -ERRNO.EINVAL;
    if (pa % Math.max(bytes, PAGE_SIZE) !== 0) return -ERRNO.EINVAL;
    if ((smmu.cr0 & EVENTQEN) !== 0) return -ERRNO.EBUSY;
    const pinned = core.pinShared(pa, bytes);
    if (pinned < 0) return pinned;
    const base = new Int32Array(2);
    queueBase(base, pa, log2);
    smmu.window.write64(OFFSET.EVENTQ_BASE, base[0]!, base[1]!);
    smmu.window.write32(OFFSET.EVENTQ_PROD, 0);
    smmu.window.write32(OFFSET.EVENTQ_CONS, 0);
    const status = smmu.setCr0(smmu.cr0 | EVENTQEN);
    // Without an acknowledge nobody knows whether the SMMU writes there: the pages stay pinned.
    if (status < 0) return status;
    return writeAndAck(this.#cpu, smmu.window, OFFSET.IRQ_CTRL, OFFSET.IRQ_CTRLACK, EVENT_IRQS);
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
