import { DMA_CLIENT } from "@smmuv3/arch-common";
import { Machine, MsiFrame } from "@smmuv3/machine";
import type { DmaMaster } from "@smmuv3/machine";
import { hypercallName, HYPERCALLS } from "@smmuv3/pkvm-abi";
import { Counters, PAGE_SIZE } from "@smmuv3/platform";
import type { Firmware, FirmwareNode, Translator } from "@smmuv3/platform";
import { OFFSET, REGISTER_SPACE } from "@smmuv3/smmu-v3-defs";
import { SmmuV3 } from "@smmuv3/smmu-v3-model";
import { assignStreams } from "./streams.ts";
import type { Stream } from "./streams.ts";

/** Where things are: the `virt` machine on which the shipped traces were recorded. */
const RAM_BASE = 0x40000000;
const SMMU_BASE = 0x09050000;
const SMMU_IRQS = { eventq: 106, priq: 107, "cmdq-sync": 108, gerror: 109 } as const;
const SMMU_NODE = "smmuv3@9050000";
const DOORBELL_BASE = 0x08090000;

/** Registers by which events are handled: their traps are listed apart. */
const EVENT_REGISTERS: ReadonlySet<number> = new Set([
  OFFSET.EVENTQ_PROD,
  OFFSET.EVENTQ_CONS,
  OFFSET.GERROR,
  OFFSET.GERRORN,
]);

/** Cache profiles of the hardware model. */
export const PROFILES = ["lazy", "eager", "finite"] as const;
export type Profile = (typeof PROFILES)[number];

export interface BoardOptions {
  /** Names of the devices that do DMA, each once. Those that are no PCI functions get a StreamID by {@link assignStreams}. */
  readonly devices: readonly string[];
  readonly profile: Profile;
  /** Bytes of RAM, a multiple of 2 MiB. */
  readonly ramBytes: number;
  /** Puts something else between the devices and memory than the SMMU itself. */
  readonly translator?: ((smmu: SmmuV3) => Translator) | undefined;
}

/** One machine with one SMMUv3 and DMA masters behind it. */
export interface Board {
  readonly machine: Machine;
  readonly smmu: SmmuV3;
  readonly firmware: Firmware;
  readonly counters: Counters;
  readonly streams: readonly Stream[];
  /** Device names by the name of their firmware node. */
  readonly deviceNames: ReadonlyMap<string, string>;
  /** By device name. */
  readonly masters: ReadonlyMap<string, DmaMaster>;
}

function hvcCounter(id: number): string {
  const name = hypercallName(id);
  return name === undefined ? "hypercalls.unknown" : `hypercalls.${HYPERCALLS[name].class}`;
}

function trapCounter(pa: number): string {
  return EVENT_REGISTERS.has(pa - SMMU_BASE) ? "traps.events" : "traps.mmio";
}

function clientNode({ node, streamId }: Stream): FirmwareNode {
  return {
    name: node,
    compatible: [DMA_CLIENT],
    reg: [],
    interrupts: {},
    iommus: [{ iommu: SMMU_NODE, id: streamId }],
    properties: { "dma-coherent": true },
  };
}

/** Firmware of a machine with `devices` behind its SMMU. */
export function describeFirmware(devices: readonly string[], ramBytes: number): Firmware {
  const smmu: FirmwareNode = {
    name: SMMU_NODE,
    compatible: ["arm,smmu-v3"],
    reg: [{ base: SMMU_BASE, size: REGISTER_SPACE }],
    interrupts: SMMU_IRQS,
    iommus: [],
    properties: { "dma-coherent": true },
  };
  return {
    memory: { base: RAM_BASE, size: ramBytes },
    doorbells: [{ base: DOORBELL_BASE, size: PAGE_SIZE }],
    nodes: [smmu, ...assignStreams(devices).map(clientNode)],
  };
}

/** Builds the machine; nothing has run on it yet. */
export function createBoard(options: BoardOptions): Board {
  const firmware = describeFirmware(options.devices, options.ramBytes);
  const counters = new Counters();
  const machine = new Machine({ memory: firmware.memory, counters, hvcCounter, trapCounter });
  const smmu = new SmmuV3({
    memory: machine.memory,
    profile: options.profile,
    counters,
    irq: {
      evtq: machine.line(SMMU_IRQS.eventq),
      gerror: machine.line(SMMU_IRQS.gerror),
      priq: machine.line(SMMU_IRQS.priq),
      cmdSync: machine.line(SMMU_IRQS["cmdq-sync"]),
    },
    msi: (paLo, paHi, data) => machine.msi(paLo, paHi, data),
  });
  machine.addDevice(SMMU_NODE, SMMU_BASE, REGISTER_SPACE, smmu.registers);
  machine.addDevice("its", DOORBELL_BASE, PAGE_SIZE, new MsiFrame(machine));
  const translator = options.translator?.(smmu) ?? smmu;
  const streams = assignStreams(options.devices);
  const deviceNames = new Map(streams.map(({ node, device }) => [node, device]));
  const masters = new Map(streams.map(({ device, streamId }) => [device, machine.dmaMaster(device, streamId, translator)]));
  return { machine, smmu, firmware, counters, streams, deviceNames, masters };
}
