import { errnoName } from "@smmuv3/platform";
import type { HostCpu } from "@smmuv3/platform";
import type { Backend, Master, SmmuDevice } from "@smmuv3/arm-smmu-v3";
import type { EventQueue } from "@smmuv3/arm-smmu-v3-common";
import { attachEventQueue, takeGlobalErrors } from "@smmuv3/arm-smmu-v3-handoff";
import type { Device } from "@smmuv3/driver-core";
import type { IommuDomain } from "@smmuv3/iommu-core";
import { IOMMU_NO_PASID, IOMMU_STATE } from "@smmuv3/pkvm-abi";
import { PvIommu } from "@smmuv3/pkvm-iommu-lib";
import type { PvPaging } from "@smmuv3/pkvm-iommu-lib";

/** The back end for an SMMU that EL2 owns. */
export class PkvmBackend implements Backend {
  /** `undefined` before {@link start}, and where EL2 refuses it. Not of the device's memory: once EL2 has it, it is never freed. */
  evtq: EventQueue | undefined = undefined;
  readonly #smmu: SmmuDevice;
  readonly #cpu: HostCpu;
  /** EL2's number of the IOMMU. */
  readonly #iommu: number;
  readonly #evtqLog2: number;
  readonly #pv: PvIommu;
  /** Translating domains, with {@link PvPaging}. */
  readonly allocPaging?: (dev: Device) => IommuDomain | number;

  constructor(smmu: SmmuDevice, iommu: number, evtqLog2: number, paging?: PvPaging) {
    this.#smmu = smmu;
    this.#cpu = smmu.kernel.cpu;
    this.#iommu = iommu;
    this.#evtqLog2 = evtqLog2;
    const idsOf = (dev: Device): readonly number[] => {
      const master = smmu.iommu.drvdataOf(dev) as Master | undefined;
      return master?.smmu === smmu ? master.sids : [];
    };
    this.#pv = new PvIommu(smmu.kernel, { iommu, idsOf, paging });
    if (paging !== undefined) this.allocPaging = (dev) => this.#pv.allocPaging(dev);
  }

  /**
   * Never fails: EL2 has the SMMU and does not give it back, and its devices work without events. Without an event queue EL2
   * enables no interrupt.
   */
  start(requestInterrupts: () => void): number {
    const queue = attachEventQueue(this.#smmu.kernel, this.#iommu, this.#evtqLog2, (errno) => {
      this.#smmu.log("err", `event queue: ${errnoName(errno)}`);
    });
    if (typeof queue === "number") {
      this.#smmu.log("warn", `no event queue: ${errnoName(queue)}`);
      return 0;
    }
    this.evtq = queue;
    requestInterrupts();
    return 0;
  }

  addMaster(master: Master): number {
    return this.#pv.probe(master.dev, master.sids);
  }

  attachIdentity(master: Master, old: IommuDomain | undefined): number {
    return this.#pv.attach(master.dev, IOMMU_NO_PASID, this.#pv.identityDomain, old);
  }

  attachBlocked(master: Master): void {
    for (const sid of master.sids) {
      const status = this.#pv.setState([sid], IOMMU_NO_PASID, IOMMU_STATE.blocking, IOMMU_STATE.blocking);
      if (status < 0) {
        this.#smmu.log("err", `${master.dev.name}: stream ${sid}: EL2 refused: ${errnoName(status)}`);
      }
    }
  }

  blockPasid(master: Master, pasid: number): number {
    return this.#pv.setState(master.sids, pasid, IOMMU_STATE.blocking, IOMMU_STATE.blocking);
  }

  handleErrors(): number {
    const active = takeGlobalErrors(this.#cpu, this.#iommu);
    if (active >= 0) return active;
    this.#smmu.log("err", `global errors: ${errnoName(active)}`);
    return 0;
  }

  /** EL2 does not give the SMMU back: every stream is blocked. */
  disable(): void {
    for (const master of new Set(this.#smmu.masters.values())) this.attachBlocked(master);
  }
}
