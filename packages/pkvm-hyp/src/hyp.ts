import {
  frameArg,
  HYPERCALLS,
  hypercallName,
  setFrame,
  SMCCC_INVALID_PARAMETER,
  SMCCC_NOT_SUPPORTED,
  SMCCC_SUCCESS,
} from "@smmuv3/pkvm-abi";
import type { HypercallName } from "@smmuv3/pkvm-abi";
import { ABORT, ABORT_ACTION, ERRNO, join, LEVEL, LockOrder, SpinLock } from "@smmuv3/platform";
import type { AbortAction, Firmware, HypCpu, HypVectors } from "@smmuv3/platform";

import { CALLS, checkAbi, GUEST_CALLS, PHASE } from "./calls.ts";
import type { Call, Context, GuestCall, HypModule, Phase } from "./calls.ts";
import { HypCore } from "./core.ts";
import type { IommuModule } from "./iommus.ts";
import { POOL_PURPOSES } from "./pool.ts";
import type { PoolPurpose } from "./pool.ts";
import { Requests } from "./requests.ts";
import { ProtectedVms } from "./vms.ts";

export interface HypOptions {
  /** The machine, as firmware describes it to EL2 itself. */
  readonly firmware: Firmware;
  /** IOMMU support: `iommus(driver, ...)`. Without it DMA is not isolated. */
  readonly iommus?: IommuModule;
  /** What this EL2 has besides: `paging`, `power`, `passthrough`. One that builds on another comes after it. */
  readonly modules?: readonly HypModule[];
}

/** EL2: its vectors, the phase of boot, and the core once it has memory. */
export class Hyp implements HypVectors {
  readonly #cpu: HypCpu;
  readonly #firmware: Firmware;
  readonly #iommus: IommuModule | undefined;
  readonly #modules: readonly HypModule[];
  readonly #calls: Readonly<Partial<Record<HypercallName, Call>>>;
  readonly #guestCalls: Readonly<Record<number, GuestCall>>;
  readonly #requests: Requests;
  /** One step of boot at a time. */
  readonly #boot = new SpinLock("boot");
  #phase: Phase = PHASE.reset;
  #context: Context | undefined = undefined;

  /** Use {@link startHyp}. */
  constructor(cpu: HypCpu, { firmware, iommus, modules = [] }: HypOptions) {
    this.#cpu = cpu;
    this.#firmware = firmware;
    this.#iommus = iommus;
    this.#modules = iommus === undefined ? modules : [iommus, ...modules];
    this.#calls = Object.assign({}, CALLS, ...this.#modules.map(({ calls }) => calls)) as typeof CALLS;
    this.#guestCalls = Object.assign({}, GUEST_CALLS, ...this.#modules.map(({ guestCalls }) => guestCalls)) as typeof GUEST_CALLS;
    this.#requests = new Requests(cpu);
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

  /** Hypercall entry: x0 names it, x1 gets its result, x2 to x4 what it lacked. */
  hvc(frame: Int32Array): void {
    const name = hypercallName(frame[0]!);
    if (name === undefined) {
      setFrame(frame, 0, SMCCC_NOT_SUPPORTED);
      return;
    }
    const boots = HYPERCALLS[name].class === "boot";
    this.#requests.clear();
    if (boots) this.#boot.lock(this.#cpu);
    const result = this.#call(name, frame);
    if (boots) this.#boot.unlock(this.#cpu);
    setFrame(frame, 0, SMCCC_SUCCESS);
    setFrame(frame, 1, result);
    this.#requests.reply(frame);
  }

  /** Hypercall of a vCPU: x0 names it, and says whether EL2 took it. */
  guestHvc(handle: number, _vcpu: number, frame: Int32Array): void {
    const call = this.#guestCalls[frame[0]!];
    if (this.#context === undefined || call === undefined) {
      setFrame(frame, 0, SMCCC_NOT_SUPPORTED);
      return;
    }
    setFrame(frame, 0, call(this.#context, handle, frame) < 0 ? SMCCC_INVALID_PARAMETER : SMCCC_SUCCESS);
  }

  /** Stage-2 abort entry. */
  dataAbort(frame: Int32Array): AbortAction {
    const context = this.#context;
    if (context === undefined) return ABORT_ACTION.inject;
    const { core, iommus } = context;
    const ipa = join(frame[ABORT.ipaLo]!, frame[ABORT.ipaHi]!);
    if (core.mapForHost(ipa) >= 0) return ABORT_ACTION.retry;
    return (core.ownsMmio(ipa) ? iommus?.dataAbort(frame) : undefined) ?? ABORT_ACTION.inject;
  }

  #call(name: HypercallName, frame: Int32Array): number {
    const a = frameArg(frame, 1);
    const b = frameArg(frame, 2);
    const c = frameArg(frame, 3);
    if (name === "__pkvm_init") return this.#phase === PHASE.reset ? this.#init(a, b, c) : -ERRNO.EBUSY;
    if (this.#context === undefined) return -ERRNO.EPERM;
    const call = this.#calls[name];
    if (call === undefined) return -ERRNO.EOPNOTSUPP;
    if (this.#phase < call.from) return -ERRNO.EPERM;
    if (this.#phase > call.to) return -ERRNO.EBUSY;
    const result = call.run(this.#context, a, b, c, frameArg(frame, 4), frameArg(frame, 5), frameArg(frame, 6));
    if (name === "__pkvm_prot_finalize" && result === 0) this.#phase = PHASE.deprivileged;
    return result;
  }

  /** All or nothing: until the host is deprivileged it may use the memory that a failed attempt had. */
  #init(hash: number, base: number, pages: number): number {
    const context = checkAbi(hash) < 0 ? -ERRNO.EINVAL : this.#build(base, pages);
    if (typeof context === "number") {
      const { counters } = this.#cpu;
      for (const purpose of POOL_PURPOSES) counters.values[counters.id(`pool.${purpose}`) + LEVEL.el2] = 0;
      return context;
    }
    this.#context = context;
    this.#phase = PHASE.trusted;
    return 0;
  }

  #build(base: number, pages: number): Context | number {
    const locks = new LockOrder();
    const iommus = this.#iommus?.create(locks);
    const surroundings = { cpu: this.#cpu, firmware: this.#firmware, requests: this.#requests, locks, iommus };
    const core = HypCore.create(surroundings, base, pages);
    if (typeof core === "number") return core;
    const context: Context = { core, vms: new ProtectedVms(core), iommus, domains: undefined };
    const started = iommus?.init(core) ?? 0;
    if (started < 0) return started;
    for (const { init } of this.#modules) {
      const status = init?.(context) ?? 0;
      if (status < 0) return status;
    }
    return context;
  }
}

/** Installs EL2 on `cpu`. Everything else happens by hypercall. */
export function startHyp(cpu: HypCpu, options: HypOptions): Hyp {
  const hyp = new Hyp(cpu, options);
  cpu.install(hyp);
  return hyp;
}
