import { DMA_DIRECTION } from "@smmuv3/arch-common";
import type { BootOptions, HostPort, KernelPort } from "@smmuv3/arch-common";
import type { DmaMaster } from "@smmuv3/machine";
import { frameArg, hypercallName, setFrame } from "@smmuv3/pkvm-abi";
import type { HypercallName } from "@smmuv3/pkvm-abi";
import { ERRNO, errnoName, PAGE_SIZE, TRANSLATION } from "@smmuv3/platform";
import type { Memory } from "@smmuv3/platform";
import type { BuiltArchitecture } from "../lab/architectures.ts";
import { createBoard } from "../lab/board.ts";
import type { Board, BoardOptions } from "../lab/board.ts";
import { absent, hidden } from "./feature.ts";
import type { Cell } from "./feature.ts";

/** Devices of a probe's machine. */
export const DEVICES = ["0000:00:01.0", "0000:00:02.0"] as const;
const RAM_BYTES = 64 << 20;
const VM_BASE = 0x8000_0000;
const SENTINEL = 0x5ec2_e700;
/** What is read where DMA was refused. */
const NOTHING = 0x0bad_c0de;

export interface ProbeOptions extends Partial<BoardOptions> {
  /** Besides what the variant asks for. */
  readonly boot?: BootOptions;
  /** Called with the machine before anything runs on it. */
  readonly prepare?: (board: Board) => void;
  /** Leave EL2 out. */
  readonly withoutHyp?: boolean;
}

/** Boots the design under test, on as many machines as a probe likes. */
export class Lab {
  readonly built: BuiltArchitecture;

  constructor(built: BuiltArchitecture) {
    this.built = built;
  }

  /** It has a hypervisor. */
  get hyp(): boolean {
    return this.built.startHypervisor !== undefined;
  }

  /** Its EL2 drives IOMMUs. */
  get protects(): boolean {
    return this.built.architecture.el2.some((name) => name.endsWith("iommu") || name.includes("smmu"));
  }

  /** A booted machine. The SMMU keeps what it may until it is invalidated: a forgotten invalidation shows. */
  boot(options: ProbeOptions = {}): Rig {
    const { boot, prepare, withoutHyp, ...board } = options;
    const machine = createBoard({ devices: DEVICES, profile: "lazy", ramBytes: RAM_BYTES, ...board });
    prepare?.(machine);
    if (withoutHyp !== true) this.built.startHypervisor?.(machine.machine.hyp, machine.firmware);
    return new Rig(machine, this.built.bootKernel(machine.machine.host, machine.firmware, boot));
  }

  /** As {@link boot}; a machine on which the design does not protect what it claims to is a cell: it did not work. */
  bootWhole(options: ProbeOptions = {}): Rig | Cell {
    let rig: Rig;
    try {
      rig = this.boot(options);
    } catch (error) {
      return absent(`does not boot: ${error instanceof Error ? error.message : String(error)}`);
    }
    const { status } = rig.port;
    if (status.iommus.length === 0) return absent(`does not probe: ${status.warnings.at(-1) ?? "no IOMMU is registered"}`);
    if (this.protects && !status.iommuAtEl2) return absent(`no protection: ${status.warnings[0] ?? "EL2 does not own the SMMU"}`);
    return rig;
  }
}

/** A page of a protected VM, with its sentinel. */
export interface TakenPage {
  readonly pa: number;
  readonly handle: number;
  readonly sentinel: number;
}

/** One booted machine. */
export class Rig {
  readonly board: Board;
  readonly port: HostPort;
  readonly kernel: KernelPort;
  readonly memory: Memory;
  #value = 0x600d_0000;

  constructor(board: Board, port: HostPort) {
    if (port.kernel === undefined) throw new Error("the kernel has no port for users of the IOMMU core");
    this.board = board;
    this.port = port;
    this.kernel = port.kernel;
    this.memory = board.machine.memory;
  }

  /** The device's DMA, by the kernel's number of it. */
  master(device: number): DmaMaster {
    return this.board.masters.get(this.port.devices[device] ?? "")!;
  }

  /** A page of the kernel. */
  page(): number {
    const pa = this.port.allocPages(PAGE_SIZE);
    if (pa < 0) throw new Error(`no page: ${errnoName(pa)}`);
    return pa;
  }

  map(device: number, pa: number): number {
    return this.port.dmaMap(device, pa, PAGE_SIZE, DMA_DIRECTION.bidirectional);
  }

  unmap(device: number, dma: number): number {
    return this.port.dmaUnmap(device, dma, PAGE_SIZE, DMA_DIRECTION.bidirectional);
  }

  /** A write of the device to `address` lands in memory at `pa`, and it reads the same back. */
  reaches(device: number, address: number, pa: number): boolean {
    return this.masterReaches(this.master(device), address, pa);
  }

  masterReaches(master: DmaMaster, address: number, pa: number): boolean {
    const value = ++this.#value;
    const word = Int32Array.of(value);
    if (master.write(address, word) !== TRANSLATION.ok || this.memory.load32(pa) !== value) return false;
    word[0] = NOTHING;
    return master.read(address, word) === TRANSLATION.ok && word[0] === value;
  }

  /** The device gets no answer at `address`, for reads and writes. */
  refused(device: number, address: number): boolean {
    const master = this.master(device);
    const answers = [master.read(address, Int32Array.of(NOTHING)), master.write(address, Int32Array.of(NOTHING))];
    return answers.every((status) => status !== TRANSLATION.ok);
  }

  /** A round through the DMA API: map, transfer, unmap. */
  dmaWorks(device: number): boolean {
    const pa = this.page();
    const dma = this.map(device, pa);
    if (dma < 0) return false;
    const reached = this.reaches(device, dma, pa);
    return this.unmap(device, dma) === 0 && reached;
  }

  /** Gives a page to a protected VM, whose vCPU writes into it. A negative errno on failure. */
  takePage(pa: number): TakenPage | number {
    const handle = this.port.vmCreate(1);
    if (handle < 0) return handle;
    this.board.machine.setGuestProgram(handle, 0, (guest) => {
      guest.store32(VM_BASE, SENTINEL);
    });
    const status = this.port.vmDonate(handle, pa, VM_BASE);
    if (status < 0) return status;
    const exit = this.port.vmRun(handle, 0);
    return exit === 0 ? { pa, handle, sentinel: SENTINEL } : -ERRNO.EIO;
  }

  /** The device cannot read or change the VM's page, at `address`. */
  outOfReach(device: number, address: number, page: TakenPage): boolean {
    const master = this.master(device);
    const word = Int32Array.of(NOTHING);
    master.read(address, word);
    const read = word[0] === page.sentinel;
    word[0] = NOTHING;
    master.write(address, word);
    return !read && this.memory.load32(page.pa) === page.sentinel;
  }

  /** What the machine latched; empty: nothing. */
  get trouble(): string {
    const { panics, aborts, errors } = this.board.machine;
    if (panics.length > 0) return `EL2 panic: ${panics[0]!.reason}`;
    if (errors.length > 0) return `machine: ${errors[0]!.reason}`;
    return aborts.length > 0 ? `the kernel took ${aborts.length} aborts` : "";
  }

  /** Bits of IDR0 as the hardware has them. */
  get hardwareIdr0(): number {
    return this.board.smmu.registers.read32(0);
  }

  /** A new domain of a device, or the cell that says why there is none. */
  newDomain(device: number): number | Cell {
    const domain = this.kernel.allocDomain(device);
    if (domain >= 0) return domain;
    const text = `the kernel gets ${errnoName(domain)} when it asks for a translating domain; the SMMU has IDR0.S1P = 1`;
    return domain === -ERRNO.EOPNOTSUPP ? hidden(text) : absent(text);
  }
}

/** Calls `look` after every word that EL1 or EL2 stores, from now on. */
export function watchStores({ machine }: Board, look: () => void): void {
  for (const memory of new Set([machine.host.memory, machine.hyp.memory])) {
    const store = memory.store32.bind(memory);
    memory.store32 = (pa, value) => {
      store(pa, value);
      look();
    };
  }
}

/** Has EL2 refuse a hypercall of the host with `errno`. */
export function refuseCall({ machine: { host } }: Board, name: HypercallName, errno: number): void {
  const hvc = host.hvc.bind(host);
  host.hvc = (frame) => {
    if (hypercallName(frame[0]!) !== name || frameArg(frame, 0) === 0) {
      hvc(frame);
      return;
    }
    frame.fill(0);
    setFrame(frame, 1, -errno);
  };
}

