import { DMA_DIRECTION } from "@smmuv3/arch-common";
import type { HostPort } from "@smmuv3/arch-common";
import { errnoName, PAGE_SIZE, TRANSLATION } from "@smmuv3/platform";
import { EVENT, getField } from "@smmuv3/smmu-v3-defs";
import type { Board } from "./board.ts";

/** What became of pages that were taken from the host while devices could reach them. */
export interface IsolationTally {
  /** Pages given to the protected VM. */
  pagesTaken: number;
  /** Of these, how many every device reached by DMA just before. */
  reachableBefore: number;
  /** Probes (device x page x direction) that neither read nor changed the VM's page. */
  dmaBlocked: number;
  /** Probes that did. */
  dmaLeaked: number;
  /** Probes whose event record says that stage 2 refused them. */
  stage2Faults: number;
  /** Donations that were refused while the page was mapped for DMA; it was unmapped and donated then. */
  donationsRefused: number;
}

/** VM address of the first page that is taken. */
const VM_BASE = 0x80000000;
/** Marks the words that the VM's vCPU writes. */
const SENTINEL = 0x5ec2e700;
/** What a device tries to put into a page that is no longer the host's. */
const INTRUSION = 0x0badc0de;
const MOST_FINDINGS = 10;

/** Takes pages from the host and probes them, keeping a ledger of its own of what is whose. */
export class Isolation {
  readonly tally: IsolationTally = {
    pagesTaken: 0,
    reachableBefore: 0,
    dmaBlocked: 0,
    dmaLeaked: 0,
    stage2Faults: 0,
    donationsRefused: 0,
  };
  /** First few leaks, in words. */
  readonly leaks: string[] = [];
  /** First few steps that did not work, in words: what they would have shown is not known. */
  readonly failures: string[] = [];
  readonly #board: Board;
  readonly #port: HostPort;
  /** Names of the port's devices, by number. */
  readonly #devices: readonly string[];
  /** The VM's pages by order of donation; the ledger. */
  readonly #pages: number[] = [];
  #handle = -1;

  constructor(board: Board, port: HostPort) {
    this.#board = board;
    this.#port = port;
    this.#devices = port.devices.map((node) => board.deviceNames.get(node) ?? node);
  }

  /** Takes one page: reach it from every device, give it away with the mappings alive and the TLB warm, probe, unmap. */
  takePage(): void {
    const port = this.#port;
    if (this.#handle < 0 && !this.#createVm()) return;
    const pa = port.allocPages(PAGE_SIZE);
    if (pa < 0) {
      this.#fail(`no page to take: ${errnoName(pa)}`);
      return;
    }
    const addresses = port.devices.map((_, device) => port.dmaMap(device, pa, PAGE_SIZE, DMA_DIRECTION.bidirectional));
    const reachable = this.#reach(pa, addresses);
    let status = this.#donate(pa);
    const mapped = status >= 0;
    if (!mapped) {
      this.tally.donationsRefused++;
      this.#unmap(addresses);
      status = this.#donate(pa);
    }
    if (status < 0) {
      this.#fail(`page 0x${pa.toString(16)} cannot be donated: ${errnoName(status)}`);
      port.freePages(pa, PAGE_SIZE);
      return;
    }
    this.#pages.push(pa);
    this.tally.pagesTaken++;
    if (reachable) this.tally.reachableBefore++;
    this.#runVcpu();
    this.#probe(pa, addresses);
    if (mapped) this.#unmap(addresses);
  }

  /** Every page that was taken still holds what its VM wrote; then the VM ends and its pages come back wiped. */
  finish(): void {
    if (this.#handle < 0) return;
    const { memory } = this.#board.machine;
    this.#pages.forEach((pa, index) => {
      if (memory.load32(pa) !== sentinel(index)) this.#leak(`page 0x${pa.toString(16)}: the VM's data changed later`);
    });
    const status = this.#port.vmDestroy(this.#handle, this.#pages);
    if (status < 0) this.#fail(`VM cannot be destroyed: ${errnoName(status)}`);
    for (const pa of this.#pages) {
      if (memory.load32(pa) !== 0) this.#leak(`page 0x${pa.toString(16)}: the VM's data came back to the host`);
      if (status >= 0) this.#port.freePages(pa, PAGE_SIZE);
    }
  }

  #createVm(): boolean {
    this.#handle = this.#port.vmCreate(1);
    if (this.#handle < 0) {
      this.#fail(`no protected VM: ${errnoName(this.#handle)}`);
      return false;
    }
    // The guest writes its sentinel into every page it has, each time it runs.
    this.#board.machine.setGuestProgram(this.#handle, 0, (guest) => {
      this.#pages.forEach((_, index) => {
        guest.store32(VM_BASE + index * PAGE_SIZE, sentinel(index));
      });
    });
    return true;
  }

  /** Every device writes and reads back a word of its own; memory agrees. */
  #reach(pa: number, addresses: readonly number[]): boolean {
    const { memory } = this.#board.machine;
    const word = new Int32Array(1);
    return this.#devices.every((name, device) => {
      const master = this.#board.masters.get(name)!;
      const dma = addresses[device]!;
      word[0] = pa + device;
      if (dma < 0 || master.write(dma, word) !== TRANSLATION.ok) return false;
      const landed = memory.load32(pa) === ((pa + device) | 0);
      word[0] = 0;
      return master.read(dma, word) === TRANSLATION.ok && word[0] === ((pa + device) | 0) && landed;
    });
  }

  #donate(pa: number): number {
    return this.#port.vmDonate(this.#handle, pa, VM_BASE + this.#pages.length * PAGE_SIZE);
  }

  #runVcpu(): void {
    const exit = this.#port.vmRun(this.#handle, 0);
    if (exit !== 0) this.#fail(`the VM's vCPU exited with ${exit}`);
  }

  /** Reads and writes from every device, judged by memory. */
  #probe(pa: number, addresses: readonly number[]): void {
    const { memory } = this.#board.machine;
    const mine = sentinel(this.#pages.length - 1);
    this.#devices.forEach((name, device) => {
      const master = this.#board.masters.get(name)!;
      const dma = addresses[device]!;
      if (dma < 0) return;
      const word = Int32Array.of(0);
      master.read(dma, word);
      this.#judge(word[0] !== mine, `${name} read the VM's page 0x${pa.toString(16)}`);
      word[0] = INTRUSION;
      master.write(dma, word);
      this.#judge(memory.load32(pa) === mine, `${name} wrote the VM's page 0x${pa.toString(16)}`);
      // The next device must find the sentinel whatever this one did.
      memory.store32(pa, mine);
    });
    // The kernel has not run since, so that the records are those of the probes.
    const records = this.#board.smmu.decodeEvents();
    this.tally.stage2Faults += records.filter(({ words }) => getField(words, 0, EVENT.S2) === 1).length;
    this.#port.poll();
  }

  #unmap(addresses: readonly number[]): void {
    addresses.forEach((dma, device) => {
      if (dma >= 0) this.#port.dmaUnmap(device, dma, PAGE_SIZE, DMA_DIRECTION.bidirectional);
    });
  }

  #judge(blocked: boolean, leak: string): void {
    if (blocked) this.tally.dmaBlocked++;
    else this.#leak(leak);
  }

  #leak(finding: string): void {
    this.tally.dmaLeaked++;
    if (this.leaks.length < MOST_FINDINGS) this.leaks.push(finding);
  }

  #fail(finding: string): void {
    if (this.failures.length < MOST_FINDINGS) this.failures.push(finding);
  }
}

function sentinel(index: number): number {
  return (SENTINEL + index) | 0;
}
