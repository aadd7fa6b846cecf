import { hi32, lo32, PAGE_SIZE } from "@smmuv3/platform";

/** A command: 16 bytes. */
export const RV_CMD_WORDS = 4;
export const RV_CMD_BYTES = 16;
/** A fault record: 32 bytes. */
export const RV_FAULT_WORDS = 8;
export const RV_FAULT_BYTES = 32;

/** `opcode` in bits [6:0] and `func3` in bits [9:7] of the first word. */
export const RV_CMD = {
  iotinvalVma: 1,
  iotinvalGvma: 0x81,
  iofenceC: 2,
  iodirInvalDdt: 3,
  iodirInvalPdt: 0x83,
} as const;
export const RV_CMD_FUNCTION_MASK = 0x3ff;

/** Operand bits: AV in word 0; PSCV, GV, DV in word 1. IOFENCE.C: AV and WSI in word 0. */
export const RV_OPERAND = { av: 0x400, wsi: 0x800, pscv: 1, gv: 2, dv: 2 } as const;

/** IOTINVAL.GVMA of `gscid`: all of its second-stage entries, or those of the page at `gpa`. */
export function rvIotinvalGvma(out: Int32Array, at: number, gscid: number, gpa?: number): void {
  const address = gpa === undefined ? 0 : (gpa / PAGE_SIZE) * 1024;
  out[at] = RV_CMD.iotinvalGvma | (gpa === undefined ? 0 : RV_OPERAND.av);
  out[at + 1] = RV_OPERAND.gv | (gscid << 12);
  out[at + 2] = lo32(address);
  out[at + 3] = hi32(address);
}

/** IODIR.INVAL_DDT of `did`. */
export function rvIodirInvalDdt(out: Int32Array, at: number, did: number): void {
  out[at] = RV_CMD.iodirInvalDdt;
  out[at + 1] = RV_OPERAND.dv | (did << 8);
  out[at + 2] = 0;
  out[at + 3] = 0;
}

/** IOFENCE.C without any signal: complete when `cqh` has passed it. */
export function rvIofence(out: Int32Array, at: number): void {
  out[at] = RV_CMD.iofenceC;
  out[at + 1] = 0;
  out[at + 2] = 0;
  out[at + 3] = 0;
}

/** CAUSE of a fault record. */
export const RV_CAUSE = {
  readAccessFault: 5,
  writeAccessFault: 7,
  instructionPageFault: 12,
  readPageFault: 13,
  writePageFault: 15,
  instructionGuestPageFault: 20,
  readGuestPageFault: 21,
  writeGuestPageFault: 23,
  allDisallowed: 256,
  ddtAccessFault: 257,
  ddtNotValid: 258,
  ddtMisconfigured: 259,
  typeDisallowed: 260,
} as const;

/** TTYP of untranslated transactions. */
export const RV_TTYP = { execute: 1, read: 2, write: 3 } as const;

/** A fault record, decoded. */
export interface RvFault {
  readonly cause: number;
  readonly ttyp: number;
  readonly did: number;
  /** IOVA. */
  readonly iotval: number;
  /** Guest-physical address of a guest-page fault, bit 0: of an implicit access. */
  readonly iotval2: number;
}

/** Decodes the eight words of a fault record. */
export function decodeRvFault(record: Int32Array): RvFault {
  return {
    cause: record[0]! & 0xfff,
    ttyp: (record[1]! >>> 2) & 63,
    did: record[1]! >>> 8,
    iotval: (record[5]! >>> 0) * 2 ** 32 + (record[4]! >>> 0),
    iotval2: (record[7]! >>> 0) * 2 ** 32 + (record[6]! >>> 0),
  };
}
