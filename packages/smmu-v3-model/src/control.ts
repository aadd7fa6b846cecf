import { maskOf, OFFSET, REG, S_OFFSET } from "@smmuv3/smmu-v3-defs";
import type { SmmuPolicy } from "./policy.ts";
import type { RegisterFile } from "./registers.ts";

const UPDATE = maskOf(REG.GBPA.UPDATE);

/** Registers with a request and an acknowledgement (6.3.9, 6.3.16). */
const ACKNOWLEDGED: readonly (readonly [request: number, acknowledge: number])[] = [
  [OFFSET.CR0, OFFSET.CR0ACK],
  [OFFSET.IRQ_CTRL, OFFSET.IRQ_CTRLACK],
  [S_OFFSET.S_CR0, S_OFFSET.S_CR0ACK],
  [S_OFFSET.S_IRQ_CTRL, S_OFFSET.S_IRQ_CTRLACK],
];
/** Registers with an UPDATE bit (6.3.14.1). */
const UPDATED: readonly number[] = [
  OFFSET.GBPA,
  OFFSET.GMPAM,
  OFFSET.GBPMPAM,
  S_OFFSET.S_GBPA,
  S_OFFSET.S_GMPAM,
  S_OFFSET.S_GBPMPAM,
];

/** Told which bits of CR0ACK are about to change, and their new value. */
export type UpdateHook = (changed: number, cr0: number) => void;

/** What software has requested and the SMMU has not yet put into effect (IHI 0070 6.3.9, 6.3.14.1). */
export class Updates {
  readonly #file: RegisterFile;
  readonly #policy: SmmuPolicy;
  readonly #changing: UpdateHook;
  /** Steps until the requests take effect; 0 where there are none. */
  #left = 0;

  constructor(file: RegisterFile, policy: SmmuPolicy, changing: UpdateHook) {
    this.#file = file;
    this.#policy = policy;
    this.#changing = changing;
  }

  /** Steps that the present requests still have to wait, for saving. */
  get left(): number {
    return this.#left;
  }

  set left(steps: number) {
    this.#left = steps;
  }

  /** Called for each write: true where the register takes effect later, from now on after the latency of the policy. */
  request(offset: number): boolean {
    const file = this.#file;
    if (UPDATED.includes(offset)) {
      if ((file.get(offset) & UPDATE) === 0) {
        // Without UPDATE: stored only, or in force at once, according to the policy.
        if (offset === OFFSET.GBPA && this.#policy.updateBit === "apply") file.applyGbpa();
        return false;
      }
    } else if (!ACKNOWLEDGED.some(([request]) => request === offset)) {
      return false;
    }
    this.#left = Math.max(this.#policy.updateLatency, 1);
    return true;
  }

  /** One step of time. Returns true where requests took effect. */
  step(): boolean {
    if (this.#left === 0) return false;
    if (this.#left > 1) {
      this.#left--;
      return false;
    }
    return this.apply();
  }

  /** Puts into effect what software has requested, and acknowledges it. Returns false when there was nothing to do. */
  apply(): boolean {
    const file = this.#file;
    let changed = false;
    this.#left = 0;
    for (const [request, acknowledge] of ACKNOWLEDGED) {
      const value = file.get(request);
      const difference = value ^ file.get(acknowledge);
      if (difference === 0) continue;
      if (request === OFFSET.CR0) this.#changing(difference, value);
      file.set(acknowledge, value);
      changed = true;
    }
    for (const offset of UPDATED) {
      if ((file.get(offset) & UPDATE) === 0) continue;
      file.set(offset, file.get(offset) & ~UPDATE);
      if (offset === OFFSET.GBPA) file.applyGbpa();
      changed = true;
    }
    return changed;
  }
}
