import { allocIoPgtable, IO_PGTABLE_QUIRK } from "@smmuv3/io-pgtable-arm-common";
import type { IoPgtable, IommuFlushOps, Vtcr } from "@smmuv3/io-pgtable-arm-common";
import { ERRNO, isErrno } from "@smmuv3/platform";
import type { Firmware, HypCpu, Stage2Regime } from "@smmuv3/platform";

import type { HypPool, PoolPurpose } from "./pool.ts";

/** Address sizes that VTCR_EL2.PS and STE.S2PS can say. */
const ADDRESS_SIZES: readonly number[] = [32, 36, 40, 42, 44, 48];
/** Leaf sizes of a 4K granule. */
const PAGE_SIZES = 0x4020_1000;

/** Invalidation of tables that issue none by themselves: their owner does it before anybody may rely on it. */
const NO_FLUSH: IommuFlushOps = { flushAll: () => {}, flushWalk: () => {}, addPage: () => {} };

/** Bits of a physical address that reach everything `firmware` describes. */
export function addressBits(firmware: Firmware): number {
  const windows = [firmware.memory, ...firmware.doorbells, ...firmware.nodes.flatMap((node) => node.reg)];
  const end = Math.max(...windows.map(({ base, size }) => base + size));
  return ADDRESS_SIZES.find((bits) => end <= 2 ** bits) ?? 48;
}

/** VTCR_EL2 bits [18:0], which STE words have as well. */
export function vtcrBits(vtcr: Vtcr): number {
  const { tsz, sl, irgn, orgn, sh, tg, ps } = vtcr;
  return tsz | (sl << 6) | (irgn << 8) | (orgn << 10) | (sh << 12) | (tg << 14) | (ps << 16);
}

/** The regime in which `table` translates for `vmid`. */
export function regimeOf(table: IoPgtable, vmid: number): Stage2Regime {
  return { ttb: table.vttbr, vtcr: vtcrBits(table.vtcr), vmid };
}

/**
 * Empty stage-2 tables of `bits` address bits, with memory from `pool`, or -ENOMEM. Mapping what is mapped gives -EEXIST and
 * unmapping a hole 0 bytes, both without a warning. `tlb` matters for those that free tables while they are walked.
 */
export function newStage2(
  cpu: HypCpu,
  pool: HypPool,
  purpose: PoolPurpose,
  bits: number,
  tlb: IommuFlushOps = NO_FLUSH,
): IoPgtable | number {
  try {
    return allocIoPgtable("64_S2", {
      memory: cpu.memory,
      pgsizeBitmap: PAGE_SIZES,
      ias: bits,
      oas: bits,
      coherentWalk: true,
      quirks: IO_PGTABLE_QUIRK.NO_WARN,
      tlb,
      alloc: (bytes) => pool.alloc(bytes, purpose),
      free: (pa, bytes) => {
        pool.free(pa, bytes, purpose);
      },
    });
  } catch (error) {
    if (isErrno(error)) return -ERRNO.ENOMEM;
    throw error;
  }
}
