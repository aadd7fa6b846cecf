/** Protection of a mapping: the IOMMU_* values of Linux. */
export const PROT = {
  READ: 1,
  WRITE: 2,
  CACHE: 4,
  NOEXEC: 8,
  MMIO: 0x10,
  PRIV: 0x20,
} as const;

/** `enum dma_data_direction`. */
export const DMA_DIR = {
  bidirectional: 0,
  /** The device reads memory. */
  toDevice: 1,
  /** The device writes memory. */
  fromDevice: 2,
} as const;

const DIR_PROT = [PROT.READ | PROT.WRITE, PROT.READ, PROT.WRITE] as const;

/** {@link PROT} bits that a DMA of direction `dir` needs; `coherent` masters map cacheable. */
export function dirProt(dir: number, coherent: boolean): number {
  const prot = DIR_PROT[dir];
  if (prot === undefined) throw new RangeError(`DMA direction must be 0, 1 or 2, got ${dir}`);
  return coherent ? prot | PROT.CACHE : prot;
}
