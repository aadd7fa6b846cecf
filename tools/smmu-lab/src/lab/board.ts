import { DMA_CLIENT } from "@smmuv3/arch-common";
import { Machine, MsiFrame } from "@smmuv3/machine";
import type { DmaMaster } from "@smmuv3/machine";
import { hypercallName, HYPERCALLS } from "@smmuv3/pkvm-abi";
import { Counters, PAGE_SIZE } from "@smmuv3/platform";
import type { Firmware, FirmwareNode, RegisterWindow, Translator } from "@smmuv3/platform";
import { OFFSET, REGISTER_SPACE } from "@smmuv3/smmu-v3-defs";
import { SmmuV3 } from "@smmuv3/smmu-v3-model";
import { HARDWARE } from "./hardware.ts";
import type { HardwarePreset } from "./hardware.ts";
import { assignStreams } from "./streams.ts";
import type { Stream } from "./streams.ts";

/** Where things are: the `virt` machine on which the shipped traces were recorded. */
const RAM_BASE = 0x40000000;
/** Registers of the SMMU. */
export const SMMU_BASE = 0x09050000;
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
  /** The SMMU; default: `nested`. */
  readonly hardware?: HardwarePreset | undefined;
  /** Where RAM begins; default: where the shipped traces were recorded. */
  readonly ramBase?: number | undefined;
  /** Further firmware properties, by device. */
  readonly properties?: Readonly<Record<string, FirmwareNode["properties"]>> | undefined;
  /** Further firmware nodes, behind the others; `smmu` is the SMMU's node. */
  readonly nodes?: ((smmu: FirmwareNode) => readonly FirmwareNode[]) | undefined;
  /** Order of the nodes in firmware; default: the SMMU first. */
  readonly order?: ((nodes: readonly FirmwareNode[]) => readonly FirmwareNode[]) | undefined;
  /** Called after each write to a register of the SMMU, by whom ever. */
  readonly onRegisterWrite?: (() => void) | undefined;
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
  /** How often each hypercall of the host was made, by name. */
  readonly hypercalls: ReadonlyMap<string, number>;
}

function trapCounter(pa: number): string {
  return EVENT_REGISTERS.has(pa - SMMU_BASE) ? "traps.events" : "traps.mmio";
}

function clientNode({ node, streamId, device }: Stream, more: BoardOptions["properties"]): FirmwareNode {
  return {
    name: node,
    compatible: [DMA_CLIENT],
    reg: [],
    interrupts: {},
    iommus: [{ iommu: SMMU_NODE, id: streamId }],
    properties: { "dma-coherent": true, ...more?.[device] },
  };
}

/** `window`, whose writes are followed by `after`. */
function watched(window: RegisterWindow, after: () => void): RegisterWindow {
  return {
    get hi() {
      return window.hi;
    },
    read32: (offset) => window.read32(offset),
    read64: (offset) => window.read64(offset),
    write32(offset, value) {
      window.write32(offset, value);
      after();
    },
    write64(offset, lo, hi) {
      window.write64(offset, lo, hi);
      after();
    },
  };
}

/** Firmware of a machine with `devices` behind its SMMU. */
export function describeFirmware(
  devices: readonly string[], ramBytes: number, options: Partial<BoardOptions> = {},
): Firmware {
  const smmu: FirmwareNode = {
    name: SMMU_NODE,
    compatible: ["arm,smmu-v3"],
    reg: [{ base: SMMU_BASE, size: REGISTER_SPACE }],
    interrupts: SMMU_IRQS,
    iommus: [],
    properties: options.hardware?.coherent === false ? {} : { "dma-coherent": true },
  };
  const clients = assignStreams(devices).map((stream) => clientNode(stream, options.properties));
  const nodes = [smmu, ...clients, ...(options.nodes?.(smmu) ?? [])];
  return {
    memory: { base: options.ramBase ?? RAM_BASE, size: ramBytes },
    doorbells: [{ base: DOORBELL_BASE, size: PAGE_SIZE }],
    nodes: options.order?.(nodes) ?? nodes,
  };
}

/** Builds the machine; nothing has run on it yet. */
export function createBoard(options: BoardOptions): Board {
  const firmware = describeFirmware(options.devices, options.ramBytes, options);
  const counters = new Counters();
  const hypercalls = new Map<string, number>();
  const hvcCounter = (id: number): string => {
    const name = hypercallName(id);
    if (name === undefined) return "hypercalls.unknown";
    hypercalls.set(name, (hypercalls.get(name) ?? 0) + 1);
    return `hypercalls.${HYPERCALLS[name].class}`;
  };
  const machine = new Machine({ memory: firmware.memory, counters, hvcCounter, trapCounter });
  const smmu = new SmmuV3({
    memory: machine.memory,
    id: (options.hardware ?? HARDWARE.nested).id,
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
  machine.addDevice(SMMU_NODE, SMMU_BASE, REGISTER_SPACE, options.onRegisterWrite === undefined ? smmu.registers : watched(smmu.registers, options.onRegisterWrite));
  machine.addDevice("its", DOORBELL_BASE, PAGE_SIZE, new MsiFrame(machine));
  const translator = options.translator?.(smmu) ?? smmu;
  const streams = assignStreams(options.devices);
  const deviceNames = new Map(streams.map(({ node, device }) => [node, device]));
  const masters = new Map(streams.map(({ device, streamId }) => [device, machine.dmaMaster(device, streamId, translator)]));
  return { machine, smmu, firmware, counters, streams, deviceNames, masters, hypercalls };
}
