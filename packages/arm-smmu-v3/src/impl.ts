import type { CommandSink, EventQueue } from "@smmuv3/arm-smmu-v3-common";
import type { Device } from "@smmuv3/driver-core";
import type { IommuDomain } from "@smmuv3/iommu-core";
import type { Master, SmmuDevice } from "./smmu.ts";

/**
 * Who programs the SMMU. The driver has one of its own, for hardware that it owns; an implementation may bring another,
 * for hardware that somebody else owns and is asked to program. Everything above (firmware probe, interrupts, events,
 * StreamID ownership, registration) does not know which one it has.
 */
export interface Backend {
  /** Event queue, `undefined` where its owner gives none; and page request queue. */
  readonly evtq: EventQueue | undefined;
  readonly priq?: EventQueue;
  /** Enables the SMMU; `requestInterrupts` is called while the SMMU sends none. 0 or a negative errno. */
  start(requestInterrupts: () => void): number;
  /** Makes places for the streams of `master`, which stay as they are since the start: blocked, but for DMA that its owner keeps. 0; -ERANGE when there is none; -ENOMEM. */
  addMaster(master: Master): number;
  /** All streams of `master` pass untranslated, or abort. Must not fail. */
  attachIdentity(master: Master): void;
  attachBlocked(master: Master): void;
  /** New translating domain for `dev`; absent: it has none. */
  allocPaging?(dev: Device): IommuDomain | number;
  /** `master`, blocked, goes away. */
  removeMaster?(master: Master): void;
  /** Terminates the stalled transaction `stag`. */
  terminateStall?(sid: number, stag: number): void;
  /** Answers the last page request of a group. */
  denyPageRequest?(sid: number, ssid: number, group: number): void;
  /** Handles and acknowledges global errors. Returns those that were active: bits of GERROR. */
  handleErrors(): number;
  /** Back to SMMUEN = 0, as far as that is possible. */
  disable(): void;
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
  /** Another queue for commands that begin with `opcode`; `undefined`: `main`. */
  getSecondaryCmdq?(smmu: SmmuDevice, opcode: number, main: CommandSink): CommandSink | undefined;
}
