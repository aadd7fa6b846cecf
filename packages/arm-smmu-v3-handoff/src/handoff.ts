import { ERRNO, errnoName, PAGE_SIZE } from "@smmuv3/platform";
import type { FirmwareNode } from "@smmuv3/platform";
import { probeFeatures } from "@smmuv3/arm-smmu-v3-common";
import type { SmmuFeatures } from "@smmuv3/arm-smmu-v3-common";
import type { Device, Driver, KernelContext } from "@smmuv3/driver-core";
import { REGISTER_SPACE } from "@smmuv3/smmu-v3-defs";
import { giveToHyp } from "./offer.ts";

/** What translations by an SMMU can say: all that a driver which knows no hardware needs of it. */
export interface TranslationLimits {
  /** Sum of the page sizes, in bytes. */
  readonly pgsizeBitmap: number;
  /** Input address bits of each stage; 0: there is none. */
  readonly s1Bits: number;
  readonly s2Bits: number;
}

/** Input address bits of every CPU, which EL2 gives no more than. */
const MAX_BITS = 48;

/** Leaf sizes of EL2's tables, which have 4K pages. */
const PAGE_SIZES = 0x4020_1000;

/** Limits of hardware with `features`. */
export function translationLimits({ pgsizeBitmap, s1, s2, vaBits, oas }: SmmuFeatures): TranslationLimits {
  return {
    pgsizeBitmap: pgsizeBitmap & PAGE_SIZES,
    s1Bits: s1 ? Math.min(vaBits, MAX_BITS) : 0,
    s2Bits: s2 ? Math.min(oas, MAX_BITS) : 0,
  };
}

/** Of an SMMU that EL2 does not have. */
const NO_LIMITS: TranslationLimits = { pgsizeBitmap: 0, s1Bits: 0, s2Bits: 0 };

/** A physical SMMU that this driver holds. */
export interface ClaimedSmmu {
  readonly dev: Device;
  readonly node: FirmwareNode;
  /** EL2's number of it, or -1 while EL2 does not have it. */
  readonly iommu: number;
  /** log2 of the events that the hardware's queue may have; 0 while EL2 does not have it. */
  readonly evtqLog2: number;
  /** Nothing while EL2 does not have it. */
  readonly limits: TranslationLimits;
}

export interface SmmuHandoffOptions {
  /** Name of the platform driver. */
  readonly name: string;
  /** EL2 has the SMMU and the host is deprivileged: make what drivers bind to. */
  readonly ready: (smmu: ClaimedSmmu) => void;
  /** The driver is unbound from an SMMU: undo {@link ready}. EL2 keeps it. */
  readonly gone?: (smmu: ClaimedSmmu) => void;
}

type Claim = { -readonly [Key in keyof ClaimedSmmu]: ClaimedSmmu[Key] };

/**
 * The untrusted half that keeps the stock driver away from the hardware: it binds every `arm,smmu-v3` first, and gives each to
 * EL2 while the host is trusted. It cannot register with the IOMMU core: its package may not import it.
 */
export class SmmuHandoff {
  readonly #ctx: KernelContext;
  readonly #options: SmmuHandoffOptions;
  readonly #driver: Driver;
  readonly #claims: Claim[] = [];

  constructor(ctx: KernelContext, options: SmmuHandoffOptions) {
    this.#ctx = ctx;
    this.#options = options;
    this.#driver = {
      name: options.name,
      bus: "platform",
      ids: ["arm,smmu-v3"],
      probe: (dev) => this.#probe(dev),
      remove: (dev) => {
        const claim = dev.drvdata as Claim;
        this.#claims.splice(this.#claims.indexOf(claim), 1);
        options.gone?.(claim);
      },
    };
  }

  /** SMMUs that this driver is bound to, in order of binding. */
  get smmus(): readonly ClaimedSmmu[] {
    return this.#claims;
  }

  /** SMMUs that EL2 has accepted. */
  get accepted(): number {
    return this.#claims.filter(({ iommu }) => iommu >= 0).length;
  }

  /** Registers the platform driver, before any driver that would use the SMMU. */
  register(): void {
    this.#ctx.core.registerDriver(this.#driver);
  }

  /**
   * Gives every claimed SMMU to EL2, which is up while the host is still trusted.
   * @returns 0, or the first negative errno: -EINVAL (a node without a whole register space), -ENXIO (hardware that no driver
   * can use), -ENOMEM, or EL2's; SMMUs from that one on stay the host's
   */
  handoff(): number {
    for (const claim of this.#claims) {
      const status = this.#handoffOne(claim);
      if (status < 0) return status;
    }
    return 0;
  }

  /** Reports the SMMUs that EL2 has. */
  ready(): void {
    for (const claim of this.#claims) if (claim.iommu >= 0) this.#options.ready(claim);
  }

  /** Unbinds, so that the next driver that matches can have the hardware. What EL2 was given stays with it. */
  release(): void {
    this.#ctx.core.unregisterDriver(this.#driver);
  }

  /** Claims whatever says that it is an SMMU: one that EL2 cannot have must fail the hand-over, not slip past it. */
  #probe(dev: Device): number {
    if (dev.node === undefined) return -ERRNO.EINVAL;
    const claim: Claim = { dev, node: dev.node, iommu: -1, evtqLog2: 0, limits: NO_LIMITS };
    dev.drvdata = claim;
    this.#claims.push(claim);
    return 0;
  }

  #handoffOne(claim: Claim): number {
    const reg = claim.node.reg[0];
    if (reg === undefined || reg.size < REGISTER_SPACE || reg.base % PAGE_SIZE !== 0) return -ERRNO.EINVAL;
    const features = probeFeatures(this.#ctx.cpu.ioremap(reg.base, reg.size));
    if ("error" in features) {
      this.#log(claim, features.reason);
      return features.error;
    }
    const coherent = claim.node.properties["dma-coherent"] === true;
    const iommu = giveToHyp(this.#ctx, { reg, features, coherent });
    if (iommu < 0) {
      this.#log(claim, `handing it to EL2: ${errnoName(iommu)}`);
      return iommu;
    }
    claim.iommu = iommu;
    claim.evtqLog2 = features.evtqLog2;
    claim.limits = translationLimits(features);
    return 0;
  }

  #log(claim: Claim, text: string): void {
    this.#ctx.log.err(`${this.#options.name} ${claim.node.name}: ${text}`);
  }
}
