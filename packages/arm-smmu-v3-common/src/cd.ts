import type { Tcr } from "@smmuv3/io-pgtable-arm-common";
import { CACHEABILITY, CD, L1CD, place, setAddress, setField, SHAREABILITY } from "@smmuv3/smmu-v3-defs";

/** A stage-1 address space. */
export interface Stage1 {
  /** Address of the first table. */
  readonly ttb: number;
  readonly tcr: Tcr;
  readonly mairLo: number;
  readonly mairHi: number;
  readonly asid: number;
  /** The stream stalls on faults. */
  readonly stall: boolean;
  /** Hardware manages access flag and dirty state. */
  readonly dirty: boolean;
}

/**
 * Context Descriptor of a stage-1 address space in the lower half of the VA range. The ASID is private (ASET): broadcast
 * TLB maintenance of CPUs is not relied on. Faults abort and are recorded. `cd`: 16 words.
 */
export function makeS1Cd(cd: Int32Array, s1: Stage1): void {
  const { tcr } = s1;
  cd.fill(0);
  cd[0] =
    place(CD.T0SZ, tcr.tsz) |
    place(CD.TG0, tcr.tg) |
    place(CD.IR0, tcr.irgn) |
    place(CD.OR0, tcr.orgn) |
    place(CD.SH0, tcr.sh) |
    place(CD.EPD1, 1) |
    place(CD.V, 1);
  cd[1] =
    place(CD.IPS, tcr.ips) |
    place(CD.AA64, 1) |
    place(CD.HD, s1.dirty ? 1 : 0) |
    place(CD.HA, s1.dirty ? 1 : 0) |
    place(CD.S, s1.stall ? 1 : 0) |
    place(CD.R, 1) |
    place(CD.A, 1) |
    place(CD.ASET, 1) |
    place(CD.ASID, s1.asid);
  setAddress(cd, 0, CD.TTB0, s1.ttb);
  setField(cd, 0, CD.MAIR0, s1.mairLo);
  setField(cd, 0, CD.MAIR1, s1.mairHi);
}

/** Address space of a process, as a CPU describes it. */
export interface CpuAddressSpace {
  /** Address of the first table (TTBR0_EL1.BADDR). */
  readonly ttb: number;
  /** Bits of a virtual address: 64 - T0SZ. */
  readonly vaBits: number;
  /** CD.TG0 of the CPU's pages. */
  readonly tg: number;
}

/** What CDs of Shared Virtual Addressing take from the CPU, whichever process they are for. */
export interface Sva {
  readonly asid: number;
  /** CD.IPS: ID_AA64MMFR0_EL1.PARange. */
  readonly ips: number;
  /** MAIR_EL1. */
  readonly mairLo: number;
  readonly mairHi: number;
  /** The stream stalls on faults. */
  readonly stall: boolean;
  /** The SMMU has no streams that do not stall. */
  readonly stallForce: boolean;
  /** Hardware manages access flags, dirty state, and access flags of tables (as the CPU does). */
  readonly ha: boolean;
  readonly hd: boolean;
  readonly haft: boolean;
}

/**
 * Context Descriptor of a process's address space. `mm` undefined: the process is going away, its tables are not walked any
 * more, and accesses fault quietly while devices are told to stop. `cd`: 16 words.
 */
export function makeSvaCd(cd: Int32Array, sva: Sva, mm: CpuAddressSpace | undefined): void {
  cd.fill(0);
  cd[0] =
    mm === undefined
      ? place(CD.EPD0, 1)
      : place(CD.T0SZ, 64 - mm.vaBits) |
        place(CD.TG0, mm.tg) |
        place(CD.IR0, CACHEABILITY.writeBackReadAllocate) |
        place(CD.OR0, CACHEABILITY.writeBackReadAllocate) |
        place(CD.SH0, SHAREABILITY.inner);
  cd[0] |= place(CD.EPD1, 1) | place(CD.V, 1);
  const quiet = mm === undefined && !sva.stallForce;
  cd[1] =
    place(CD.IPS, sva.ips) |
    place(CD.AA64, 1) |
    place(CD.HD, sva.hd ? 1 : 0) |
    place(CD.HA, sva.ha ? 1 : 0) |
    place(CD.S, sva.stall && !quiet ? 1 : 0) |
    place(CD.R, quiet ? 0 : 1) |
    place(CD.A, 1) |
    place(CD.ASET, 1) |
    place(CD.ASID, sva.asid);
  if (mm !== undefined) setAddress(cd, 0, CD.TTB0, mm.ttb);
  if (sva.haft) setField(cd, 0, CD.HAFT, 1);
  setField(cd, 0, CD.MAIR0, sva.mairLo);
  setField(cd, 0, CD.MAIR1, sva.mairHi);
}

/** An invalid Context Descriptor. */
export function clearCd(cd: Int32Array): void {
  cd.fill(0);
}

/** Level-1 descriptor of a second-level CD table at `pa`, 4K aligned. `desc`: 2 words. */
export function makeL1Cd(desc: Int32Array, pa: number): void {
  desc.fill(0);
  setField(desc, 0, L1CD.V, 1);
  setAddress(desc, 0, L1CD.L2Ptr, pa);
}
