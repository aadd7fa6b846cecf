// A virtual machine monitor, with the flow of a real one: its core allocates the stage 2 and hands it over, the vIOMMU part wraps
// it, devices pass by nested STEs before the machine starts, and then the machine's own kernel boots.
import { Counters, ERRNO } from "@smmuv3/platform";
import type { HostCpu, InterruptLine, Memory, RegisterWindow } from "@smmuv3/platform";
import { VEVENTQ_ARM_SMMUV3, VIOMMU_ARM_SMMUV3, registerArmSmmuV3 } from "@smmuv3/arm-smmu-v3";
import type { ArmSmmuV3, ArmSmmuV3Options } from "@smmuv3/arm-smmu-v3";
import { createKernel } from "@smmuv3/driver-core";
import type { Device, KernelContext } from "@smmuv3/driver-core";
import { IommuCore } from "@smmuv3/iommu-core";
import type { IommuCoreOptions } from "@smmuv3/iommu-core";
import type { EventFile } from "@smmuv3/iommufd";
import { GUEST_BYTES, GUEST_PA, GUEST_VA, IPA, MAP, nested } from "./fixture.ts";
import type { Host } from "./fixture.ts";
import { VirtualSmmu } from "./vsmmu.ts";
import type { VsmmuBackend } from "./vsmmu.ts";

const EVENT_DEPTH = 64;
const RECORD_WORDS = 8;
const HW_INFO_WORDS = 10;
const HW_INFO_IDR = 2;
const IDRS = 6;

/** What the core of the monitor has, and vIOMMU parts share: the machine's memory, and the page tables over it. */
export class Core {
  readonly host: Host;
  readonly ioas: number;
  /** Nest parents, of any IOMMU, oldest first. */
  readonly stage2s: number[] = [];

  constructor(host: Host) {
    this.host = host;
    this.ioas = host.make("IOAS_ALLOC", {}, "out_ioas_id");
    host.make("IOAS_MAP", { ioas_id: this.ioas, flags: MAP, iova: IPA, user_va: GUEST_VA, length: GUEST_BYTES }, "iova");
  }

  /** A nest parent for a device, the core's from now on; or a negative errno. */
  newStage2(dev: number): number {
    const result = this.host.fd.call("HWPT_ALLOC", { dev_id: dev, pt_id: this.ioas, flags: 1 });
    if (result.status < 0) return result.status;
    this.stage2s.push(result.out_hwpt_id);
    return result.out_hwpt_id;
  }
}

/** A vIOMMU over one of the core's stage 2s: tries them in turn, and then a new one. */
export interface Wrapped {
  readonly viommu: number;
  readonly stage2: number;
}

/** A negative errno when the IOMMU has no vIOMMU of that type. */
export function wrap(core: Core, dev: number, type: number): Wrapped | number {
  const { fd } = core.host;
  for (const hwpt_id of core.stage2s) {
    const { status, out_viommu_id: viommu } = fd.call("VIOMMU_ALLOC", { type, dev_id: dev, hwpt_id });
    if (status === 0) return { viommu, stage2: hwpt_id };
    // Another IOMMU's stage 2, or of a kind that this one does not have.
    if (status !== -ERRNO.EINVAL) return status;
  }
  const stage2 = core.newStage2(dev);
  if (stage2 < 0) return stage2;
  const { status, out_viommu_id: viommu } = fd.call("VIOMMU_ALLOC", { type, dev_id: dev, hwpt_id: stage2 });
  return status < 0 ? status : { viommu, stage2 };
}

/**
 * {@link wrap}, for any IOMMU: where its driver has no vIOMMU, the default one of iommufd, which only wraps a stage 2; where that is
 * not to be had either, or nothing nests, the devices go to a page table over the machine's memory as they are (`viommu` 0).
 */
export function wrapAny(core: Core, dev: number, type: number): Wrapped | number {
  for (const kind of [type, 0]) {
    const wrapped = wrap(core, dev, kind);
    if (typeof wrapped !== "number" || wrapped !== -ERRNO.EOPNOTSUPP) return wrapped;
  }
  const { status, out_hwpt_id: stage2 } = core.host.fd.call("HWPT_ALLOC", { dev_id: dev, pt_id: core.ioas });
  return status < 0 ? status : { viommu: 0, stage2 };
}

/** A device for the machine. */
export interface Assigned {
  /** Its number here, and its StreamID there. */
  readonly client: number;
  readonly vsid: number;
}

/** The part of the monitor for one emulated SMMU: what its front end does at the physical one. */
export class VsmmuPart implements VsmmuBackend {
  readonly vsids: readonly number[];
  readonly idr: Int32Array = new Int32Array(IDRS);
  readonly wrapped: Wrapped;
  readonly #host: Host;
  readonly #devices = new Map<number, { readonly dev: number; hwpt: number }>();
  readonly #events: EventFile;
  readonly #veventq: { readonly id: number; readonly fd: number };

  /** Devices stay blocked until {@link setSte}. */
  constructor(core: Core, wrapped: Wrapped, devices: readonly (Assigned & { readonly dev: number })[]) {
    const { host } = core;
    this.#host = host;
    this.wrapped = wrapped;
    this.vsids = devices.map(({ vsid }) => vsid);
    const { viommu } = wrapped;
    for (const { dev, vsid } of devices) {
      host.make("VDEVICE_ALLOC", { viommu_id: viommu, dev_id: dev, virt_id: vsid }, "out_vdevice_id");
      this.#devices.set(vsid, { dev, hwpt: 0 });
    }
    const queue = host.fd.call("VEVENTQ_ALLOC", { viommu_id: viommu, type: VEVENTQ_ARM_SMMUV3, veventq_depth: EVENT_DEPTH });
    this.#veventq = { id: queue.out_veventq_id, fd: queue.out_veventq_fd };
    this.#events = host.fd.file(queue.out_veventq_fd)!;
    const data_uptr = host.words(new Int32Array(HW_INFO_WORDS));
    host.make("GET_HW_INFO", { dev_id: devices[0]!.dev, data_len: HW_INFO_WORDS * 4, data_uptr }, "data_type");
    this.idr.set(host.result(HW_INFO_WORDS).subarray(HW_INFO_IDR, HW_INFO_IDR + IDRS));
  }

  setSte(vsid: number, vste: Int32Array): number {
    const device = this.#devices.get(vsid)!;
    const hwpt = nested(this.#host, device.dev, this.wrapped.viommu, vste);
    if (hwpt < 0) return hwpt;
    const { fd } = this.#host;
    const status = device.hwpt === 0 ? fd.attach(device.dev, hwpt) : fd.replace(device.dev, hwpt);
    const unused = status < 0 ? hwpt : device.hwpt;
    if (status >= 0) device.hwpt = hwpt;
    if (unused !== 0) fd.call("DESTROY", { id: unused });
    return Math.min(status, 0);
  }

  invalidate(commands: Int32Array, count: number): number {
    const data_uptr = this.#host.words(commands);
    const call = { hwpt_id: this.wrapped.viommu, data_type: 1, entry_len: 16, entry_num: count, data_uptr };
    return this.#host.fd.call("HWPT_INVALIDATE", call).entry_num;
  }

  events(): Int32Array[] {
    const bytes = this.#events.read(1 << 16);
    if (typeof bytes === "number") return [];
    const words = new Int32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4);
    const out: Int32Array[] = [];
    for (let at = 0; at < words.length; ) {
      const lost = (words[at]! & 1) !== 0;
      at += 2;
      if (lost) continue;
      out.push(words.slice(at, at + RECORD_WORDS));
      at += RECORD_WORDS;
    }
    return out;
  }

  /** The machine is gone: its devices are blocked and given back. */
  close(): void {
    const { fd } = this.#host;
    for (const { dev, hwpt } of this.#devices.values()) {
      if (hwpt !== 0) {
        fd.detach(dev);
        fd.call("DESTROY", { id: hwpt });
      }
      fd.unbind(dev);
    }
    fd.closeFile(this.#veventq.fd);
    for (const id of [this.#veventq.id, this.wrapped.viommu]) fd.call("DESTROY", { id });
  }
}

const VSMMU_BASE = 0x905_0000;
const EVTQ_IRQ = 74;
const GERROR_IRQ = 77;
const NS_STEP = 1000;

/** The virtual CPU: its memory and devices are the machine's. */
class Vcpu implements HostCpu {
  readonly level = 1;
  readonly memory: Memory;
  readonly counters: Counters = new Counters();
  readonly #machine: VirtualMachine;
  readonly #handlers = new Map<number, () => void>();
  readonly #pending = new Set<number>();
  #masked = 0;
  #now = 0;

  constructor(machine: VirtualMachine, memory: Memory) {
    this.#machine = machine;
    this.memory = memory;
  }

  line(intid: number): InterruptLine {
    return { pulse: () => void this.#pending.add(intid) };
  }

  ioremap(): RegisterWindow {
    return this.#machine.registers;
  }

  now(): number {
    return this.#now;
  }

  relax(): void {
    this.#now += NS_STEP;
    this.#machine.poll();
    if (this.#masked > 0) return;
    for (const intid of [...this.#pending]) {
      this.#pending.delete(intid);
      this.#handlers.get(intid)?.();
    }
  }

  hvc(frame: Int32Array): void {
    frame.fill(-1, 0, 2);
  }

  requestIrq(intid: number, handler: () => void): void {
    this.#handlers.set(intid, handler);
  }

  freeIrq(intid: number): void {
    this.#handlers.delete(intid);
  }

  barrier(): void {}

  irqSave(): void {
    this.#masked++;
  }

  irqRestore(): void {
    this.#masked--;
  }
}

export interface MachineOptions {
  readonly devices: readonly Assigned[];
  readonly guest?: IommuCoreOptions;
  readonly driver?: ArmSmmuV3Options;
  readonly properties?: Readonly<Record<string, boolean | number>>;
}

/** One virtual machine with one emulated SMMU, in front of all its devices. */
export class VirtualMachine {
  readonly host: Host;
  readonly core: Core;
  readonly part: VsmmuPart;
  readonly registers: VirtualSmmu;
  readonly memory: Memory;
  readonly #cpu: Vcpu;
  readonly #options: MachineOptions;

  /** The machine before it starts: its devices pass by nested STEs, as an SMMU that is off has it. */
  constructor(host: Host, options: MachineOptions) {
    this.host = host;
    this.#options = options;
    this.core = new Core(host);
    const devices = options.devices.map((device) => ({ ...device, dev: host.bind(device.client) }));
    const wrapped = wrap(this.core, devices[0]!.dev, VIOMMU_ARM_SMMUV3);
    if (typeof wrapped === "number") throw new Error(`no vIOMMU: ${wrapped}`);
    this.part = new VsmmuPart(this.core, wrapped, devices);
    this.memory = host.machine.memory.window(GUEST_PA, GUEST_BYTES, IPA);
    this.#cpu = new Vcpu(this, this.memory);
    this.registers = new VirtualSmmu(this.memory, this.part, {
      evtq: this.#cpu.line(EVTQ_IRQ), gerror: this.#cpu.line(GERROR_IRQ),
    });
    this.registers.reset();
  }

  /** Lets the physical machine go on, and takes its events. */
  poll(): void {
    this.host.machine.host.relax();
    this.registers.pump();
  }

  /** Time passes in the machine. */
  run(): void {
    for (let i = 0; i < 4; i++) this.#cpu.relax();
  }

  /** Boots a kernel in it, with the same driver. */
  boot(): Guest {
    const none = { interrupts: {}, iommus: [], properties: {} };
    const smmu = {
      ...none, name: "smmuv3@9050000", compatible: ["arm,smmu-v3"], reg: [{ base: VSMMU_BASE, size: 0x2_0000 }],
      interrupts: { eventq: EVTQ_IRQ, gerror: GERROR_IRQ }, properties: { "dma-coherent": true },
    };
    const clients = this.#options.devices.map(({ vsid }, i) => ({
      ...none, name: `dev${i}`, compatible: ["test,client"], reg: [], iommus: [{ iommu: smmu.name, id: vsid }],
      properties: { "dma-coherent": true, ...this.#options.properties },
    }));
    const firmware = { memory: { base: IPA, size: GUEST_BYTES }, doorbells: [], nodes: [smmu, ...clients] };
    const kernel = createKernel({ cpu: this.#cpu, firmware, ram: { base: IPA, size: GUEST_BYTES / 2 } });
    const iommu = new IommuCore(kernel, { defaultDomainType: "dma", swiotlbBytes: 64 << 10, ...this.#options.guest });
    kernel.core.populate(firmware);
    const driver = registerArmSmmuV3(kernel, iommu, this.#options.driver);
    kernel.core.registerDriver({ name: "client", bus: "platform", ids: ["test,client"], probe: () => 0 });
    return { kernel, iommu, driver, devices: clients.map(({ name }) => kernel.core.findByNode(name)!) };
  }

  /** Takes the machine down. */
  close(): void {
    this.part.close();
    const { host, core } = this;
    for (const id of [...core.stage2s, core.ioas]) host.make("DESTROY", { id }, "id");
  }
}

/** A kernel in a virtual machine. */
export interface Guest {
  readonly kernel: KernelContext;
  readonly iommu: IommuCore;
  readonly driver: ArmSmmuV3;
  readonly devices: readonly Device[];
}
