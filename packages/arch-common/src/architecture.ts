/** What an architecture is, for a report. It says who runs where; what it achieves is measured. */
export interface Architecture {
  readonly name: string;
  /** One line. */
  readonly title: string;
  /** Posted or merged as described; false: reconstructed from a proposal. */
  readonly posted: boolean;
  /** Packages that run at EL1, besides the kernel's core. */
  readonly el1: readonly string[];
  /** Packages that run at EL2; none without a hypervisor. */
  readonly el2: readonly string[];
}
