import { ERRNO, errnoName, PAGE_SIZE } from "@smmuv3/platform";
import type { FirmwareNode } from "@smmuv3/platform";
import type { Device, Driver, KernelContext } from "@smmuv3/driver-core";
import { hypercall, writeHandoff } from "@smmuv3/pkvm-abi";
import { RV_CMD_BYTES, RV_REGISTER_SPACE } from "@smmuv3/riscv-iommu-defs";
import type { RvFault } from "@smmuv3/riscv-iommu-defs";

import { FaultChannel } from "./fault-channel.ts";

/** A RISC-V IOMMU that EL2 has. */
export interface HypIommu {
  readonly node: FirmwareNode;
  /** EL2's number of it. */
  readonly iommu: number;
  /** Page sizes (their sum, in bytes) and input address bits of each stage that EL2 offers domains of. */
  readonly limits: { readonly pgsizeBitmap: number; readonly s1Bits: number; readonly s2Bits: number };
}

export interface RiscvIommuKvmOptions {
  /** Driver of the faux device that stands for an IOMMU at EL2; its package is none of ours. */
  readonly fauxDriver: (iommu: HypIommu) => Driver;
  /** Called for every fault that the hardware reports. */
  readonly onFault: (iommu: HypIommu, fault: RvFault) => void;
}

/** Sv48x4 tables; EL2 keeps no first stage. */
const LIMITS: HypIommu["limits"] = { pgsizeBitmap: 0x4020_1000, s1Bits: 0, s2Bits: 50 };
/** log2 of EL2's commands: one page. */
const CMDQ_LOG2 = 8;

interface Claim extends HypIommu {
  readonly dev: Device;
  iommu: number;
}

/**
 * The untrusted half of a RISC-V IOMMU in the three-driver design: binds the physical IOMMUs, gives them to EL2 while the host is
 * trusted, makes a faux device for each that EL2 accepted, drains their fault queues. It cannot register with the IOMMU core.
 */
export class RiscvIommuKvm {
  readonly #ctx: KernelContext;
  readonly #options: RiscvIommuKvmOptions;
  readonly #driver: Driver;
  readonly #claims: Claim[] = [];

  constructor(ctx: KernelContext, options: RiscvIommuKvmOptions) {
    this.#ctx = ctx;
    this.#options = options;
    this.#driver = {
      name: "riscv-iommu-kvm",
      bus: "platform",
      ids: ["riscv,iommu"],
      probe: (dev) => {
        if (dev.node === undefined) return -ERRNO.EINVAL;
        this.#claims.push({ dev, node: dev.node, iommu: -1, limits: LIMITS });
        return 0;
      },
      remove: (dev) => {
        this.#claims.splice(this.#claims.findIndex((claim) => claim.dev === dev), 1);
      },
    };
  }

  /** IOMMUs that EL2 has accepted. */
  get accepted(): number {
    return this.#claims.filter(({ iommu }) => iommu >= 0).length;
  }

  register(): void {
    this.#ctx.core.registerDriver(this.#driver);
  }

  /** Gives every claimed IOMMU to EL2. 0, or the first negative errno: -EINVAL, -ENOMEM, or EL2's. */
  handoff(): number {
    for (const claim of this.#claims) {
      claim.iommu = this.#give(claim);
      if (claim.iommu < 0) {
        this.#ctx.log.err(`riscv-iommu-kvm ${claim.node.name}: handing it to EL2: ${errnoName(claim.iommu)}`);
        return claim.iommu;
      }
    }
    return 0;
  }

  /** The host is deprivileged: faux devices and fault queues. */
  ready(): void {
    const { core, log } = this.#ctx;
    for (const claim of this.#claims) {
      const { dev, node, iommu } = claim;
      if (iommu < 0) continue;
      const channel = new FaultChannel(this.#ctx, iommu, (fault) => {
        this.#options.onFault(claim, fault);
      });
      const status = channel.start(node.interrupts["fltq"]);
      if (status < 0) log.warn(`riscv-iommu-kvm ${node.name}: no fault queue: ${errnoName(status)}`);
      core.addFaux({ name: `pkvm-iommu.${iommu}`, driver: this.#options.fauxDriver(claim), parent: dev });
    }
  }

  /** Unbinds; what EL2 was given stays with it. */
  release(): void {
    this.#ctx.core.unregisterDriver(this.#driver);
  }

  #give({ node }: Claim): number {
    const { cpu, memory, pages } = this.#ctx;
    const reg = node.reg[0];
    if (reg === undefined || reg.size < RV_REGISTER_SPACE || reg.base % PAGE_SIZE !== 0) return -ERRNO.EINVAL;
    const sizes = [PAGE_SIZE, RV_CMD_BYTES * 2 ** CMDQ_LOG2, PAGE_SIZE];
    const blocks = sizes.map((bytes) => pages.alloc(bytes));
    const [page, cmdqBase, strtabBase] = blocks as [number, number, number];
    let status = Math.min(0, ...blocks);
    if (status === 0) {
      const place = { mmioBase: reg.base, mmioSize: reg.size, cmdqBase, strtabBase };
      writeHandoff(memory, page, { ...place, cmdqLog2: CMDQ_LOG2, strtabBytes: PAGE_SIZE, flags: 0 });
      status = hypercall(cpu, "__pkvm_iommu_handoff", page);
    }
    if (status < 0) {
      blocks.forEach((pa, i) => {
        if (pa >= 0) pages.free(pa, sizes[i]!);
      });
    }
    return status;
  }
}
