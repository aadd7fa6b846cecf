import { IO_PGTABLE_QUIRK } from "./config.ts";
import { DESC, DESC_TYPE } from "./descriptor.ts";
import type { TableFormat } from "./format.ts";
import { attributeIndex, executeNever, memoryAttribute, shareability, stage1Access, stage2Access } from "./format.ts";

/** No limit of the format: what the granule offers is used. */
const ANY = 64;
const ALL_SIZES = 2 ** 52 - 1;

/** VMSAv8-64, stage 1. */
export const ARM_64_LPAE_S1: TableFormat = {
  name: "64_S1",
  stage: 1,
  quirks:
    IO_PGTABLE_QUIRK.ARM_NS |
    IO_PGTABLE_QUIRK.ARM_TTBR1 |
    IO_PGTABLE_QUIRK.ARM_OUTER_WBWA |
    IO_PGTABLE_QUIRK.ARM_HD |
    IO_PGTABLE_QUIRK.NO_WARN,
  sizes: ALL_SIZES,
  maxIas: ANY,
  maxOas: ANY,
  pageType: DESC_TYPE.PAGE,
  fourLevels: false,
  dirty: true,
  attributes: (prot, quirks) =>
    DESC.AF |
    DESC.S1_NG |
    ((quirks & IO_PGTABLE_QUIRK.ARM_NS) !== 0 ? DESC.S1_NS : 0) |
    attributeIndex(prot) |
    stage1Access(prot, quirks) |
    shareability(prot) |
    executeNever(prot),
};

/** VMSAv8-64, stage 2. */
export const ARM_64_LPAE_S2: TableFormat = {
  name: "64_S2",
  stage: 2,
  quirks: IO_PGTABLE_QUIRK.ARM_S2FWB | IO_PGTABLE_QUIRK.NO_WARN,
  sizes: ALL_SIZES,
  maxIas: ANY,
  maxOas: ANY,
  pageType: DESC_TYPE.PAGE,
  fourLevels: false,
  dirty: false,
  attributes: (prot, quirks) =>
    DESC.AF | memoryAttribute(prot, quirks) | stage2Access(prot) | shareability(prot) | executeNever(prot),
};

/** What the allocators build: the formats of VMSAv8-64 also go by name. */
export type IoPgtableFormat = "64_S1" | "64_S2" | TableFormat;

const BY_NAME: Readonly<Record<"64_S1" | "64_S2", TableFormat>> = { "64_S1": ARM_64_LPAE_S1, "64_S2": ARM_64_LPAE_S2 };

export function formatOf(fmt: IoPgtableFormat): TableFormat {
  return typeof fmt === "string" ? BY_NAME[fmt] : fmt;
}
