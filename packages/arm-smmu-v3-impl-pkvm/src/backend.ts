import { BOOT_DMA_PROPERTY, errnoName } from "@smmuv3/platform";
import type { HostCpu } from "@smmuv3/platform";
import type { Backend, Master, SmmuDevice } from "@smmuv3/arm-smmu-v3";
import type { EventQueue } from "@smmuv3/arm-smmu-v3-common";
import { attachEventQueue, takeGlobalErrors } from "@smmuv3/arm-smmu-v3-handoff";
import { hypercall, IOMMU_NO_PASID, IOMMU_STATE } from "@smmuv3/pkvm-abi";

/** The back end for an SMMU that EL2 owns. */
export class PkvmBackend implements Backend {
  /** `undefined` before {@link start}, and where EL2 refuses it. Not of the device's memory: once EL2 has it, it is never freed. */
  evtq: EventQueue | undefined = undefined;
  readonly #smmu: SmmuDevice;
  readonly #cpu: HostCpu;
  /** EL2's number of the IOMMU. */
  readonly #iommu: number;
  readonly #evtqLog2: number;

  constructor(smmu: SmmuDevice, iommu: number, evtqLog2: number) {
    this.#smmu = smmu;
    this.#cpu = smmu.kernel.cpu;
    this.#iommu = iommu;
    this.#evtqLog2 = evtqLog2;
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

  /**
   * Asks for the state that the streams have since the take-over: a stream that EL2 does not have, or has no memory for, is
   * refused here, and DMA that is active at boot is not interrupted.
   */
  addMaster(master: Master): number {
    const bootDma = master.dev.node?.properties[BOOT_DMA_PROPERTY] !== undefined;
    const state = bootDma ? IOMMU_STATE.identity : IOMMU_STATE.blocking;
    for (const sid of master.sids) {
      const status = this.#setState(sid, state);
      if (status < 0) return status;
    }
    return 0;
  }

  attachIdentity(master: Master): void {
    this.#setAll(master, IOMMU_STATE.identity);
  }

  attachBlocked(master: Master): void {
    this.#setAll(master, IOMMU_STATE.blocking);
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

  #setState(sid: number, state: number): number {
    return hypercall(this.#cpu, "__pkvm_iommu_set_state", this.#iommu, sid, IOMMU_NO_PASID, state);
  }

  #setAll(master: Master, state: number): void {
    for (const sid of master.sids) {
      const status = this.#setState(sid, state);
      if (status < 0) {
        this.#smmu.log("err", `${master.dev.name}: stream ${sid}: EL2 refused: ${errnoName(status)}`);
      }
    }
  }
}
