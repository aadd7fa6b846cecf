import { ERRNO } from "@smmuv3/platform";
import type { FirmwareNode } from "@smmuv3/platform";
import { CommandQueue, queueBase, VCMDQ_GUEST_OPCODES } from "@smmuv3/arm-smmu-v3-common";
import type { CommandRing, CommandSink } from "@smmuv3/arm-smmu-v3-common";
import type { HwInfo, UserDataOut, Viommu } from "@smmuv3/iommu-core";
import { CMD_BYTES } from "@smmuv3/smmu-v3-defs";
import type { ImplOps } from "./impl.ts";
import type { SmmuDevice } from "./smmu.ts";
import { CmdqvBlock, HYP_OWN, QUEUE } from "./tegra241-block.ts";
import { HW_INFO_TEGRA241, tegra241HwInfo, UserVintfs, VIOMMU_TEGRA241 } from "./tegra241-viommu.ts";

/** BASE has no allocation hint. */
const RA_HI: number = ~(1 << 30);

export interface Tegra241Options {
  /** Module parameter: the block is left alone. */
  readonly disableCmdqv?: boolean;
  /** Module parameter: its queues are set up, and not used. */
  readonly bypassVcmdq?: boolean;
}

/** The node of the block beside an SMMU: by phandle in a device tree, by UID in ACPI. */
export function cmdqvNode(smmu: SmmuDevice): FirmwareNode | undefined {
  const phandle = smmu.node.properties["nvidia,cmdqv"];
  const uid = smmu.node.properties["iort-id"];
  return smmu.kernel.firmware.nodes.find(
    ({ compatible, properties }) =>
      (phandle !== undefined && properties["phandle"] === phandle) ||
      (uid !== undefined && compatible.includes("NVDA200C") && properties["uid"] === uid),
  );
}

/** A queue of the kernel's own interface. */
interface Queue {
  readonly ring: CommandRing;
  /** What commands are inserted through: it knows which ones the queue takes. */
  readonly sink: CommandSink;
  readonly page0: number;
  enabled: boolean;
}

/**
 * `tegra241-cmdqv`: invalidations go to queues of interface 0, one for each CPU, beside the SMMU's own. Where the block is missing or
 * unusable the SMMU works without it.
 */
export class Tegra241Impl implements ImplOps {
  readonly name: string = "tegra241-cmdqv";
  readonly queues: Queue[] = [];
  readonly vintfs: number;
  readonly queuesPerVintf: number;
  /** Whether interface 0 is the hypervisor's; in a virtual machine it never is, and takes fewer commands. */
  hypOwn: boolean = false;
  readonly #block: CmdqvBlock;
  readonly #users: UserVintfs;
  readonly #smmu: SmmuDevice;
  readonly #options: Tegra241Options;
  readonly #irq: number | undefined;
  #enabled = false;

  private constructor(block: CmdqvBlock, irq: number | undefined, options: Tegra241Options) {
    this.#block = block;
    this.#users = new UserVintfs(block);
    this.#smmu = block.smmu;
    this.#irq = irq;
    this.#options = options;
    this.vintfs = 2 ** block.vintfsLog2;
    this.queuesPerVintf = 2 ** block.queuesLog2;
  }

  /** The implementation of an SMMU that has such a block, else `undefined`. */
  static create(smmu: SmmuDevice, options: Tegra241Options = {}): Tegra241Impl | undefined {
    if (options.disableCmdqv === true) return undefined;
    const node = cmdqvNode(smmu);
    if (node === undefined) return undefined;
    const reg = node.reg[0];
    if (reg === undefined) {
      smmu.log("warn", "CMDQV: no register window, going on without it");
      return undefined;
    }
    return new Tegra241Impl(new CmdqvBlock(smmu, reg.base, reg.size), Object.values(node.interrupts)[0], options);
  }

  initStructures(smmu: SmmuDevice): number {
    const log2 = smmu.backend?.features?.cmdqLog2 ?? 0;
    for (let i = 0; i < this.queuesPerVintf; i++) {
      const { pa, log2: size } = smmu.allocQueue(Math.min(log2, smmu.params.cmdqMaxLog2, smmu.params.maxBlockLog2 - Math.log2(CMD_BYTES)), CMD_BYTES);
      if (pa < 0) return pa;
      const page0 = this.#block.page0(0, i);
      const { cpu } = smmu.kernel;
      const ring = new CommandQueue({
        cpu, window: this.#block.window, pa, log2: size, prodOffset: page0 + QUEUE.prod, consOffset: page0 + QUEUE.cons, syncMethod: "none",
      });
      const sink: CommandSink = {
        issue: (words, count, sync) => ring.issue(words, count, sync),
        supports: (opcode) => this.hypOwn || VCMDQ_GUEST_OPCODES.has(opcode),
      };
      this.queues.push({ ring, sink, page0, enabled: false });
    }
    if (this.#irq !== undefined) smmu.kernel.cpu.requestIrq(this.#irq, () => { this.#isr(); });
    return 0;
  }

  deviceReset(): number {
    const block = this.#block;
    let status = block.enable(false) || block.enable(true);
    if (status < 0) return status;
    for (let vintf = 0; vintf < this.vintfs; vintf++) {
      for (let queue = 0; queue < this.queuesPerVintf; queue++) block.mapQueue(vintf, queue, false);
    }
    this.#deinitOwn();
    status = block.enableVintf(0, HYP_OWN, false) || block.enableVintf(0, HYP_OWN, true);
    if (status < 0) return status;
    this.hypOwn = (block.vintfConfig(0) & HYP_OWN) !== 0;
    this.#enabled = true;
    for (const [i, queue] of this.queues.entries()) {
      block.mapQueue(0, i, true);
      const result = this.#initQueue(i, queue);
      if (result < 0) return result;
    }
    return 0;
  }

  deviceDisable(): void {
    if (!this.#enabled) return;
    this.#enabled = false;
    this.#deinitOwn();
    this.#block.enable(false);
  }

  deviceRemove(smmu: SmmuDevice): void {
    if (this.#irq !== undefined) smmu.kernel.cpu.freeIrq(this.#irq);
  }

  getSecondaryCmdq(smmu: SmmuDevice, opcode: number): CommandSink | undefined {
    if (this.#options.bypassVcmdq === true || !this.#enabled || this.queues.length === 0) return undefined;
    const queue = this.queues[(smmu.kernel.cpu.id ?? 0) % this.queues.length]!;
    return queue.enabled && queue.sink.supports!(opcode) ? queue.sink : undefined;
  }

  hwInfo(_smmu: SmmuDevice, type: number): HwInfo | number {
    return type === HW_INFO_TEGRA241 ? tegra241HwInfo(this.#block) : -ERRNO.EOPNOTSUPP;
  }

  getViommuSize(_smmu: SmmuDevice, type: number): number {
    return type === VIOMMU_TEGRA241 ? this.queuesPerVintf : 0;
  }

  vsmmuInit(_smmu: SmmuDevice, viommu: Viommu, data: UserDataOut | undefined): number {
    return this.#users.init(viommu, data);
  }

  #initQueue(index: number, queue: Queue): number {
    const block = this.#block;
    this.#deinitQueue(index, queue);
    const base = new Int32Array(2);
    queueBase(base, queue.ring.pa, queue.ring.log2);
    queue.ring.reset();
    block.setQueueBase(0, index, base[0]!, base[1]! & RA_HI);
    const status = block.enableQueue(0, index, true);
    queue.enabled = status === 0;
    return status;
  }

  #deinitQueue(index: number, queue: Queue): void {
    queue.enabled = false;
    this.#block.deinitQueue(0, index);
  }

  /** Interface 0: its queues, the last first, and the StreamIDs that it replaces. */
  #deinitOwn(): void {
    for (const [i, queue] of [...this.queues.entries()].toReversed()) {
      if (!this.#block.isMapped(0, i)) continue;
      this.#deinitQueue(i, queue);
      this.#block.mapQueue(0, i, false);
    }
    this.#block.deinitVintf(0);
  }

  /** Interfaces of virtual machines report their errors to them. They do not signal again before somebody has acknowledged. */
  #isr(): void {
    const block = this.#block;
    for (const vintf of block.failedVintfs()) {
      if (vintf === 0) this.#skipErrors();
      else this.#users.report(vintf);
    }
  }

  #skipErrors(): void {
    const { window } = this.#block;
    const failed = this.#block.failedQueues(0)[0]!;
    for (const [i, queue] of this.queues.entries()) {
      if ((failed & (1 << i)) === 0) continue;
      const error = queue.ring.skipError();
      this.#smmu.log("err", `CMDQV: VCMDQ ${i}: CMDQ error 0x${error.toString(16)}`);
      window.write32(queue.page0 + QUEUE.gerrorn, window.read32(queue.page0 + QUEUE.gerror));
    }
  }
}
