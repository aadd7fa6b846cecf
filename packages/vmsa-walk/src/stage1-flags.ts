/** Flags of one half of the address space, `Stage1Walker.configureHalf`. */
export const HALF = {
  /** EPDn: a walk of this half faults. */
  DISABLED: 1,
  /** TBIn: VA[63:56] is ignored. */
  TBI: 2,
  /** HADn: hierarchical permissions of table descriptors are ignored. */
  HAD: 4,
  /** E0PDn: unprivileged accesses to this half fault. VMSAv8-64 with two privilege levels only. */
  E0PD: 8,
  /** Position of SHn[1:0], which is the shareability of leaves with STAGE1.DS. */
  SH_SHIFT: 4,
} as const;

/** Flags of the whole regime, `Stage1Walker.configure`. Bits 1, 2, 3 and 6 to 8 index tables of rights. */
export const STAGE1 = {
  /** Access flag faults are disabled. Ignored with HA. */
  AFFD: 1,
  /** Writable means never executable. */
  WXN: 2,
  /** Privileged data accesses to pages with unprivileged data access fault. */
  PAN: 4,
  /** A regime with one privilege level (EL2, EL3): AP[1], PXN and global pages do not exist. */
  SINGLE: 8,
  /** Every address is an input of stage 2. */
  NESTED: 16,
  /** Table walks to Device memory of stage 2 fault (STE.S2PTW). */
  PTW: 32,
  /** PAN covers pages that are only executable unprivileged. */
  EPAN: 64,
  /** Unprivileged writable means never executable privileged. LPAE only, always so otherwise. */
  UWXN: 128,
  /** VMSAv8-32 LPAE tables: 32-bit inputs, TnSZ[2:0], 4K, outputs of 40 bits; IPS, TBI and hardware updates are ignored. */
  LPAE: 256,
  /** Hardware sets access flags (CD.HA). */
  HA: 512,
  /** Hardware marks writable-clean pages dirty (CD.HD); needs HA. */
  HD: 1024,
  /** Hardware sets access flags of table descriptors (CD.HAFT); needs HA. */
  HAFT: 2048,
  /** Big-endian tables (CD.ENDI). */
  BIG_ENDIAN: 4096,
  /** 52-bit addresses with 4K and 16K (CD.DS). */
  DS: 8192,
  /** TnSZ above 39 (SMMU_IDR3.STT). */
  STT: 16384,
  /** Physical addresses have 52 bits (OAS); implied by IPS = 6. */
  LPA: 32768,
} as const;

/** What a stage-2 fault was met on, with the encoding of CLASS in event records. */
export const FAULT_CLASS = { CD: 0, TT: 1, IN: 2 } as const;
