import { ERRNO, errnoName } from "@smmuv3/platform";
import type { Firmware } from "@smmuv3/platform";
import { Device } from "./device.ts";
import type { BusName, DeviceOptions, Driver } from "./device.ts";
import { Initcalls } from "./initcall.ts";
import type { Initcall, InitcallLevel, InitcallRun } from "./initcall.ts";
import type { KernelLog } from "./log.ts";
import type { PciPort } from "./pci.ts";
import { Sysfs } from "./sysfs.ts";

/** What a layer that prepares DMA (the IOMMU core) does around binding. */
export interface DmaHooks {
  /** Before the probe of `dev.driver`. 0, or a negative errno that stops the binding; -EPROBE_DEFER defers it. */
  configure(dev: Device): number;
  /** After unbinding, and after a probe that failed. */
  cleanup(dev: Device): void;
  /** The unbound device goes away. */
  remove(dev: Device): void;
}

export interface FauxOptions {
  readonly name: string;
  readonly driver: Driver;
  readonly parent?: Device | undefined;
}

export interface AuxiliaryOptions {
  /** Unique below the parent, e.g. `protected_kvm.smmu_v3_emu.0`. */
  readonly name: string;
  /** What auxiliary drivers match, e.g. `protected_kvm.smmu_v3_emu`. */
  readonly id: string;
  readonly parent: Device;
}

/** A PCI address: domain, bus, device, function. */
const PCI_NAME = /^[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]$/;

/** Errors by which a probe says "not mine": no message, as in the kernel. */
const QUIET: readonly number[] = [-ERRNO.ENODEV, -ERRNO.ENXIO];

function matches(driver: Driver, dev: Device): boolean {
  if (driver.bus !== dev.bus) return false;
  if (dev.bus === "auxiliary") return dev.id !== undefined && driver.ids.includes(dev.id);
  return dev.node?.compatible.some((id) => driver.ids.includes(id)) ?? false;
}

/**
 * Devices, drivers and the order in which they meet. The first registered driver that matches and whose probe succeeds
 * keeps the device. Deferred devices are tried again after every successful probe, once the outermost probe is over, and
 * at the late initcall level.
 */
export class DriverCore {
  readonly sysfs: Sysfs = new Sysfs();
  /** Deferrals of all devices. */
  deferrals: number = 0;
  readonly #log: KernelLog;
  readonly #pci: PciPort | undefined;
  readonly #initcalls: Initcalls;
  readonly #devices = new Set<Device>();
  readonly #byNode = new Map<string, Device>();
  readonly #drivers: Driver[] = [];
  readonly #bound: Device[] = [];
  readonly #deferred = new Set<Device>();
  readonly #hooks: DmaHooks[] = [];
  #probing = 0;
  #retryWanted = false;
  #retrying = false;

  /** `pci`: what reaches the configuration space of PCI devices. */
  constructor(log: KernelLog, pci?: PciPort) {
    this.#log = log;
    this.#pci = pci;
    this.#initcalls = new Initcalls(log);
  }

  /** All devices in order of creation. */
  get devices(): Device[] {
    return [...this.#devices];
  }

  /** Devices that wait for something. */
  get deferred(): Device[] {
    return [...this.#deferred];
  }

  /** Initcalls that ran, in order. */
  get initcallRuns(): readonly InitcallRun[] {
    return this.#initcalls.runs;
  }

  /** Registers an initcall; RangeError when its level is over. */
  initcall(level: InitcallLevel, name: string, call: Initcall): void {
    this.#initcalls.add(level, name, call);
  }

  /** Runs the initcalls that have not run, by level and order of registration, up to and including level `last`. */
  boot(last: InitcallLevel = "late"): void {
    this.#initcalls.run(last, (level) => {
      if (level === "late") this.retryDeferred();
    });
    if (last === "late") this.retryDeferred();
  }

  /** Adds hooks that run around every binding, in order of addition (in reverse for clean-up). */
  addDmaHooks(hooks: DmaHooks): void {
    this.#hooks.push(hooks);
  }

  /** Registers a driver and offers it every unbound device of its bus. Returns how many bound. */
  registerDriver(driver: Driver): number {
    if (driver.bus === "faux") throw new RangeError(`driver ${driver.name}: faux devices bring their driver, see addFaux`);
    if (this.#drivers.includes(driver)) throw new RangeError(`driver ${driver.name} is already registered`);
    this.#drivers.push(driver);
    this.sysfs.mkdir(driverPath(driver));
    let bound = 0;
    for (const dev of this.devices) {
      if (dev.driver !== undefined || !matches(driver, dev)) continue;
      this.#bind(dev, driver);
      if (this.driverOf(dev) === driver) bound++;
    }
    return bound;
  }

  /** Unbinds the driver from its devices, which stay unbound until another driver is registered or {@link attach} is called. */
  unregisterDriver(driver: Driver): void {
    const at = this.#drivers.indexOf(driver);
    if (at < 0) throw new RangeError(`driver ${driver.name} is not registered`);
    this.#drivers.splice(at, 1);
    for (const dev of this.boundTo(driver)) this.unbind(dev);
    this.sysfs.remove(driverPath(driver));
  }

  /** Makes the devices that firmware describes: PCI where the name is a PCI address, else platform. */
  populate(firmware: Firmware): Device[] {
    return firmware.nodes.map((node) =>
      this.addDevice({ name: node.name, bus: PCI_NAME.test(node.name) ? "pci" : "platform", node }),
    );
  }

  /** Adds a device and offers it to the drivers of its bus. */
  addDevice(options: DeviceOptions): Device {
    const dev = this.#add(options);
    this.attach(dev);
    return dev;
  }

  /** Adds an auxiliary device below `parent` and offers it to auxiliary drivers. */
  addAuxiliary(options: AuxiliaryOptions): Device {
    return this.addDevice({ ...options, bus: "auxiliary" });
  }

  /** Adds a faux device and binds `driver`. `undefined` when its probe fails or defers: the device is gone again. */
  addFaux(options: FauxOptions): Device | undefined {
    const dev = this.#add({ name: options.name, bus: "faux", parent: options.parent });
    this.#bind(dev, options.driver);
    if (this.driverOf(dev) !== undefined) return dev;
    this.removeDevice(dev);
    return undefined;
  }

  /** Offers an unbound device to the registered drivers, first registered first. True when it is bound afterwards. */
  attach(dev: Device): boolean {
    for (const driver of [...this.#drivers]) {
      if (dev.driver !== undefined || !this.#devices.has(dev)) break;
      if (matches(driver, dev) && !this.#bind(dev, driver)) break;
    }
    return dev.driver !== undefined;
  }

  /** Unbinds the driver of `dev`; a device without one is left alone. */
  unbind(dev: Device): void {
    const { driver } = dev;
    if (driver === undefined) return;
    driver.remove?.(dev);
    const at = this.#bound.indexOf(dev);
    if (at >= 0) this.#bound.splice(at, 1);
    this.sysfs.remove(`${dev.path}/driver`);
    this.sysfs.remove(`${driverPath(driver)}/${dev.name}`);
    this.#unbound(dev);
  }

  /** Removes a device, its children first. */
  removeDevice(dev: Device): void {
    if (!this.#devices.has(dev)) throw new RangeError(`device ${dev.name} is not registered`);
    for (const child of dev.children.toReversed()) this.removeDevice(child);
    this.unbind(dev);
    this.#deferred.delete(dev);
    for (const hooks of this.#hooks.toReversed()) hooks.remove(dev);
    this.#devices.delete(dev);
    if (dev.node !== undefined && this.#byNode.get(dev.node.name) === dev) this.#byNode.delete(dev.node.name);
    const siblings = dev.parent?.children ?? [];
    const at = siblings.indexOf(dev);
    if (at >= 0) siblings.splice(at, 1);
    this.sysfs.remove(`bus/${dev.bus}/devices/${dev.name}`);
    this.sysfs.remove(dev.path);
  }

  /** Calls the shutdown of every bound driver, last bound first. */
  shutdown(): void {
    for (const dev of this.#bound.toReversed()) dev.driver?.shutdown?.(dev);
  }

  /** Tries the deferred devices again: now, or after the probe that is running. */
  retryDeferred(): void {
    this.#retryWanted = true;
    if (this.#probing > 0 || this.#retrying) return;
    this.#retrying = true;
    try {
      while (this.#takeRetry()) {
        for (const dev of this.deferred) if (this.#deferred.has(dev)) this.attach(dev);
      }
    } finally {
      this.#retrying = false;
    }
  }

  /** Device that firmware node `name` became. */
  findByNode(name: string): Device | undefined {
    return this.#byNode.get(name);
  }

  /** Devices bound to `driver` (or to a driver of that name), in order of binding. */
  boundTo(driver: Driver | string): Device[] {
    return this.#bound.filter((dev) => dev.driver === driver || dev.driver?.name === driver);
  }

  /** The bound driver; as a call, because binding happens behind the caller's back. */
  driverOf(dev: Device): Driver | undefined {
    return dev.driver;
  }

  #takeRetry(): boolean {
    const wanted = this.#retryWanted;
    this.#retryWanted = false;
    return wanted;
  }

  #add(options: DeviceOptions): Device {
    const dev = new Device({ pciPort: this.#pci, ...options });
    if (options.parent !== undefined && !this.#devices.has(options.parent)) {
      throw new RangeError(`device ${dev.name}: its parent ${options.parent.name} is not registered`);
    }
    this.sysfs.link(`bus/${dev.bus}/devices/${dev.name}`, dev.path);
    this.sysfs.mkdir(dev.path);
    this.#devices.add(dev);
    dev.parent?.children.push(dev);
    if (dev.node !== undefined && !this.#byNode.has(dev.node.name)) this.#byNode.set(dev.node.name, dev);
    return dev;
  }

  /** Binds or fails. False when the DMA set-up refused, so that other drivers need not be asked. */
  #bind(dev: Device, driver: Driver): boolean {
    this.#probing++;
    let configured = 0;
    let status = 0;
    dev.driver = driver;
    try {
      for (const hooks of this.#hooks) {
        if (status === 0) status = hooks.configure(dev);
      }
      configured = status;
      if (status === 0) status = driver.probe(dev);
    } finally {
      this.#probing--;
    }
    if (status < 0) this.#failed(dev, driver, status);
    else this.#succeeded(dev, driver);
    return configured === 0;
  }

  #failed(dev: Device, driver: Driver, status: number): void {
    this.#unbound(dev);
    if (status === -ERRNO.EPROBE_DEFER) {
      dev.deferrals++;
      this.deferrals++;
      this.#deferred.add(dev);
      return;
    }
    const level = QUIET.includes(status) ? "debug" : "err";
    this.#log.print(level, `${driver.name} ${dev.name}: probe failed: ${errnoName(status)}`);
  }

  #succeeded(dev: Device, driver: Driver): void {
    this.#deferred.delete(dev);
    this.#bound.push(dev);
    this.sysfs.link(`${dev.path}/driver`, driverPath(driver));
    this.sysfs.link(`${driverPath(driver)}/${dev.name}`, dev.path);
    this.retryDeferred();
  }

  #unbound(dev: Device): void {
    dev.driver = undefined;
    dev.drvdata = undefined;
    for (const hooks of this.#hooks.toReversed()) hooks.cleanup(dev);
  }
}

function driverPath(driver: Driver): string {
  const bus: BusName = driver.bus;
  return `bus/${bus}/drivers/${driver.name}`;
}
