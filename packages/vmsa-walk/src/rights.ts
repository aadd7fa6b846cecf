import { PERM, WRITES } from "./status.ts";

/** What of a stage-1 regime decides rights; bits of an index into {@link STAGE1_RIGHTS}. */
const RIGHTS = { WXN: 1, PAN: 2, SINGLE: 4, EPAN: 8, UWXN: 16, LPAE: 32 } as const;

/** Data rights of AP[2:1]. */
const DATA: readonly number[] = [
  PERM.PRIV_READ | PERM.PRIV_WRITE,
  PERM.READ | PERM.WRITE | PERM.PRIV_READ | PERM.PRIV_WRITE,
  PERM.PRIV_READ,
  PERM.READ | PERM.PRIV_READ,
];

/**
 * Rights by the index `AP[2:1] | PXN << 2 | UXN << 3` (Arm ARM D8.4.1; VMSAv8-32: G5.6). What is writable unprivileged is never
 * executable privileged in VMSAv8-64; in VMSAv8-32 UWXN asks for that, and execution needs the right to read.
 */
function stage1Rights(regime: number): Uint8Array {
  const has = (flag: number): boolean => (regime & flag) !== 0;
  return Uint8Array.from({ length: 16 }, (_, index) => {
    const uxn = (index & 8) !== 0;
    const lpae = has(RIGHTS.LPAE);
    if (has(RIGHTS.SINGLE)) {
      // One privilege level: AP[1] is taken as 1, bit 54 is XN, and what holds for one privilege holds for both.
      let rights = DATA[(index & 2) | 1]!;
      if (!uxn && !(has(RIGHTS.WXN) && (rights & WRITES) !== 0)) rights |= PERM.EXECUTE | PERM.PRIV_EXECUTE;
      return rights;
    }
    let rights = DATA[index & 3]!;
    const userWritable = (rights & PERM.WRITE) !== 0;
    const execute = !uxn && !(has(RIGHTS.WXN) && userWritable) && (!lpae || (rights & PERM.READ) !== 0);
    const pxn = (index & 4) !== 0 || (lpae && uxn) || (userWritable && (!lpae || has(RIGHTS.UWXN)));
    const privExecute = !pxn && !(has(RIGHTS.WXN) && (rights & PERM.PRIV_WRITE) !== 0);
    if (execute) rights |= PERM.EXECUTE;
    if (privExecute) rights |= PERM.PRIV_EXECUTE;
    const fenced = PERM.READ | (has(RIGHTS.EPAN) ? PERM.EXECUTE : 0);
    if (has(RIGHTS.PAN) && (rights & fenced) !== 0) rights &= ~(PERM.PRIV_READ | PERM.PRIV_WRITE);
    return rights;
  });
}

/** Tables of {@link stage1Rights} by {@link RIGHTS} flags. */
export const STAGE1_RIGHTS: readonly Uint8Array[] = Array.from({ length: 64 }, (_, regime) => stage1Rights(regime));

/** Adds APTable, PXNTable and UXNTable = bits [62:59] of the table descriptors passed to an index of {@link STAGE1_RIGHTS}. */
export function inherit(index: number, tableHi: number): number {
  let out = index | ((tableHi >>> 25) & 12);
  if ((tableHi & 0x2000_0000) !== 0) out &= ~1;
  if ((tableHi & 0x4000_0000) !== 0) out |= 2;
  return out;
}

/** Execute rights of XN[1:0] with FEAT_XNX; without it XN[0] is taken as 0. */
const EXECUTE_XNX: readonly number[] = [
  PERM.EXECUTE | PERM.PRIV_EXECUTE,
  PERM.EXECUTE,
  0,
  PERM.PRIV_EXECUTE,
];

/** Rights by the index `S2AP[1:0] | XN[1:0] << 2` (Arm ARM D8.4.2). VMSAv8-32 needs the right to read to execute. */
function stage2Rights(xnx: boolean, lpae: boolean): Uint8Array {
  return Uint8Array.from({ length: 16 }, (_, index) => {
    let rights = 0;
    if ((index & 1) !== 0) rights |= PERM.READ | PERM.PRIV_READ;
    if ((index & 2) !== 0) rights |= WRITES;
    if (!lpae || (index & 1) !== 0) rights |= EXECUTE_XNX[(index >> 2) & (xnx ? 3 : 2)]!;
    return rights;
  });
}

/** Tables of {@link stage2Rights} by `xnx | lpae << 1`. */
export const STAGE2_RIGHTS: readonly Uint8Array[] = [
  stage2Rights(false, false),
  stage2Rights(true, false),
  stage2Rights(false, true),
  stage2Rights(true, true),
];
