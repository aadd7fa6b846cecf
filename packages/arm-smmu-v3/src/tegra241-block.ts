import type { RegisterWindow } from "@smmuv3/platform";
import { pollUntil } from "./registers.ts";
import type { SmmuDevice } from "./smmu.ts";

// The command queue virtualisation of Tegra241 has no public specification: offsets and fields are those that its driver uses.

export const ENABLE = 1;
const CONFIG = 0x0;
const PARAM = 0x4;
const STATUS = 0x8;
const VINTF_ERR_MAP = 0x14;
const CMDQ_ALLOC = 0x200;
const VINTF = 0x1000;
const VINTF_STRIDE = 0x100;
const VINTF_STATUS = 0x4;
const SID_MATCH = 0x40;
const SID_REPLACE = 0x80;
const SID_SLOTS = 16;
const LVCMDQ_ERR_MAP = 0xc0;
const ERR_MAP_WORDS = 4;
/** VINTF_CONFIG: the interface is the hypervisor's; and whose it is else. */
export const HYP_OWN: number = 1 << 17;
export const VMID_SHIFT = 1;
const ALLOC_VINTF_SHIFT = 15;
const ALLOC_LVCMDQ_SHIFT = 1;
/** Page 0 of the queues of interface 0, page 1 behind it; then those of the others. */
const VINTF_PAGE0 = 0x3_0000;
export const VINTF_PAGE_BYTES = 0x1_0000;
const QUEUE_STRIDE = 0x80;
export const QUEUE = { cons: 0x0, prod: 0x4, config: 0x8, status: 0xc, gerror: 0x10, gerrorn: 0x14 } as const;
const QUEUE_PAGE1 = { base: 0x0, consIndxBase: 0x8 } as const;
const PARAM_SIDS = 12;
const PARAM_VINTF = 8;
const PARAM_VCMDQ = 4;
const PARAM_VERSION = 0;

function log2Of(param: number, shift: number): number {
  return (param >>> shift) & 0xf;
}

/** The registers of the block, and the steps of which both its users are made: the kernel itself, and virtual machines. */
export class CmdqvBlock {
  readonly window: RegisterWindow;
  readonly smmu: SmmuDevice;
  /** Physical address of the block. */
  readonly base: number;
  readonly version: number;
  /** log2 of the interfaces, of their queues, of their StreamIDs. */
  readonly vintfsLog2: number;
  readonly queuesLog2: number;
  readonly sidsLog2: number;

  constructor(smmu: SmmuDevice, base: number, size: number) {
    this.smmu = smmu;
    this.base = base;
    this.window = smmu.kernel.cpu.ioremap(base, size);
    const param = this.window.read32(PARAM);
    this.version = log2Of(param, PARAM_VERSION);
    this.vintfsLog2 = log2Of(param, PARAM_VINTF);
    this.queuesLog2 = log2Of(param, PARAM_VCMDQ) - this.vintfsLog2;
    this.sidsLog2 = log2Of(param, PARAM_SIDS);
  }

  /** Page 0 of queue `queue` of an interface. */
  page0(vintf: number, queue: number): number {
    return VINTF_PAGE0 + vintf * 2 * VINTF_PAGE_BYTES + queue * QUEUE_STRIDE;
  }

  /** Switches the whole block. 0 or -ETIMEDOUT. */
  enable(on: boolean): number {
    return this.#enable(CONFIG, STATUS, 0, on);
  }

  /** Switches an interface; `bits` of its CONFIG. */
  enableVintf(vintf: number, bits: number, on: boolean): number {
    const at = VINTF + vintf * VINTF_STRIDE;
    return this.#enable(at, at + VINTF_STATUS, bits, on);
  }

  /** CONFIG of an interface. */
  vintfConfig(vintf: number): number {
    return this.window.read32(VINTF + vintf * VINTF_STRIDE);
  }

  /** Gives a queue to its interface, or says only which one will have it. */
  mapQueue(vintf: number, queue: number, on: boolean): void {
    this.window.write32(this.#allocAt(vintf, queue), (vintf << ALLOC_VINTF_SHIFT) | (queue << ALLOC_LVCMDQ_SHIFT) | (on ? ENABLE : 0));
  }

  isMapped(vintf: number, queue: number): boolean {
    return (this.window.read32(this.#allocAt(vintf, queue)) & ENABLE) !== 0;
  }

  /** Sets BASE of a queue. */
  setQueueBase(vintf: number, queue: number, lo: number, hi: number): void {
    this.window.write64(this.page0(vintf, queue) + VINTF_PAGE_BYTES + QUEUE_PAGE1.base, lo, hi);
  }

  enableQueue(vintf: number, queue: number, on: boolean): number {
    const page0 = this.page0(vintf, queue);
    return this.#enable(page0 + QUEUE.config, page0 + QUEUE.status, 0, on);
  }

  /** Stops a queue and makes it as new. */
  deinitQueue(vintf: number, queue: number): void {
    const { window } = this;
    const page0 = this.page0(vintf, queue);
    this.enableQueue(vintf, queue, false);
    // ATC invalidations that are still to time out do so before this SYNC of the SMMU's own queue, which reports them.
    this.smmu.mainQueue?.issue(new Int32Array(0), 0, true);
    window.write32(page0 + QUEUE.prod, 0);
    window.write32(page0 + QUEUE.cons, 0);
    this.setQueueBase(vintf, queue, 0, 0);
    window.write64(page0 + VINTF_PAGE_BYTES + QUEUE_PAGE1.consIndxBase, 0, 0);
    const gerror = window.read32(page0 + QUEUE.gerror);
    if (gerror !== window.read32(page0 + QUEUE.gerrorn)) window.write32(page0 + QUEUE.gerrorn, gerror);
  }

  /** Stops an interface and takes its StreamIDs away; its queues are not mapped any more. */
  deinitVintf(vintf: number): void {
    this.enableVintf(vintf, 0, false);
    for (let slot = 0; slot < SID_SLOTS; slot++) this.setSid(vintf, slot, undefined);
  }

  /** What StreamID `sid` is called in the interface; nothing in that slot without one. */
  setSid(vintf: number, slot: number, sid: { readonly virtual: number; readonly physical: number } | undefined): void {
    const at = VINTF + vintf * VINTF_STRIDE + slot * 4;
    const match = (): void => {
      this.window.write32(at + SID_MATCH, sid === undefined ? 0 : (sid.virtual << 1) | ENABLE);
    };
    // A number that matches has its replacement.
    if (sid === undefined) match();
    this.window.write32(at + SID_REPLACE, sid?.physical ?? 0);
    if (sid !== undefined) match();
  }

  /** Interfaces of which a queue is in error. */
  failedVintfs(): number[] {
    const failed: number[] = [];
    for (let vintf = 0; vintf < 2 ** this.vintfsLog2; vintf++) {
      if ((this.window.read32(VINTF_ERR_MAP + 4 * (vintf >> 5)) & (1 << (vintf & 31))) !== 0) failed.push(vintf);
    }
    return failed;
  }

  /** Which of its queues: a bit each. */
  failedQueues(vintf: number): Int32Array {
    const at = VINTF + vintf * VINTF_STRIDE + LVCMDQ_ERR_MAP;
    return Int32Array.from({ length: ERR_MAP_WORDS }, (_, word) => this.window.read32(at + 4 * word));
  }

  #allocAt(vintf: number, queue: number): number {
    return CMDQ_ALLOC + (vintf * 2 ** this.queuesLog2 + queue) * 4;
  }

  /** Writes a CONFIG register and waits for its STATUS. */
  #enable(config: number, statusAt: number, bits: number, on: boolean): number {
    const { window } = this;
    const enable = on ? ENABLE : 0;
    window.write32(config, bits | enable);
    const status = pollUntil(this.smmu, () => (window.read32(statusAt) & ENABLE) === enable);
    if (status < 0) this.smmu.log("err", `CMDQV: CONFIG at 0x${config.toString(16)} is not acknowledged`);
    return status;
  }
}
