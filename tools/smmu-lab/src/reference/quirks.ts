/**
 * Deviations of QEMU's SMMUv3 that change what an access does, each a switch of the reference walk. Names are rows of the
 * deviation list that comes with the vectors; what each one means is said in vectors/rules.ts.
 */
export type Quirk =
  | "ap-unpriv"
  | "bypass-ias"
  | "cd-fetch-addr"
  | "cd-ste-validity"
  | "ipa-low-bits"
  | "l2-span"
  | "l2-span-too-big"
  | "nested-rnw"
  | "nested-table-base"
  | "nested-tt-s2bit"
  | "nested-ttb1-unmapped"
  | "priority-addrsize"
  | "priority-aptable"
  | "recinvsid"
  | "s1-16k-l1-block"
  | "s1cdmax"
  | "s2-concat"
  | "s2-iova-beyond-ias"
  | "s2t0sz-vs-ps"
  | "table-addrsize"
  | "tbi1-macro"
  | "unchecked-ste"
  | "warm-tlb";

/** Those that are on. */
export type Quirks = Pick<ReadonlySet<Quirk>, "has">;

/** As the manual has it. */
export const NO_QUIRKS: Quirks = { has: () => false };
