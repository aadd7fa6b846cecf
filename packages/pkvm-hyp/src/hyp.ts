import { frameArg, hypercallName, setFrame, SMCCC_NOT_SUPPORTED, SMCCC_SUCCESS } from "@smmuv3/pkvm-abi";
import type { HypercallName } from "@smmuv3/pkvm-abi";
import { ABORT, ABORT_ACTION, ERRNO, join, LEVEL, PAGE_SIZE, SpinLock } from "@smmuv3/platform";
import type { AbortAction, Firmware, HypCpu, HypVectors } from "@smmuv3/platform";

import { CALLS, checkAbi, PHASE } from "./calls.ts";
import type { Context, Phase } from "./calls.ts";
import { HypCore } from "./core.ts";
import type { HypIommuDriver } from "./iommu-driver.ts";
import { POOL_PURPOSES } from "./pool.ts";
import type { PoolPurpose } from "./pool.ts";
import { ProtectedVms } from "./vms.ts";

export interface HypOptions {
  /** The machine, as firmware describes it to EL2 itself. */
  readonly firmware: Firmware;
  /** IOMMU support; without it DMA is not isolated. */
  readonly iommu?: HypIommuDriver;
}

/** EL2: its vectors, the phase of boot, and the core once it has memory. */
export class Hyp implements HypVectors {
  readonly #cpu: HypCpu;
  readonly #options: HypOptions;
  /** One entry at a time. */
  readonly #lock = new SpinLock("hyp");
  #phase: Phase = PHASE.reset;
  #context: Context | undefined = undefined;

  /** Use {@link startHyp}. */
  constructor(cpu: HypCpu, options: HypOptions) {
    this.#cpu = cpu;
    this.#options = options;
  }

  get phase(): Phase {
    return this.#phase;
  }

  /** The core; undefined before `__pkvm_init`. */
  get core(): HypCore | undefined {
    return this.#context?.core;
  }

  /** Bytes of EL2's memory by purpose. */
  memoryUsed(): Record<PoolPurpose, number> {
    const { counters } = this.#cpu;
    const used = POOL_PURPOSES.map((purpose) => [purpose, counters.values[counters.id(`pool.${purpose}`) + LEVEL.el2]!]);
    return Object.fromEntries(used) as Record<PoolPurpose, number>;
  }

  /** Hypercall entry: x0 names it, x1 gets its result. */
  hvc(frame: Int32Array): void {
    const name = hypercallName(frame[0]!);
    if (name === undefined) {
      setFrame(frame, 0, SMCCC_NOT_SUPPORTED);
      return;
    }
    this.#lock.lock(this.#cpu);
    const result = this.#call(name, frame);
    this.#lock.unlock(this.#cpu);
    setFrame(frame, 0, SMCCC_SUCCESS);
    setFrame(frame, 1, result);
  }

  /** Stage-2 abort entry. */
  dataAbort(frame: Int32Array): AbortAction {
    const context = this.#context;
    if (context === undefined) return ABORT_ACTION.inject;
    this.#lock.lock(this.#cpu);
    const action = this.#abort(context, frame);
    this.#lock.unlock(this.#cpu);
    return action;
  }

  #call(name: HypercallName, frame: Int32Array): number {
    const [a, b, c, d] = [frameArg(frame, 1), frameArg(frame, 2), frameArg(frame, 3), frameArg(frame, 4)];
    if (name === "__pkvm_init") return this.#phase === PHASE.reset ? this.#init(a, b, c) : -ERRNO.EBUSY;
    const call = CALLS[name];
    if (this.#context === undefined || this.#phase < call.from) return -ERRNO.EPERM;
    if (this.#phase > call.to) return -ERRNO.EBUSY;
    const result = call.run(this.#context, a, b, c, d);
    if (name === "__pkvm_prot_finalize" && result === 0) this.#phase = PHASE.deprivileged;
    return result;
  }

  #init(hash: number, base: number, pages: number): number {
    const status = checkAbi(hash);
    if (status < 0) return status;
    const { firmware, iommu } = this.#options;
    const core = HypCore.create(this.#cpu, firmware, iommu, base, pages);
    if (typeof core === "number") return core;
    const ready = iommu?.init(core) ?? 0;
    if (ready < 0) return ready;
    this.#context = { core, vms: new ProtectedVms(core), driver: iommu };
    this.#phase = PHASE.trusted;
    return 0;
  }

  #abort({ core, driver }: Context, frame: Int32Array): AbortAction {
    const ipa = join(frame[ABORT.ipaLo]!, frame[ABORT.ipaHi]!);
    const page = this.#cpu.memory.pageIndex(ipa);
    if (page >= 0) {
      if (!core.states.hostOwned(page)) return ABORT_ACTION.inject;
      return core.stage2.mapMemory(page) < 0 ? ABORT_ACTION.inject : ABORT_ACTION.retry;
    }
    if (core.ownsMmio(ipa)) return driver?.dataAbort(frame) ?? ABORT_ACTION.inject;
    return core.stage2.mapDevice(ipa - (ipa % PAGE_SIZE)) < 0 ? ABORT_ACTION.inject : ABORT_ACTION.retry;
  }
}

/** Installs EL2 on `cpu`. Everything else happens by hypercall. */
export function startHyp(cpu: HypCpu, options: HypOptions): Hyp {
  const hyp = new Hyp(cpu, options);
  cpu.install(hyp);
  return hyp;
}
