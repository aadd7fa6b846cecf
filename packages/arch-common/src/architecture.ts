/** What an architecture is, for a report. It says who runs where; what it achieves is measured. */
export interface Architecture {
  readonly name: string;
  /** One line. */
  readonly title: string;
  /** Posted or merged as described; false: reconstructed from a proposal. */
  readonly posted: boolean;
  /** Driver packages at EL1, besides the core and libraries of the kernel. */
  readonly el1: readonly string[];
  /** Hypervisor packages at EL2, besides shared libraries; none without a hypervisor. */
  readonly el2: readonly string[];
}
