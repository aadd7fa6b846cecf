import { frameArg, GUEST_CALL, IOMMU_STATE, PVIOMMU_OP, REQUEST, setFrame } from "@smmuv3/pkvm-abi";
import { ERRNO, PAGE_SIZE } from "@smmuv3/platform";
import type { FirmwareNode } from "@smmuv3/platform";

import { WHEN } from "./calls.ts";
import type { Call, Context, HypModule } from "./calls.ts";
import type { HypCore } from "./core.ts";
import type { Domains } from "./domains.ts";
import type { Iommus } from "./iommus.ts";
import { OWNER } from "./page-state.ts";
import { translate } from "./vms.ts";
import type { Vm, VmDevices } from "./vms.ts";

/** Paravirtual IOMMUs of all VMs together, and StreamIDs of each. */
const MAX_PVIOMMUS = 32;
const MAX_ROUTES = 16;
/** Pages that one hypercall of a guest maps or unmaps. */
const GUEST_BATCH = 512;
const MAX_PASID_BITS = 20;
/** Last argument register of the operations. */
const LAST_ARG = 6;

interface Stream {
  readonly iommu: number;
  readonly sid: number;
}

/** A StreamID of a paravirtual IOMMU. */
interface Route extends Stream {
  readonly vsid: number;
}

interface PvIommu {
  readonly owner: number;
  readonly id: number;
  readonly routes: Route[];
}

/** Devices of VMs: who has them, and how their guests name them. */
class Devices implements VmDevices {
  readonly #core: HypCore;
  readonly #iommus: Iommus;
  readonly #domains: Domains;
  /** Owners of devices that are, or were, not the host's, by firmware node. */
  readonly #owners = new Map<FirmwareNode, number>();
  readonly #pviommus: PvIommu[] = [];

  readonly #reset: ((node: FirmwareNode) => number) | undefined;

  constructor(core: HypCore, iommus: Iommus, domains: Domains, reset: ((node: FirmwareNode) => number) | undefined) {
    this.#core = core;
    this.#iommus = iommus;
    this.#domains = domains;
    this.#reset = reset;
  }

  /**
   * The device of `(iommu, sid)` and its group, from the host to `vm`. -ENODEV: firmware knows none; -EPERM: it is not the host's; or
   * what blocking it returned, with the streams before it blocked.
   */
  assign(vm: Vm, iommu: number, sid: number): number {
    if (vm.frozen) return -ERRNO.EBUSY;
    const group = this.#group(iommu, sid);
    if (group.length === 0) return -ERRNO.ENODEV;
    return this.#locked(() => {
      const status = this.#block(group, OWNER.host);
      if (status === 0) this.#move(group, vm.owner);
      return status;
    });
  }

  release(owner: number): number {
    return this.#locked(() => {
      const nodes: FirmwareNode[] = [];
      for (const [node, of] of this.#owners) if (of === owner) nodes.push(node);
      let status = this.#block(nodes, owner);
      if (status === 0) status = this.#domains.freeAll(owner);
      if (status < 0) return status;
      this.#move(nodes, OWNER.host);
      for (let at = this.#pviommus.length - 1; at >= 0; at--) {
        if (this.#pviommus[at]!.owner === owner) this.#pviommus.splice(at, 1);
      }
      return 0;
    });
  }

  ownsPage(owner: number, pa: number): boolean {
    let owns = false;
    for (const node of this.#core.firmware.nodes) {
      for (const { base, size } of node.reg) {
        if (base >= pa + PAGE_SIZE || pa >= base + size) continue;
        if (this.#owners.get(node) !== owner) return false;
        owns = true;
      }
    }
    return owns;
  }

  /** A paravirtual IOMMU for `vm`. -EEXIST: it has this one; -EBUSY: too many, or too late. */
  attach(vm: Vm, id: number): number {
    if (vm.frozen || this.#pviommus.length === MAX_PVIOMMUS) return -ERRNO.EBUSY;
    if (this.#find(vm.owner, id) !== undefined) return -ERRNO.EEXIST;
    this.#pviommus.push({ owner: vm.owner, id, routes: [] });
    return 0;
  }

  /** StreamID `vsid` of a paravirtual IOMMU. -EEXIST: there is one, or one for the stream; -ENOSPC: too many. */
  addVsid(vm: Vm, id: number, stream: Stream, vsid: number): number {
    if (vm.frozen) return -ERRNO.EBUSY;
    const pviommu = this.#find(vm.owner, id);
    if (pviommu === undefined) return -ERRNO.ENOENT;
    if (this.#iommus.at(stream.iommu) === undefined) return -ERRNO.ENODEV;
    const { routes } = pviommu;
    if (routes.length === MAX_ROUTES) return -ERRNO.ENOSPC;
    for (const { vsid: known, iommu, sid } of routes) {
      if (known === vsid || (iommu === stream.iommu && sid === stream.sid)) return -ERRNO.EEXIST;
    }
    routes.push({ ...stream, vsid });
    return 0;
  }

  /** What `vsid` is. */
  route(vm: Vm, id: number, vsid: number): Route | undefined {
    for (const route of this.#find(vm.owner, id)?.routes ?? []) if (route.vsid === vsid) return route;
    return undefined;
  }

  /** An IOMMU of `vm`, in which its domains are made; -1: it has none. */
  firstIommu(vm: Vm): number {
    for (const { owner, routes } of this.#pviommus) if (owner === vm.owner && routes.length > 0) return routes[0]!.iommu;
    return -1;
  }

  #find(owner: number, id: number): PvIommu | undefined {
    for (const pviommu of this.#pviommus) if (pviommu.owner === owner && pviommu.id === id) return pviommu;
    return undefined;
  }

  #locked(run: () => number): number {
    const { lock } = this.#iommus;
    lock.lock(this.#core.cpu);
    const result = run();
    lock.unlock(this.#core.cpu);
    return result;
  }

  /** The devices that have a stream, and those that share one with them. */
  #group(iommu: number, sid: number): FirmwareNode[] {
    const group: FirmwareNode[] = [];
    const streams: Stream[] = [{ iommu, sid }];
    for (let at = 0; at < streams.length; at++) {
      for (const node of this.#core.firmware.nodes) {
        if (group.includes(node)) continue;
        const own = this.#streams(node);
        if (!own.some((one) => one.iommu === streams[at]!.iommu && one.sid === streams[at]!.sid)) continue;
        group.push(node);
        streams.push(...own);
      }
    }
    return group;
  }

  #streams(node: FirmwareNode): Stream[] {
    return node.iommus.map(({ iommu, id }) => ({ iommu: this.#iommus.named(this.#core.firmware, iommu), sid: id }));
  }

  #block(nodes: readonly FirmwareNode[], owner: number): number {
    for (const node of nodes) {
      for (const { iommu, sid } of this.#streams(node)) {
        const status = this.#domains.block(owner, iommu, sid);
        if (status < 0) return status;
      }
      const reset = this.#reset?.(node) ?? 0;
      if (reset < 0) return reset;
    }
    return 0;
  }

  #move(nodes: readonly FirmwareNode[], owner: number): void {
    for (const node of nodes) {
      for (const { iommu, sid } of this.#streams(node)) this.#iommus.setOwner(iommu, sid, owner);
      this.#owners.set(node, owner);
    }
  }
}

/** What a guest's operation works on. */
interface Guest {
  readonly core: HypCore;
  readonly iommus: Iommus;
  readonly domains: Domains;
  readonly devices: Devices;
  readonly vm: Vm;
}

/** An operation of a guest on its paravirtual IOMMUs: its number of arguments, and what it does with them. */
interface Operation {
  readonly args: number;
  readonly run: (guest: Guest, a: number, b: number, c: number, d: number, e: number) => number;
}

function setState(guest: Guest, id: number, vsid: number, pasid: number, state: number, bits: number): number {
  const route = guest.devices.route(guest.vm, id, vsid);
  if (route === undefined) return -ERRNO.ENOENT;
  if (bits > MAX_PASID_BITS) return -ERRNO.EINVAL;
  return guest.domains.setState(guest.vm.owner, route.iommu, route.sid, pasid, state);
}

function mapPages({ core, domains, vm }: Guest, id: number, iova: number, ipa: number, size: number, prot: number): number {
  let done = 0;
  let status = size % PAGE_SIZE === 0 ? 0 : -ERRNO.EINVAL;
  while (status >= 0 && done < Math.min(size, GUEST_BATCH * PAGE_SIZE)) {
    const pa = translate(vm, ipa + done);
    if (pa === -ERRNO.ENOENT) {
      core.requests.note(REQUEST.guestPage, ipa + done, 1);
      return done;
    }
    status = pa < 0 ? pa : domains.map(vm.owner, id, iova + done, pa, PAGE_SIZE, 1, prot);
    done += Math.max(status, 0);
  }
  // What lacks memory has been asked for; the guest comes again.
  return done > 0 || status === -ERRNO.ENOMEM ? done : status;
}

function unmapPages({ domains, vm }: Guest, id: number, iova: number, size: number): number {
  return domains.unmap(vm.owner, id, iova, PAGE_SIZE, Math.min(Math.ceil(size / PAGE_SIZE), GUEST_BATCH));
}

const OPERATIONS: Readonly<Record<number, Operation>> = {
  [PVIOMMU_OP.attachDev]: {
    args: 5,
    run: (guest, id, vsid, pasid, domain, bits) =>
      domain < IOMMU_STATE.firstDomain ? -ERRNO.EINVAL : setState(guest, id, vsid, pasid, domain, bits),
  },
  [PVIOMMU_OP.detachDev]: {
    args: 5,
    run: (guest, id, vsid, pasid, _domain, bits) => setState(guest, id, vsid, pasid, IOMMU_STATE.blocking, bits),
  },
  [PVIOMMU_OP.allocDomain]: {
    args: 0,
    run: ({ domains, devices, vm }) => domains.allocFor(vm.owner, devices.firstIommu(vm)),
  },
  [PVIOMMU_OP.freeDomain]: { args: 1, run: ({ domains, vm }, id) => domains.free(vm.owner, id) },
  [PVIOMMU_OP.mapPages]: { args: 5, run: mapPages },
  [PVIOMMU_OP.unmapPages]: { args: 3, run: unmapPages },
};

/** Arguments from register `from` on are zero. */
function reservedAreZero(frame: Int32Array, from: number): boolean {
  for (let at = from; at <= LAST_ARG; at++) if (frameArg(frame, at) !== 0) return false;
  return true;
}

function operate(guest: Guest, frame: Int32Array): number {
  const operation = OPERATIONS[frameArg(frame, 1)];
  if (operation === undefined || !reservedAreZero(frame, operation.args + 2)) return -ERRNO.EINVAL;
  const [a, b, c] = [frameArg(frame, 2), frameArg(frame, 3), frameArg(frame, 4)];
  const result = operation.run(guest, a, b, c, frameArg(frame, 5), frameArg(frame, LAST_ARG));
  setFrame(frame, 1, Math.max(result, 0));
  return result;
}

/** Tells a guest which stream of which IOMMU it really has. */
function requestDma({ iommus, devices, vm }: Guest, frame: Int32Array): number {
  const route = devices.route(vm, frameArg(frame, 1), frameArg(frame, 2));
  if (route === undefined || !reservedAreZero(frame, 3)) return -ERRNO.EINVAL;
  const stream = iommus.streamOf(vm.owner, route.iommu, route.sid, 0);
  if (typeof stream === "number") return stream;
  setFrame(frame, 1, stream.mmioBase);
  setFrame(frame, 2, route.sid);
  return 0;
}

export interface PassthroughOptions {
  /** Resets a device whose DMA is blocked, each time that its owner changes. 0, or a negative errno: the owner stays. */
  readonly reset?: (node: FirmwareNode) => number;
}

/** Devices for protected VMs, whose guests map for them through paravirtual IOMMUs. Needs `paging`. */
export function passthrough(options: PassthroughOptions = {}): HypModule {
  let devices: Devices | undefined = undefined;
  const onVm = (run: (devices: Devices, vm: Vm, ...args: number[]) => number): Call => ({
    ...WHEN.protected,
    run: ({ vms }, handle, ...args) => vms.with(handle, (vm) => (devices === undefined ? -ERRNO.EOPNOTSUPP : run(devices, vm, ...args))),
  });
  const guest =
    (run: (guest: Guest, frame: Int32Array) => number) =>
    (context: Context, handle: number, frame: Int32Array): number =>
      context.vms.with(handle, (vm) => {
        const { core, iommus, domains } = context;
        if (devices === undefined || iommus === undefined || domains === undefined) return -ERRNO.EOPNOTSUPP;
        return run({ core, iommus, domains, devices, vm }, frame);
      });
  return {
    init({ core, iommus, domains, vms }: Context): number {
      if (iommus === undefined || domains === undefined) return -ERRNO.EINVAL;
      devices = new Devices(core, iommus, domains, options.reset);
      vms.devices = devices;
      return 0;
    },
    calls: {
      __pkvm_device_assign: onVm((of, vm, iommu = 0, sid = 0) => of.assign(vm, iommu, sid)),
      __pkvm_pviommu_attach: onVm((of, vm, id = 0) => of.attach(vm, id)),
      __pkvm_pviommu_add_vsid: onVm((of, vm, id = 0, iommu = 0, sid = 0, vsid = 0) => of.addVsid(vm, id, { iommu, sid }, vsid)),
      __pkvm_pviommu_finalise: onVm((_of, vm) => {
        vm.frozen = true;
        return 0;
      }),
    },
    guestCalls: { [GUEST_CALL.pviommuOp]: guest(operate), [GUEST_CALL.devReqDma]: guest(requestDma) },
  };
}
