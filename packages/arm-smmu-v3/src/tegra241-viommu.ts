import { ERRNO, hi32, lo32 } from "@smmuv3/platform";
import type { HwInfo, HwQueue, UserDataOut, Vdevice, Viommu } from "@smmuv3/iommu-core";
import { PagingDomain } from "./domain.ts";
import type { Master } from "./smmu.ts";
import { VINTF_PAGE_BYTES, VMID_SHIFT } from "./tegra241-block.ts";
import type { CmdqvBlock } from "./tegra241-block.ts";

/** IOMMU_VIOMMU_TYPE_, IOMMU_HW_INFO_TYPE_, IOMMU_HW_QUEUE_TYPE_ and IOMMU_VEVENTQ_TYPE_TEGRA241_CMDQV. */
export const VIOMMU_TEGRA241 = 2;
export const HW_INFO_TEGRA241 = 3;
export const HW_QUEUE_TEGRA241 = 1;
export const VEVENTQ_TEGRA241 = 2;

/** `struct iommu_viommu_tegra241_cmdqv`: where and how much of the interface user space maps. */
const DATA_BYTES = 16;
const VIRT_SID_BITS = 20;
const MIN_QUEUE_BYTES = 32;
const COMMAND_LOG2 = 4;
/** BASE.ADDR is [47:5]. */
const ADDRESS_BITS = 48;

/** An interface that a virtual machine has. */
interface UserVintf {
  readonly index: number;
  readonly viommu: Viommu;
  readonly mmapOffset: number;
  readonly queues: (HwQueue | undefined)[];
  /** Devices by slot. */
  readonly sids: (Vdevice | undefined)[];
}

/** `struct iommu_hw_info_tegra241_cmdqv`. */
export function tegra241HwInfo(block: CmdqvBlock): HwInfo {
  return {
    type: HW_INFO_TEGRA241,
    words: Int32Array.of(0, block.version | (block.queuesLog2 << 8) | (block.sidsLog2 << 16)),
  };
}

/** The interfaces of virtual machines: all but interface 0. */
export class UserVintfs {
  readonly #block: CmdqvBlock;
  readonly #vintfs = new Map<number, UserVintf>();

  constructor(block: CmdqvBlock) {
    this.#block = block;
  }

  /** Makes a vIOMMU of one: -EINVAL without data to tell where it is, -ENOSPC when none is left. */
  init(viommu: Viommu, data: UserDataOut | undefined): number {
    const block = this.#block;
    const { parent } = viommu;
    if (data === undefined || data.bytes.length < DATA_BYTES || !(parent instanceof PagingDomain)) return -ERRNO.EINVAL;
    let index = 1;
    while (this.#vintfs.has(index)) index++;
    if (index >= 2 ** block.vintfsLog2) return -ERRNO.ENOSPC;
    block.deinitVintf(index);
    // HYP_OWN 0: what its queues say is about this VMID, and about StreamIDs that are replaced.
    const status = block.enableVintf(index, parent.id << VMID_SHIFT, false) || block.enableVintf(index, parent.id << VMID_SHIFT, true);
    if (status < 0) {
      block.deinitVintf(index);
      return status;
    }
    const mmapOffset = viommu.host.allocMmap(viommu, block.base + block.page0(index, 0), VINTF_PAGE_BYTES);
    if (mmapOffset < 0) {
      block.deinitVintf(index);
      return mmapOffset;
    }
    const vintf: UserVintf = { index, viommu, mmapOffset, queues: [], sids: [] };
    this.#vintfs.set(index, vintf);
    data.writeBack(0, Int32Array.of(lo32(mmapOffset), hi32(mmapOffset), VINTF_PAGE_BYTES, 0));
    viommu.ops = {
      ...viommu.ops,
      destroy: () => {
        this.#destroy(vintf);
      },
      vdeviceInit: (vdevice) => this.#addDevice(vintf, vdevice),
      vdeviceDestroy: (vdevice) => {
        this.#removeDevice(vintf, vdevice);
      },
      hasHwQueue: (_, type) => type === HW_QUEUE_TEGRA241,
      hwQueueInit: (queue) => this.#addQueue(vintf, queue),
      hwQueueDestroy: (queue) => {
        this.#removeQueue(vintf, queue);
      },
    };
    return 0;
  }

  /** Queues of interface `index` are in error: its machine is told. */
  report(index: number): void {
    const viommu = this.#vintfs.get(index)?.viommu;
    viommu?.host.reportEvent(viommu, VEVENTQ_TEGRA241, this.#block.failedQueues(index));
  }

  #destroy({ viommu, index, mmapOffset }: UserVintf): void {
    viommu.host.freeMmap(viommu, mmapOffset);
    this.#block.deinitVintf(index);
    this.#vintfs.delete(index);
  }

  #addDevice(vintf: UserVintf, vdevice: Vdevice): number {
    const block = this.#block;
    const sids = (block.smmu.iommu.drvdataOf(vdevice.dev) as Master | undefined)?.sids ?? [];
    if (vdevice.virtId >= 2 ** VIRT_SID_BITS) return -ERRNO.EINVAL;
    if (sids.length !== 1) return -ERRNO.EOPNOTSUPP;
    let slot = 0;
    while (vintf.sids[slot] !== undefined) slot++;
    if (slot >= 2 ** block.sidsLog2) return -ERRNO.ENOSPC;
    vintf.sids[slot] = vdevice;
    block.setSid(vintf.index, slot, { virtual: vdevice.virtId, physical: sids[0]! });
    return 0;
  }

  #removeDevice(vintf: UserVintf, vdevice: Vdevice): void {
    const slot = vintf.sids.indexOf(vdevice);
    vintf.sids[slot] = undefined;
    this.#block.setSid(vintf.index, slot, undefined);
  }

  /** Queues come in ascending order, and go in descending order: each needs the one below it. */
  #addQueue(vintf: UserVintf, queue: HwQueue): number {
    const block = this.#block;
    const { index, pa, length } = queue;
    if (index >= 2 ** block.queuesLog2) return -ERRNO.EINVAL;
    if (vintf.queues[index] !== undefined) return -ERRNO.EEXIST;
    const below = vintf.queues[index - 1];
    if (index > 0 && below === undefined) return -ERRNO.EIO;
    const log2 = Math.log2(length);
    const largest = 2 ** ((block.smmu.backend?.features?.cmdqLog2 ?? 0) + COMMAND_LOG2);
    if (!Number.isInteger(log2) || length < MIN_QUEUE_BYTES || length > largest) return -ERRNO.EINVAL;
    if (pa >= 2 ** ADDRESS_BITS || pa % length !== 0) return -ERRNO.EINVAL;
    if (below !== undefined) queue.viommu.host.dependHwQueue(queue, below);
    vintf.queues[index] = queue;
    block.mapQueue(vintf.index, index, true);
    block.deinitQueue(vintf.index, index);
    // Who enables it is the virtual machine.
    block.setQueueBase(vintf.index, index, lo32(pa) | (log2 - COMMAND_LOG2), hi32(pa));
    return 0;
  }

  #removeQueue(vintf: UserVintf, queue: HwQueue): void {
    const { index } = queue;
    this.#block.deinitQueue(vintf.index, index);
    this.#block.mapQueue(vintf.index, index, false);
    vintf.queues[index] = undefined;
    const below = vintf.queues[index - 1];
    if (below !== undefined) queue.viommu.host.undependHwQueue(queue, below);
  }
}
