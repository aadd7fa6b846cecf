import { ABI_PROT, EVENT_QUEUE_OP, IOMMU_DOMAIN_TYPE, IOMMU_NO_PASID, IOMMU_STATE } from "@smmuv3/pkvm-abi";
import type { IommuHandoff } from "@smmuv3/pkvm-abi";
import { HOST_PROT, HOST_VMID } from "@smmuv3/pkvm-hyp";
import type { HypCore, HypDomain, HypIommuDriver, HypIommuPaging, UnmapVisitor } from "@smmuv3/pkvm-hyp";
import { BOOT_DMA_PROPERTY, ERRNO, PAGE_SIZE } from "@smmuv3/platform";
import type { AbortAction } from "@smmuv3/platform";
import { RV_FAULT_BYTES, RV_FQCSR, RV_PTE, RV_REG, rvPpnField } from "@smmuv3/riscv-iommu-defs";

import type { HypRiscvIommu } from "./hyp-iommu.ts";
import { mapIdentity, Space } from "./space.ts";
import { LEAF_SIZES } from "./sv-table.ts";
import { claimIommu, riscvNodes } from "./takeover.ts";

const MAX_IOMMUS = 8;
const RW: number = RV_PTE.r | RV_PTE.w;
/** log2 of the fault queue's entries, in the low bits of `attach`'s value. */
const LOG2_MASK = 63;
const FAULTQ_MAX_LOG2 = 16;

/** Leaf rights for `prot` of ABI_PROT. A device never executes here; W without R is reserved. */
function rightsOf(prot: number): number {
  return (prot & ABI_PROT.write) !== 0 ? RW : RV_PTE.r;
}

/** EL2's driver of RISC-V IOMMUs: take-over, identity, paravirtual domains of stage 2. */
export class RiscvIommuDriver implements HypIommuDriver {
  readonly paging: HypIommuPaging;
  readonly #iommus: HypRiscvIommu[] = [];
  /** What each device of each IOMMU is attached to. */
  readonly #attached: Map<number, Space>[] = [];
  #core: HypCore | undefined = undefined;
  #idmap: Space | undefined = undefined;

  constructor() {
    this.paging = {
      allocDomain: (iommu, domain) => this.#allocDomain(iommu, domain),
      freeDomain: (domain, visit) => (domain.data as Space).free(visit),
      attach: (iommu, sid, pasid, domain) => this.#attach(iommu, sid, pasid, domain.data as Space),
      mapPages: (domain, iova, pa, pgsize, count, prot) => (domain.data as Space).map(iova, pa, pgsize, count, rightsOf(prot)),
      unmapPages: (domain, iova, pgsize, count, visit: UnmapVisitor) =>
        (domain.data as Space).unmap(iova, iova + pgsize * count, visit),
      iovaToPhys: (domain, iova) => {
        const { table } = domain.data as Space;
        return table.lookUp(iova) ? table.leafPa + (iova % table.leafSize) : 0;
      },
    };
  }

  init(core: HypCore): number {
    this.#core = core;
    return 0;
  }

  handoff(handoff: IommuHandoff): number {
    const core = this.#core;
    if (core === undefined) return -ERRNO.EPERM;
    if (this.#iommus.length === MAX_IOMMUS) return -ERRNO.ENOSPC;
    const claimed = claimIommu(core, handoff, this.#iommus.length);
    if (typeof claimed === "number") return claimed;
    const { iommu } = claimed;
    let status = this.#makeIdmap(core);
    if (status === 0) {
      this.#iommus.push(iommu);
      this.#attached.push(new Map());
      status = iommu.start();
      if (status === 0) status = this.#keepBootDma(core, iommu);
    }
    if (status === 0) return iommu.index;
    iommu.stop();
    if (this.#iommus.at(-1) === iommu) {
      this.#iommus.pop();
      this.#attached.pop();
    }
    claimed.release();
    return status;
  }

  hostStage2Idmap(start: number, end: number, prot: number): number {
    const map = this.#idmap;
    if (map === undefined) return 0;
    if (prot !== HOST_PROT.none) {
      return mapIdentity(map, start, end, RW, prot === HOST_PROT.device ? LEAF_SIZES : [PAGE_SIZE]);
    }
    for (let at = start; at < end; ) {
      const bytes = map.unmap(at, end, () => {});
      if (bytes < 0) return bytes;
      // A hole may be skipped; part of a leaf that stays mapped may not.
      if (bytes === 0 && map.table.lookUp(at)) return -ERRNO.EINVAL;
      at += Math.max(bytes, PAGE_SIZE);
    }
    return 0;
  }

  setState(iommu: number, sid: number, pasid: number, state: number): number {
    const idmap = this.#idmap;
    if (idmap === undefined) return -ERRNO.ENODEV;
    if (state === IOMMU_STATE.identity) return this.#attach(iommu, sid, pasid, idmap);
    return state === IOMMU_STATE.blocking ? this.#attach(iommu, sid, pasid, undefined) : -ERRNO.EINVAL;
  }

  eventQueue(iommu: number, op: number, value: number): number {
    const target = this.#iommus[iommu];
    if (target === undefined) return -ERRNO.ENODEV;
    if (op === EVENT_QUEUE_OP.attach) return this.#attachFaults(target, value);
    const csr = target.window.read32(RV_REG.fqcsr);
    if (op === EVENT_QUEUE_OP.consume) {
      if (value >= 2 ** 32) return -ERRNO.EINVAL;
      if ((csr & RV_FQCSR.fqon) === 0) return -ERRNO.ENODEV;
      target.window.write32(RV_REG.fqh, value | 0);
      target.window.write32(RV_REG.ipsr, -1);
      return target.window.read32(RV_REG.fqt) >>> 0;
    }
    if (op !== EVENT_QUEUE_OP.gerror) return -ERRNO.EINVAL;
    // Writing the error bits back clears them.
    target.window.write32(RV_REG.fqcsr, csr);
    return csr & RV_FQCSR.errors;
  }

  dataAbort(): AbortAction | undefined {
    return undefined;
  }

  /** -ENODEV while an IOMMU is still the host's: its devices would reach everything. */
  finalize(): number {
    if (this.#core === undefined) return 0;
    const owned = new Set(this.#iommus.map(({ resources }) => resources.mmioBase));
    return riscvNodes(this.#core).some(({ reg }) => !owned.has(reg[0]?.base ?? -1)) ? -ERRNO.ENODEV : 0;
  }

  suspend(iommu: number): number {
    return this.#power(iommu, false);
  }

  resume(iommu: number): number {
    return this.#power(iommu, true);
  }

  #power(index: number, on: boolean): number {
    const iommu = this.#iommus[index];
    const core = this.#core;
    if (iommu === undefined || core === undefined) return -ERRNO.ENODEV;
    iommu.lock.lock(core.cpu);
    if (!on) iommu.stop();
    iommu.off = !on;
    const status = on ? iommu.start() : 0;
    iommu.lock.unlock(core.cpu);
    return status;
  }

  #makeIdmap(core: HypCore): number {
    if (this.#idmap !== undefined) return 0;
    const map = Space.create(core, this.#iommus, MAX_IOMMUS, HOST_VMID, "idmap");
    if (typeof map === "number") return map;
    this.#idmap = map;
    const status = core.snapshot((start, end, prot) => this.hostStage2Idmap(start, end, prot));
    if (status < 0) {
      this.#idmap = undefined;
      map.free(() => {});
    }
    return status;
  }

  #keepBootDma(core: HypCore, iommu: HypRiscvIommu): number {
    const name = riscvNodes(core).find(({ reg }) => reg[0]?.base === iommu.resources.mmioBase)?.name;
    for (const node of core.firmware.nodes) {
      if (node.properties[BOOT_DMA_PROPERTY] === undefined) continue;
      for (const link of node.iommus) {
        const status = link.iommu === name ? this.#attach(iommu.index, link.id, IOMMU_NO_PASID, this.#idmap) : 0;
        if (status < 0) return status;
      }
    }
    return 0;
  }

  #allocDomain(iommu: number, domain: HypDomain): number {
    const core = this.#core;
    if (core === undefined || this.#iommus[iommu] === undefined) return -ERRNO.ENODEV;
    if (domain.type !== IOMMU_DOMAIN_TYPE.s2) return -ERRNO.EOPNOTSUPP;
    const space = Space.create(core, this.#iommus, MAX_IOMMUS, domain.id, "domains");
    if (typeof space === "number") return space;
    domain.data = space;
    return 0;
  }

  /** Attaches to `space`; undefined: blocks. */
  #attach(index: number, did: number, pasid: number, space: Space | undefined): number {
    const iommu = this.#iommus[index];
    const core = this.#core;
    if (iommu === undefined || core === undefined) return -ERRNO.ENODEV;
    if (!iommu.hasDevice(did)) return -ERRNO.EINVAL;
    if (pasid !== IOMMU_NO_PASID) return space === undefined ? 0 : -ERRNO.EOPNOTSUPP;
    iommu.lock.lock(core.cpu);
    const attached = this.#attached[index]!;
    const old = attached.get(did);
    let status = 0;
    if (old !== space) {
      if (space !== undefined) space.users[index]!++;
      status = space === undefined ? iommu.block(did) : iommu.setSecondStage(did, space.table.root, space.gscid);
      if (status === 0) {
        if (space === undefined) attached.delete(did);
        else attached.set(did, space);
        old?.leave(iommu);
      } else {
        space?.leave(iommu);
      }
    }
    iommu.lock.unlock(core.cpu);
    return status;
  }

  #attachFaults(iommu: HypRiscvIommu, value: number): number {
    const core = this.#core;
    const log2 = value % (LOG2_MASK + 1);
    const pa = value - log2;
    const bytes = RV_FAULT_BYTES * 2 ** log2;
    const shape = log2 >= 1 && log2 <= FAULTQ_MAX_LOG2 && pa % Math.max(bytes, PAGE_SIZE) === 0;
    if (core === undefined || !shape) return -ERRNO.EINVAL;
    if ((iommu.window.read32(RV_REG.fqcsr) & RV_FQCSR.fqon) !== 0) return -ERRNO.EBUSY;
    const pinned = core.pinShared(pa, bytes);
    if (pinned < 0) return pinned;
    const [lo, hi] = rvPpnField(pa);
    iommu.window.write64(RV_REG.fqb, lo | (log2 - 1), hi);
    iommu.window.write32(RV_REG.fqh, 0);
    iommu.window.write32(RV_REG.fqcsr, RV_FQCSR.fqen | RV_FQCSR.fie);
    return 0;
  }
}

/** EL2's driver of RISC-V IOMMUs. */
export function riscvIommuDriver(): HypIommuDriver {
  return new RiscvIommuDriver();
}
