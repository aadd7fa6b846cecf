import type { CommandSink, EventQueue, SmmuFeatures } from "@smmuv3/arm-smmu-v3-common";
import type { Device } from "@smmuv3/driver-core";
import type { HwInfo, IommuDomain, Mm, UserDataOut, Viommu } from "@smmuv3/iommu-core";
import type { Master, SmmuDevice } from "./smmu.ts";

/** Who serves the SMMU's interrupts, by queue. */
export interface InterruptHandlers {
  readonly eventq: () => void;
  readonly gerror: () => void;
  readonly priq: () => void;
}

/**
 * Who programs the SMMU. The driver has one of its own, for hardware that it owns; an implementation may bring another,
 * for hardware that somebody else owns and is asked to program. Everything above (firmware probe, interrupts, events,
 * StreamID ownership, registration) does not know which one it has.
 */
export interface Backend {
  /** Event queue, `undefined` where its owner gives none; and page request queue. */
  readonly evtq: EventQueue | undefined;
  readonly priq?: EventQueue;
  /**
   * Enables the SMMU; `requestInterrupts`, which is for wired ones, is called while the SMMU sends none. 0 or a negative errno.
   */
  start(requestInterrupts: () => void, handlers: InterruptHandlers): number;
  /** Makes places for the streams of `master`, which stay as they are since the start: blocked, but for DMA that its owner keeps. 0; -ERANGE when there is none; -ENOMEM. */
  addMaster(master: Master): number;
  /**
   * All streams of `master`, which are attached to `old`, pass untranslated. 0; or, where an owner of the hardware refuses, a negative
   * errno with all of them as they were.
   */
  attachIdentity(master: Master, old: IommuDomain | undefined): number;
  /** All streams of `master` abort. Must not fail. */
  attachBlocked(master: Master): void;
  /** New translating domain for `dev`; absent: it has none. */
  allocPaging?(dev: Device): IommuDomain | number;
  /** The same for what `flags` of DOMAIN_FLAG ask for. */
  allocPagingFlags?(flags: number): IommuDomain | number;
  /** New domain over the tables of a process; absent: it has none. */
  allocSva?(mm: Mm): IommuDomain | number;
  /** ATS can be enabled for `master`. */
  atsSupported?(master: Master): boolean;
  /** PASIDs of a device at most. */
  readonly maxPasids?: number;
  /** The SMMU's own command queue, where the kernel fills it. */
  readonly cmdq?: CommandSink;
  /** Its features, where the kernel knows them. */
  readonly features?: SmmuFeatures;
  /** Blocks one PASID of `master` that was attached to such a domain. 0 or a negative errno. */
  blockPasid?(master: Master, pasid: number): number;
  /** `master`, blocked, goes away. */
  removeMaster?(master: Master): void;
  /** Ends the stall of transaction `stag`: it is tried again, aborts, or reads as zero. */
  resumeStall?(sid: number, stag: number, response: "retry" | "abort" | "terminate"): void;
  /** Answers the last page request of a group. */
  denyPageRequest?(sid: number, ssid: number, group: number): void;
  /** Handles and acknowledges global errors. Returns those that were active: bits of GERROR. */
  handleErrors(): number;
  /** Back to SMMUEN = 0, as far as that is possible. */
  disable(): void;
  /** The driver lets go of the SMMU, which is disabled. */
  remove?(): void;
}

/** What an implementation of the SMMU, or of its owner, may customise (`arm_smmu_impl_ops`). All hooks are optional. */
export interface ImplOps {
  readonly name: string;
  /**
   * Called after the firmware probe, before any register is touched: brings the back end. -ENODEV, -ENOSYS: not for this device,
   * or its owner is not there, and the driver's own is used; another negative errno fails the probe.
   */
  probe?(smmu: SmmuDevice): Backend | number;
  /** After queues and stream table were allocated. 0 or a negative errno. */
  initStructures?(smmu: SmmuDevice): number;
  /** Last step of the reset. 0 or a negative errno. */
  deviceReset?(smmu: SmmuDevice): number;
  /** Before the SMMU is disabled. */
  deviceDisable?(smmu: SmmuDevice): void;
  /** The driver lets go of the SMMU, after {@link deviceDisable}. */
  deviceRemove?(smmu: SmmuDevice): void;
  /** Another queue for commands that begin with `opcode`; `undefined`: `main`. */
  getSecondaryCmdq?(smmu: SmmuDevice, opcode: number, main: CommandSink): CommandSink | undefined;
  /** What user space may know of it, by its own `type`; or -EOPNOTSUPP. */
  hwInfo?(smmu: SmmuDevice, type: number): HwInfo | number;
  /** Bytes of what it keeps for a vIOMMU of its own `type`; 0: there is none. Goes with {@link vsmmuInit}. */
  getViommuSize?(smmu: SmmuDevice, type: number): number;
  /** Completes a vIOMMU that the driver has set up: `viommu.ops` may be extended. 0 or a negative errno. */
  vsmmuInit?(smmu: SmmuDevice, viommu: Viommu, data: UserDataOut | undefined): number;
}
