import { IOMMU_STATE, readHandoff } from "@smmuv3/pkvm-abi";
import type { IommuHandoff } from "@smmuv3/pkvm-abi";
import { ERRNO, PAGE_SIZE, SpinLock } from "@smmuv3/platform";
import type { AbortAction, Firmware, LockOrder } from "@smmuv3/platform";

import { WHEN } from "./calls.ts";
import type { Call, Context, HypModule } from "./calls.ts";
import type { HypCore } from "./core.ts";
import { HOST_PROT, LOCK_RANK } from "./iommu-driver.ts";
import type { HypIommuDriver } from "./iommu-driver.ts";
import { OWNER } from "./page-state.ts";

/** IOMMU drivers that EL2 has room for. */
export const MAX_IOMMU_DRIVERS = 5;

/** An IOMMU that EL2 has. */
export interface Iommu {
  readonly driver: HypIommuDriver;
  /** The driver's number of it. */
  readonly local: number;
  /** Its registers, as firmware has them. */
  readonly mmioBase: number;
}

/** The IOMMU drivers, and their IOMMUs by the number by which the host names them. */
export class Iommus {
  readonly drivers: readonly HypIommuDriver[];
  /** Held while the state of a stream, or its owner, changes. */
  readonly lock: SpinLock;
  readonly #iommus: Iommu[] = [];
  /** Owners of StreamIDs that are, or were, not the host's, by {@link streamKey}. */
  readonly #owners = new Map<number, number>();

  constructor(drivers: readonly HypIommuDriver[], locks: LockOrder) {
    this.drivers = drivers;
    this.lock = new SpinLock("domains", LOCK_RANK.domains, locks);
  }

  /** 0, or what the first driver says that does not start. */
  init(core: HypCore): number {
    for (const driver of this.drivers) {
      const status = driver.init(core);
      if (status < 0) return status;
    }
    return 0;
  }

  /** The IOMMU `iommu`, or undefined. */
  at(iommu: number): Iommu | undefined {
    return this.#iommus[iommu];
  }

  /** Number of the IOMMU that firmware calls `name`; -1: EL2 does not have it. */
  named(firmware: Firmware, name: string): number {
    for (let i = 0; i < this.#iommus.length; i++) {
      for (const node of firmware.nodes) {
        if (node.name === name && node.reg[0]?.base === this.#iommus[i]!.mmioBase) return i;
      }
    }
    return -1;
  }

  /** Gives an IOMMU to the first driver that knows it. Returns its number; -ENODEV: nobody does. */
  handoff(handoff: IommuHandoff): number {
    for (const driver of this.drivers) {
      const local = driver.handoff(handoff);
      if (local >= 0) return this.#iommus.push({ driver, local, mmioBase: handoff.mmioBase }) - 1;
      if (local !== -ERRNO.ENODEV) return local;
    }
    return -ERRNO.ENODEV;
  }

  /** Before the host is deprivileged: 0, or what the first driver says that objects. */
  finalize(): number {
    for (const driver of this.drivers) {
      const status = driver.finalize?.() ?? 0;
      if (status < 0) return status;
    }
    return 0;
  }

  /** Takes `[start, end)`, where the host had `prot`, away from the DMA of the host, from all drivers or from none. */
  revoke(start: number, end: number, prot: number): number {
    return this.#each(start, end, HOST_PROT.none, prot);
  }

  /** Gives `[start, end)` with `prot` to the DMA of the host, by all drivers or by none. */
  grant(start: number, end: number, prot: number): number {
    return this.#each(start, end, prot, HOST_PROT.none);
  }

  /** The host accessed device space that EL2 owns; undefined: no driver's. */
  dataAbort(frame: Int32Array): AbortAction | undefined {
    for (const driver of this.drivers) {
      const action = driver.dataAbort(frame);
      if (action !== undefined) return action;
    }
    return undefined;
  }

  /** Owner of the DMA of a stream. */
  ownerOf(iommu: number, sid: number): number {
    return this.#owners.get(streamKey(iommu, sid)) ?? OWNER.host;
  }

  setOwner(iommu: number, sid: number, owner: number): void {
    this.#owners.set(streamKey(iommu, sid), owner);
  }

  /** The IOMMU of a stream whose state `caller` may set; -ENODEV, -EINVAL (StreamID, PASID), -EPERM (somebody else's). */
  streamOf(caller: number, iommu: number, sid: number, pasid: number): Iommu | number {
    const found = this.#iommus[iommu];
    if (found === undefined) return -ERRNO.ENODEV;
    if (sid >= 2 ** 32 || pasid >= 2 ** 20) return -ERRNO.EINVAL;
    return this.ownerOf(iommu, sid) === caller ? found : -ERRNO.EPERM;
  }

  #each(start: number, end: number, prot: number, before: number): number {
    for (let i = 0; i < this.drivers.length; i++) {
      const status = this.drivers[i]!.hostStage2Idmap(start, end, prot);
      if (status >= 0) continue;
      for (; i >= 0; i--) this.drivers[i]!.hostStage2Idmap(start, end, before);
      return status;
    }
    return 0;
  }
}

/** Blocking or identity; a PASID has the first only. */
export function setFixedState({ driver, local }: Iommu, sid: number, pasid: number, state: number): number {
  if (state >= IOMMU_STATE.firstDomain || (pasid !== 0 && state !== IOMMU_STATE.blocking)) return -ERRNO.EINVAL;
  return driver.setState(local, sid, pasid, state);
}

function streamKey(iommu: number, sid: number): number {
  return iommu * 2 ** 32 + sid;
}

/** A hypercall on IOMMUs. */
function call(when: Pick<Call, "from" | "to">, run: (context: Context, iommus: Iommus, ...args: number[]) => number): Call {
  return {
    ...when,
    run: (context, ...args) => (context.iommus === undefined ? -ERRNO.ENODEV : run(context, context.iommus, ...args)),
  };
}

function handoff({ core }: Context, iommus: Iommus, page: number = 0): number {
  const donated = core.donateHostToHyp(page, PAGE_SIZE);
  if (donated < 0) return donated;
  const status = iommus.handoff(readHandoff(core.cpu.memory, page));
  if (status < 0) core.cancelDonation(page, PAGE_SIZE);
  return status;
}

function setState(context: Context, iommus: Iommus, iommu: number = 0, sid: number = 0, pasid: number = 0, state: number = 0): number {
  const { core, domains } = context;
  if (domains !== undefined) return domains.setState(OWNER.host, iommu, sid, pasid, state);
  iommus.lock.lock(core.cpu);
  const stream = iommus.streamOf(OWNER.host, iommu, sid, pasid);
  const status = typeof stream === "number" ? stream : setFixedState(stream, sid, pasid, state);
  iommus.lock.unlock(core.cpu);
  return status;
}

function eventQueue(_context: Context, iommus: Iommus, iommu: number = 0, op: number = 0, value: number = 0): number {
  const found = iommus.at(iommu);
  return found?.driver.eventQueue(found.local, op, value) ?? -ERRNO.ENODEV;
}

/** IOMMU support of an EL2. */
export interface IommuModule extends HypModule {
  /** The drivers, with no IOMMUs yet. */
  create(locks: LockOrder): Iommus;
}

/** IOMMU support with `drivers`, up to five: blocked and identity-mapped streams, event queues. */
export function iommus(...drivers: readonly HypIommuDriver[]): IommuModule {
  if (drivers.length > MAX_IOMMU_DRIVERS) {
    throw new RangeError(`iommus: expected at most ${MAX_IOMMU_DRIVERS} drivers, got ${drivers.length}`);
  }
  return {
    create: (locks) => new Iommus(drivers, locks),
    calls: {
      __pkvm_iommu_handoff: call(WHEN.boot, handoff),
      __pkvm_iommu_set_state: call(WHEN.always, setState),
      __pkvm_iommu_event_queue: call(WHEN.always, eventQueue),
    },
  };
}
