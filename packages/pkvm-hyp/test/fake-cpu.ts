import { Counters, FRAME_WORDS, Memory } from "@smmuv3/platform";
import type { AbortAction, Firmware, HostCpu, HypCpu, HypVectors, RegisterWindow, Stage2Regime } from "@smmuv3/platform";
import { hypercall } from "@smmuv3/pkvm-abi";
import type { HypercallName } from "@smmuv3/pkvm-abi";

export const RAM_BASE = 0x4000_0000;
export const RAM_SIZE: number = 16 * 1024 * 1024;

/** RAM, a UART, an SMMU and a doorbell. */
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
    return this.guestExit;
  }
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

  /** A stage-2 abort of the host. */
  abort(ipa: number, write = false, device = false): AbortAction | undefined {
    const frame = Int32Array.from([ipa | 0, (ipa / 2 ** 32) | 0, (write ? 1 : 0) | (device ? 2 : 0), 4, 0, 0]);
    return this.vectors?.dataAbort(frame);
  }
}
