import type { Device } from "./device.ts";

/** How the kernel reaches the configuration space of PCI functions: what it switches there. */
export interface PciPort {
  /** Address Translation Service of `dev`; `stu`: log2 of the bytes of its smallest translation. */
  setAts(dev: Device, enabled: boolean, stu: number): void;
  /** Process Address Space IDs of `dev`. */
  setPasid(dev: Device, enabled: boolean): void;
}

function numberOf(dev: Device, property: string): number {
  const value = dev.node?.properties[property];
  return typeof value === "number" ? value : 0;
}

/**
 * The capabilities of one PCI function, from properties of its node: `vendor-id`, `device-id`, `ats-capable`, `ats-required` (it
 * works with ATS only), `pci-pasid-bits`, `no-acs` (its slot's functions reach each other behind the IOMMU's back).
 */
export class PciFunction {
  readonly vendor: number;
  readonly device: number;
  readonly atsCapable: boolean;
  readonly atsRequired: boolean;
  /** log2 of the PASIDs that it has; 0: no such capability. */
  readonly pasidBits: number;
  readonly acs: boolean;
  /** log2 of the bytes of its smallest translation, once {@link enableAts} was called. */
  stu: number = 0;
  #ats = false;
  #pasid = false;
  readonly #dev: Device;
  readonly #port: PciPort | undefined;

  constructor(dev: Device, port: PciPort | undefined) {
    const has = (property: string): boolean => dev.node?.properties[property] === true;
    this.#dev = dev;
    this.#port = port;
    this.vendor = numberOf(dev, "vendor-id");
    this.device = numberOf(dev, "device-id");
    this.atsRequired = has("ats-required");
    this.atsCapable = has("ats-capable") || this.atsRequired;
    this.pasidBits = numberOf(dev, "pci-pasid-bits");
    this.acs = !has("no-acs");
  }

  get atsEnabled(): boolean {
    return this.#ats;
  }

  get pasidEnabled(): boolean {
    return this.#pasid;
  }

  /** `pci_enable_ats`. RangeError where the function has none, or it is on. */
  enableAts(stu: number): void {
    if (!this.atsCapable || this.#ats) throw new RangeError(`${this.#dev.name}: ATS is ${this.#ats ? "on" : "not there"}`);
    this.stu = stu;
    this.#ats = true;
    this.#port?.setAts(this.#dev, true, stu);
  }

  /** `pci_disable_ats`; what is off stays off. The device forgets its translations. */
  disableAts(): void {
    if (!this.#ats) return;
    this.#ats = false;
    this.#port?.setAts(this.#dev, false, this.stu);
  }

  /** `pci_enable_pasid`: false where there are none, or ATS is on already. */
  enablePasid(): boolean {
    if (this.pasidBits === 0 || this.#ats) return false;
    this.#pasid = true;
    this.#port?.setPasid(this.#dev, true);
    return true;
  }

  /** `pci_disable_pasid`. */
  disablePasid(): void {
    if (!this.#pasid) return;
    this.#pasid = false;
    this.#port?.setPasid(this.#dev, false);
  }
}
