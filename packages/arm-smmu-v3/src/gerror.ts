import type { CommandRing } from "@smmuv3/arm-smmu-v3-common";
import { CERROR, maskOf, OFFSET, printCommand, REG } from "@smmuv3/smmu-v3-defs";
import type { SmmuDevice } from "./smmu.ts";

const { GERROR } = REG;
const CMDQ_ERR: number = maskOf(GERROR.CMDQ_ERR);
const SFM_ERR: number = maskOf(GERROR.SFM_ERR);
const ALL: number =
  CMDQ_ERR |
  maskOf(GERROR.EVENTQ_ABT_ERR) |
  maskOf(GERROR.PRIQ_ABT_ERR) |
  maskOf(GERROR.MSI_CMDQ_ABT_ERR) |
  maskOf(GERROR.MSI_EVENTQ_ABT_ERR) |
  maskOf(GERROR.MSI_PRIQ_ABT_ERR) |
  maskOf(GERROR.MSI_GERROR_ABT_ERR) |
  SFM_ERR;

/** Global errors of an SMMU whose registers are the kernel's. */
export class GlobalErrors {
  readonly #smmu: SmmuDevice;
  readonly #cmdq: CommandRing;

  constructor(smmu: SmmuDevice, cmdq: CommandRing) {
    this.#smmu = smmu;
    this.#cmdq = cmdq;
  }

  /**
   * Handles and acknowledges what is active, and returns it: bits of GERROR. `disable` is called when the SMMU has lost its
   * consistency (Service Failure Mode).
   */
  handle(disable: () => void): number {
    const { window } = this.#smmu;
    const gerror = window.read32(OFFSET.GERROR);
    const active = (gerror ^ window.read32(OFFSET.GERRORN)) & ALL;
    if (active === 0) return 0;
    if ((active & SFM_ERR) !== 0) disable();
    if ((active & CMDQ_ERR) !== 0) this.#commandError();
    window.write32(OFFSET.GERRORN, gerror);
    return active;
  }

  /** Where interrupts are masked while somebody waits for the command queue, its errors are looked for. */
  poll(): void {
    const { window } = this.#smmu;
    const acknowledged = window.read32(OFFSET.GERRORN);
    if (((window.read32(OFFSET.GERROR) ^ acknowledged) & CMDQ_ERR) === 0) return;
    this.#commandError();
    window.write32(OFFSET.GERRORN, acknowledged ^ CMDQ_ERR);
  }

  #commandError(): void {
    const error = this.#cmdq.skipError();
    if (error === CERROR.ABT || error === CERROR.ATC_INV_SYNC || error === CERROR.NONE) return;
    this.#smmu.log("err", `CMDQ error 0x${error.toString(16)}, skipping ${printCommand(this.#cmdq.errorCommand)}`);
  }
}
