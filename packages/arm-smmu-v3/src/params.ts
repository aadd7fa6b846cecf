import type { CpuFeatures, InvsAlloc } from "@smmuv3/arm-smmu-v3-common";

/** What the driver has to know of the CPUs that its kernel runs on. */
export interface KernelCpu extends CpuFeatures {
  /** The kernel runs at EL2 (VHE): so do its streams, where the SMMU has that. */
  readonly vhe: boolean;
  /** MAIR_EL1. */
  readonly mairLo: number;
  readonly mairHi: number;
}

/** The kernel that the driver is part of, and its module parameters. */
export interface SmmuParams {
  readonly cpu: KernelCpu;
  /** The kernel that writes the dump of one that has crashed: devices may still do DMA, and nobody wants to hear of it. */
  readonly kdump: boolean;
  /** SYNCs are not polled in memory. */
  readonly disableMsipolling: boolean;
  /** log2 of the entries of the largest command queue. */
  readonly cmdqMaxLog2: number;
  /** log2 of the bytes of the largest block that the kernel allocates: 4 MiB unless it is built otherwise. */
  readonly maxBlockLog2: number;
  /** Many CPUs fill the command queue: the one without locks. */
  readonly sharedQueue: boolean;
  /** Memory of invalidation arrays. */
  readonly allocInvs: InvsAlloc;
  /** As the kernel does, which is a flaw: fields of guests' invalidations are not checked, and some are counted but not sent. */
  readonly laxGuestInvalidations: boolean;
}

/** What of {@link SmmuParams} is not as usual. */
export interface SmmuParamOptions extends Partial<Omit<SmmuParams, "cpu">> {
  /** Default: 4K pages, 48-bit addresses, 16-bit ASIDs, EL1. */
  readonly cpu?: Partial<KernelCpu>;
}

const USUAL: KernelCpu = {
  pageSize: 4096,
  vaBits: 48,
  paBits: 40,
  asidBits: 16,
  bbml2: false,
  haft: false,
  vhe: false,
  mairLo: 0xf404_ff44 | 0,
  mairHi: 0,
};

export function smmuParams(options: SmmuParamOptions = {}): SmmuParams {
  return {
    kdump: false,
    disableMsipolling: false,
    cmdqMaxLog2: Infinity,
    maxBlockLog2: 22,
    sharedQueue: false,
    allocInvs: (words) => new Int32Array(words),
    laxGuestInvalidations: false,
    ...options,
    cpu: { ...USUAL, ...options.cpu },
  };
}
