import { Counters, FRAME_WORDS, Memory } from "@smmuv3/platform";
import type { AbortAction, Firmware, HostCpu, HypCpu, HypVectors, RegisterWindow, Stage2Regime } from "@smmuv3/platform";
import { frameArg, frameResult, hypercall, hypercallFrame, setFrame } from "@smmuv3/pkvm-abi";
import type { HypercallName } from "@smmuv3/pkvm-abi";

export const RAM_BASE = 0x4000_0000;
export const RAM_SIZE: number = 16 * 1024 * 1024;

/** StreamIDs of the devices: the DMA engine's second one is the disk's as well. */
export const SID = { dma: 8, shared: 9, disk: 10, net: 11, can: 12 } as const;
export const DMA_MMIO = 0x0a00_0000;

const stream = (id: number) => ({ iommu: "smmuv3@9050000", id });
const device = (name: string, base: number, sids: number[]) => ({
  name,
  compatible: ["test,device"],
  reg: [{ base, size: 0x1000 }],
  interrupts: {},
  iommus: sids.map(stream),
  properties: {},
});

/** RAM, a UART, an SMMU, four devices behind it, the last of which shares its page with another, and a doorbell. */
export const FIRMWARE: Firmware = {
  memory: { base: RAM_BASE, size: RAM_SIZE },
  doorbells: [{ base: 0x0808_0000, size: 0x1000 }],
  nodes: [
    {
      name: "uart@9000000",
      compatible: ["arm,pl011"],
      reg: [{ base: 0x0900_0000, size: 0x1000 }],
      interrupts: {},
      iommus: [],
      properties: {},
    },
    {
      name: "smmuv3@9050000",
      compatible: ["arm,smmu-v3"],
      reg: [{ base: 0x0905_0000, size: 0x2_0000 }],
      interrupts: {},
      iommus: [],
      properties: {},
    },
    device("dma@a000000", DMA_MMIO, [SID.dma, SID.shared]),
    device("disk@a001000", DMA_MMIO + 0x1000, [SID.shared, SID.disk]),
    device("net@a002000", DMA_MMIO + 0x2000, [SID.net]),
    { ...device("can@a003000", DMA_MMIO + 0x3000, [SID.can]), reg: [{ base: DMA_MMIO + 0x3000, size: 0x800 }] },
    { ...device("gpio@a003800", DMA_MMIO + 0x3800, []), reg: [{ base: DMA_MMIO + 0x3800, size: 0x800 }] },
  ],
};

export class Panic extends Error {}

/** EL2's CPU on bare memory. What EL2 asks of it is on record, in order. */
export class FakeHypCpu implements HypCpu {
  readonly level = 2;
  readonly memory: Memory = Memory.allocate({ base: RAM_BASE, size: RAM_SIZE });
  readonly counters: Counters = new Counters();
  readonly log: string[] = [];
  vectors: HypVectors | undefined = undefined;
  regime: Stage2Regime | undefined = undefined;
  guestRuns: { handle: number; vcpu: number; regime: Stage2Regime }[] = [];
  guestExit = 0;
  /** What a vCPU does when it runs. */
  guestProgram: () => void = () => {};

  ioremap(): RegisterWindow {
    throw new Error("no devices here");
  }
  now(): number {
    return 0;
  }
  relax(): void {}
  barrier(): void {}
  irqSave(): void {}
  irqRestore(): void {}
  install(vectors: HypVectors): void {
    this.vectors = vectors;
  }
  setHostStage2(regime: Stage2Regime | undefined): void {
    this.regime = regime;
    this.log.push("setHostStage2");
  }
  tlbiIpa(ipa: number, size: number): void {
    this.log.push(`tlbiIpa ${ipa.toString(16)} ${size}`);
  }
  tlbiAll(): void {
    this.log.push("tlbiAll");
  }
  runGuest(handle: number, vcpu: number, regime: Stage2Regime): number {
    this.guestRuns.push({ handle, vcpu, regime });
    this.guestProgram();
    return this.guestExit;
  }
  injectIrq(): void {}
  panic(reason: string): never {
    throw new Panic(reason);
  }

  /** The host's side of a hypercall. */
  call(name: HypercallName, ...args: number[]): number {
    const host = { hvc: (frame: Int32Array) => this.vectors?.hvc(frame) } as unknown as HostCpu;
    return hypercall(host, name, ...args);
  }

  /** A hypercall with arbitrary words; returns the frame. */
  raw(words: readonly number[]): Int32Array {
    const frame = new Int32Array(FRAME_WORDS);
    frame.set(words);
    this.vectors?.hvc(frame);
    return frame;
  }

  /** A hypercall of the guest of VM `handle`; returns x0 to x2. */
  guest(handle: number, ...registers: number[]): [status: number, x1: number, x2: number] {
    const frame = new Int32Array(FRAME_WORDS);
    registers.forEach((value, at) => { setFrame(frame, at, value); });
    this.vectors?.guestHvc?.(handle, 0, frame);
    return [frame[0]!, frameArg(frame, 1), frameArg(frame, 2)];
  }

  /** The reply to a hypercall with its request: x1 to x4. */
  reply(name: HypercallName, ...args: number[]): number[] {
    const host = { hvc: (frame: Int32Array) => this.vectors?.hvc(frame) } as unknown as HostCpu;
    const frame = hypercallFrame(host, name, args);
    return [frameResult(frame), frameArg(frame, 2), frameArg(frame, 3), frameArg(frame, 4)];
  }

  /** A stage-2 abort of the host. */
  abort(ipa: number, write = false, device = false): AbortAction | undefined {
    const frame = Int32Array.from([ipa | 0, (ipa / 2 ** 32) | 0, (write ? 1 : 0) | (device ? 2 : 0), 4, 0, 0]);
    return this.vectors?.dataAbort(frame);
  }
}
