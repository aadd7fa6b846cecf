import { alignUp, ERRNO, PAGE_SIZE } from "@smmuv3/platform";
import type { FirmwareNode } from "@smmuv3/platform";
import { probeFeatures, strtabGeometry } from "@smmuv3/arm-smmu-v3-common";
import type { Device, Driver, KernelContext } from "@smmuv3/driver-core";
import { HANDOFF_FLAG, hypercall, writeHandoff } from "@smmuv3/pkvm-abi";
import { CMD_BYTES, REGISTER_SPACE } from "@smmuv3/smmu-v3-defs";

/** A physical SMMU that this driver holds. */
export interface ClaimedSmmu {
  readonly dev: Device;
  readonly node: FirmwareNode;
  /** EL2's number of it, or -1 while EL2 does not have it. */
  iommu: number;
}

export interface SmmuHandoffOptions {
  /** Name of the platform driver. */
  readonly name: string;
  /** EL2 has the SMMU and the host is deprivileged. */
  readonly ready: (smmu: ClaimedSmmu) => void;
}

/** Entries of EL2's command queue: 64 KiB. */
const CMDQ_MAX_LOG2 = 12;

/** Memory that goes to EL2 with one SMMU. */
interface DonatedMemory {
  readonly handoffPa: number;
  readonly cmdqBase: number;
  readonly cmdqLog2: number;
  readonly strtabBase: number;
  readonly strtabBytes: number;
}

/**
 * The untrusted half that keeps the stock driver away from the hardware: it binds every `arm,smmu-v3` first, and gives each to
 * EL2 while the host is trusted. It cannot register with the IOMMU core: its package may not import it.
 */
export class SmmuHandoff {
  readonly smmus: ClaimedSmmu[] = [];
  readonly #ctx: KernelContext;
  readonly #options: SmmuHandoffOptions;
  readonly #driver: Driver;
  readonly #memory = new Map<ClaimedSmmu, DonatedMemory>();

  constructor(ctx: KernelContext, options: SmmuHandoffOptions) {
    this.#ctx = ctx;
    this.#options = options;
    this.#driver = {
      name: options.name,
      bus: "platform",
      ids: ["arm,smmu-v3"],
      probe: (dev) => this.#probe(dev),
      remove: (dev) => {
        this.#remove(dev);
      },
    };
  }

  /** Registers the platform driver, before any driver that would use the SMMU. */
  register(): number {
    return this.#ctx.core.registerDriver(this.#driver);
  }

  /** Gives every claimed SMMU to EL2. 0, or the first negative errno; SMMUs after it are not handed over. */
  handoff(): number {
    for (const smmu of this.smmus) {
      const status = this.#handoffOne(smmu);
      if (status < 0) return status;
    }
    return 0;
  }

  /** Reports the SMMUs that EL2 has. */
  ready(): void {
    for (const smmu of this.smmus) if (smmu.iommu >= 0) this.#options.ready(smmu);
  }

  /** Unbinds, so that the next driver that matches can have the hardware. */
  release(): void {
    this.#ctx.core.unregisterDriver(this.#driver);
  }

  #probe(dev: Device): number {
    const { node } = dev;
    const window = node?.reg[0];
    if (node === undefined || window === undefined) return -ERRNO.EINVAL;
    if (window.size < REGISTER_SPACE || window.base % PAGE_SIZE !== 0) return -ERRNO.EINVAL;
    this.smmus.push({ dev, node, iommu: -1 });
    return 0;
  }

  #remove(dev: Device): void {
    const at = this.smmus.findIndex((smmu) => smmu.dev === dev);
    const [smmu] = at < 0 ? [] : this.smmus.splice(at, 1);
    const memory = smmu === undefined ? undefined : this.#memory.get(smmu);
    if (smmu === undefined || memory === undefined || smmu.iommu >= 0) return;
    this.#free(memory);
    this.#memory.delete(smmu);
  }

  #handoffOne(smmu: ClaimedSmmu): number {
    const { cpu, memory } = this.#ctx;
    const { base, size } = smmu.node.reg[0]!;
    const donated = this.#allocate(base, size);
    if (typeof donated === "number") return donated;
    this.#memory.set(smmu, donated);
    const { handoffPa, ...queues } = donated;
    const coherent = smmu.node.properties["dma-coherent"] === true;
    writeHandoff(memory, handoffPa, {
      mmioBase: base,
      mmioSize: size,
      ...queues,
      flags: coherent ? HANDOFF_FLAG.coherent : 0,
    });
    const iommu = hypercall(cpu, "__pkvm_iommu_handoff", handoffPa);
    if (iommu < 0) return iommu;
    smmu.iommu = iommu;
    return 0;
  }

  /** What EL2 needs, sized by the ID registers. */
  #allocate(base: number, size: number): DonatedMemory | number {
    const { cpu, pages } = this.#ctx;
    const features = probeFeatures(cpu.ioremap(base, size));
    if (typeof features === "number") return features;
    const cmdqLog2 = Math.min(features.cmdqLog2, CMDQ_MAX_LOG2);
    const strtabBytes = alignUp(strtabGeometry(features).bytes, PAGE_SIZE);
    const handoffPa = pages.alloc(PAGE_SIZE);
    const cmdqBase = pages.alloc(CMD_BYTES << cmdqLog2);
    const strtabBase = pages.alloc(strtabBytes);
    const donated = { handoffPa, cmdqBase, cmdqLog2, strtabBase, strtabBytes };
    if (handoffPa >= 0 && cmdqBase >= 0 && strtabBase >= 0) return donated;
    this.#free(donated);
    return -ERRNO.ENOMEM;
  }

  #free(memory: DonatedMemory): void {
    const { pages } = this.#ctx;
    if (memory.handoffPa >= 0) pages.free(memory.handoffPa, PAGE_SIZE);
    if (memory.cmdqBase >= 0) pages.free(memory.cmdqBase, CMD_BYTES << memory.cmdqLog2);
    if (memory.strtabBase >= 0) pages.free(memory.strtabBase, memory.strtabBytes);
  }
}
