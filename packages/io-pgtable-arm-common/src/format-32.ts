import type { TableFormat } from "./format.ts";
import { ARM_64_LPAE_S1, ARM_64_LPAE_S2 } from "./format-64.ts";

/** 4K, 2M, 1G. */
const SIZES_4K = 0x4020_1000;

/** The LPAE of VMSAv8-32, stage 1: IOVAs of 32 bits. Its dirty state is not read. */
export const ARM_32_LPAE_S1: TableFormat = {
  ...ARM_64_LPAE_S1,
  name: "32_S1",
  sizes: SIZES_4K,
  maxIas: 32,
  maxOas: 40,
  dirty: false,
};

/** The LPAE of VMSAv8-32, stage 2: addresses of 40 bits. */
export const ARM_32_LPAE_S2: TableFormat = {
  ...ARM_64_LPAE_S2,
  name: "32_S2",
  sizes: SIZES_4K,
  maxIas: 40,
  maxOas: 40,
};
