import { ERRNO } from "@smmuv3/platform";
import type { Device } from "@smmuv3/driver-core";
import type { IommuDomain } from "./domain.ts";
import type { IommuInstance } from "./ops.ts";

/** Bytes that user space brought with a request (`struct iommu_user_data`); little-endian. */
export interface UserData {
  /** What they are, of the IOMMU driver's own types. */
  readonly type: number;
  readonly bytes: Uint8Array;
}

/** Entries that user space brought with a request (`struct iommu_user_data_array`). */
export interface UserDataArray {
  readonly type: number;
  /** Bytes of an entry, and how many of them there are. */
  readonly entryBytes: number;
  readonly count: number;
  readonly bytes: Uint8Array;
  /** Entries that were handled: the driver sets it, on errors too. */
  done: number;
}

/** What an IOMMU tells user space about itself. */
export interface HwInfo {
  /** Of the IOMMU driver's own types; 0: nothing. */
  readonly type: number;
  /** Little-endian. */
  readonly words: Int32Array;
}

/** Words of `bytes`, which begin at `at`. */
function wordsAt(bytes: Uint8Array, at: number, count: number): Int32Array {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return Int32Array.from({ length: count }, (_, i) => view.getInt32(at + i * 4, true));
}

/** Whether `bytes` from `from` up to `to` are zero: a structure that is longer than expected may only add zeros. */
export function isZero(bytes: Uint8Array, from: number, to: number = bytes.length): boolean {
  for (let at = from; at < to; at++) if (bytes[at] !== 0) return false;
  return true;
}

/**
 * A structure of `count` words of type `type`. -EINVAL for another type, or for less; -E2BIG for more, unless that is zero.
 */
export function copyUserData(data: UserData, type: number, count: number): Int32Array | number {
  if (data.type !== type || data.bytes.length < count * 4) return -ERRNO.EINVAL;
  if (!isZero(data.bytes, count * 4)) return -ERRNO.E2BIG;
  return wordsAt(data.bytes, 0, count);
}

/** Entry `index` of an array, with the errors of {@link copyUserData}. */
export function copyUserEntry(array: UserDataArray, type: number, index: number, count: number): Int32Array | number {
  const { entryBytes, bytes } = array;
  if (array.type !== type || entryBytes < count * 4) return -ERRNO.EINVAL;
  const at = index * entryBytes;
  if (!isZero(bytes, at + count * 4, at + entryBytes)) return -ERRNO.E2BIG;
  return wordsAt(bytes, at, count);
}

/** A device as a virtual machine numbers it (`struct iommufd_vdevice`). */
export interface Vdevice {
  readonly viommu: Viommu;
  readonly dev: Device;
  /** Its StreamID in the virtual machine. */
  readonly virtId: number;
  /** The IOMMU driver's own data. */
  drvdata: unknown;
}

/** A command queue that the IOMMU reads from a virtual machine's memory (`struct iommufd_hw_queue`). */
export interface HwQueue {
  readonly viommu: Viommu;
  readonly type: number;
  readonly index: number;
  /** Physical address, contiguous, and bytes. */
  readonly pa: number;
  readonly length: number;
  /** The IOMMU driver's own data. */
  drvdata: unknown;
}

/** `struct iommufd_viommu_ops`. All are optional; statuses are 0 or a negative errno. */
export interface ViommuOps {
  destroy?(viommu: Viommu): void;
  /** New domain of type `nested` over the parent. */
  allocDomainNested?(viommu: Viommu, flags: number, data: UserData): IommuDomain | number;
  /** Carries out a virtual machine's invalidations; sets `array.done`. */
  cacheInvalidate?(viommu: Viommu, array: UserDataArray): number;
  vdeviceInit?(vdevice: Vdevice): number;
  vdeviceDestroy?(vdevice: Vdevice): void;
  /** Whether there are queues of this type. */
  hasHwQueue?(viommu: Viommu, type: number): boolean;
  /** May call {@link ViommuHost.dependHwQueue}. */
  hwQueueInit?(queue: HwQueue): number;
  hwQueueDestroy?(queue: HwQueue): void;
}

/** What iommufd does for the drivers of its vIOMMUs. */
export interface ViommuHost {
  /** The device with that number, `undefined` when there is none (`iommufd_viommu_find_dev`). */
  findDevice(viommu: Viommu, virtId: number): Device | undefined;
  /** The number of a device; -ENOENT (`iommufd_viommu_get_vdev_id`). */
  findVirtId(viommu: Viommu, dev: Device): number;
  /** Hands an event to the virtual machine; -EOPNOTSUPP when nobody listens for its type (`iommufd_viommu_report_event`). */
  reportEvent(viommu: Viommu, type: number, data: Int32Array): number;
  /** Keeps `on` from being destroyed while `queue` exists. */
  dependHwQueue(queue: HwQueue, on: HwQueue): void;
  undependHwQueue(queue: HwQueue, on: HwQueue): void;
  /** Lets user space map `[pa, pa + size)` of device space. The offset to map it by; or a negative errno. */
  allocMmap(viommu: Viommu, pa: number, size: number): number;
  freeMmap(viommu: Viommu, offset: number): void;
}

/** The part of a physical IOMMU that one virtual machine has (`struct iommufd_viommu`). */
export class Viommu {
  readonly type: number;
  readonly instance: IommuInstance;
  /** The domain below its nested ones. */
  readonly parent: IommuDomain;
  readonly host: ViommuHost;
  /** Set by {@link IommuOps.viommuInit}. */
  ops: ViommuOps = {};
  /** The IOMMU driver's own data. */
  drvdata: unknown = undefined;

  constructor(type: number, instance: IommuInstance, parent: IommuDomain, host: ViommuHost) {
    this.type = type;
    this.instance = instance;
    this.parent = parent;
    this.host = host;
  }
}

/** How drivers give back words to a user of {@link UserData}: what they set in `out`, of `bytes` bytes, is copied to user space. */
export interface UserDataOut extends UserData {
  /** Stores 32-bit words from byte `at` on. */
  writeBack(at: number, words: Int32Array): void;
}
