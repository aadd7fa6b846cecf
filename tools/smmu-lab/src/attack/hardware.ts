import { Machine, MsiFrame } from "@smmuv3/machine";
import { BOOT_DMA_PROPERTY, Counters, PAGE_SIZE } from "@smmuv3/platform";
import type { Firmware, FirmwareNode } from "@smmuv3/platform";
import { maskOf, place, REG, REGISTER_SPACE } from "@smmuv3/smmu-v3-defs";
import { PRESETS, SmmuV3 } from "@smmuv3/smmu-v3-model";
import type { IdRegisters } from "@smmuv3/smmu-v3-model";
import { describeFirmware } from "../lab/board.ts";

/** As little as boots: the fewer pages, the sooner an attack hits one that matters. */
const RAM_BYTES = 8 << 20;
/** PCI functions behind the SMMU. */
const DEVICES = ["0000:00:01.0", "0000:00:02.0"] as const;
export const CLIENT_SIDS: readonly number[] = [0x8, 0x10];
/** A display that firmware left running: its stream keeps an identity map through boot. */
export const BOOT_SID = 0x18;
const DOORBELL_REGISTERS = PAGE_SIZE;
const IDR0_EXTRA: number = place(REG.IDR0.ATS, 1) | place(REG.IDR0.PRI, 1);
const PRIQ_LOG2 = 8;

/** StreamID bits: a linear stream table, one of few tables, and one that exhausts EL2's memory. */
export const SID_BITS = { linear: 6, small: 10, large: 16 } as const;

/** Everything that an attack may abuse is there: both stages, ATS, PRI, MSIs, range invalidation. */
function identity(sidBits: number): IdRegisters {
  const { reference } = PRESETS;
  const { SIDSIZE, PRIQS } = REG.IDR1;
  return { ...reference, IDR0: reference.IDR0 | IDR0_EXTRA, IDR1: (reference.IDR1 & ~maskOf(SIDSIZE)) | place(SIDSIZE, sidBits) | place(PRIQS, PRIQ_LOG2) };
}

/** The machine under attack: nothing has run on it yet. */
export interface Hardware {
  readonly machine: Machine;
  readonly smmu: SmmuV3;
  readonly firmware: Firmware;
  readonly smmuBase: number;
}

function bootDisplay(smmu: FirmwareNode): FirmwareNode {
  return {
    name: "framebuffer",
    compatible: ["framebuffer"],
    reg: [],
    interrupts: {},
    iommus: [{ iommu: smmu.name, id: BOOT_SID }],
    properties: { [BOOT_DMA_PROPERTY]: true },
  };
}

/** Builds the machine. The SMMU's caches keep everything until it is invalidated: that is when a missing TLBI shows. */
export function createHardware(sidBits: number): Hardware {
  const described = describeFirmware(DEVICES, RAM_BYTES);
  const node = described.nodes[0]!;
  const firmware: Firmware = { ...described, nodes: [...described.nodes, bootDisplay(node)] };
  const counters = new Counters();
  const machine = new Machine({ memory: firmware.memory, counters });
  const smmu = new SmmuV3({
    memory: machine.memory,
    id: identity(sidBits),
    profile: "lazy",
    counters,
    irq: { evtq: machine.line(node.interrupts["eventq"]!), gerror: machine.line(node.interrupts["gerror"]!) },
    msi: (paLo, paHi, data) => machine.msi(paLo, paHi, data),
  });
  const smmuBase = node.reg[0]!.base;
  machine.addDevice(node.name, smmuBase, REGISTER_SPACE, smmu.registers);
  for (const { base } of firmware.doorbells) machine.addDevice("its", base, DOORBELL_REGISTERS, new MsiFrame(machine));
  return { machine, smmu, firmware, smmuBase };
}
