import { cfgiAll, queueBase, strtabBase, strtabBaseCfg, tlbiEl2All, tlbiNsnhAll } from "@smmuv3/arm-smmu-v3-common";
import type { CommandRing, EventQueue, SmmuFeatures, StrtabGeometry } from "@smmuv3/arm-smmu-v3-common";
import { CACHEABILITY, CMD_WORDS, maskOf, OFFSET, place, REG, SHAREABILITY } from "@smmuv3/smmu-v3-defs";
import { hi32, lo32 } from "@smmuv3/platform";
import { abortWhenDisabled, writeAcked, writeCr0 } from "./registers.ts";
import { PAGE0_INDICES } from "./queues.ts";
import type { SmmuDevice } from "./smmu.ts";

/** What the SMMU is pointed to. */
export interface Structures {
  readonly features: SmmuFeatures;
  readonly cmdq: CommandRing;
  readonly evtq: EventQueue;
  readonly priq: EventQueue | undefined;
  readonly strtab: number;
  readonly geometry: StrtabGeometry;
  /** Streams of EL2 (VHE). */
  readonly e2h: boolean;
}

/** Who serves the SMMU's interrupts: wired ones, or messages. */
export interface InterruptSetup {
  /** Requests the wired ones. */
  wired(): void;
  /** Handlers by queue. */
  readonly eventq: () => void;
  readonly gerror: () => void;
  readonly priq: () => void;
}

const { CR0, CR1, CR2, IRQ_CTRL } = REG;

/** Tables and queues: inner shareable, write-back. The SMMU ignores it for what it does not snoop. */
const ATTRIBUTES: number =
  place(CR1.TABLE_SH, SHAREABILITY.inner) |
  place(CR1.QUEUE_SH, SHAREABILITY.inner) |
  place(CR1.TABLE_OC, CACHEABILITY.writeBackReadAllocate) |
  place(CR1.TABLE_IC, CACHEABILITY.writeBackReadAllocate) |
  place(CR1.QUEUE_OC, CACHEABILITY.writeBackReadAllocate) |
  place(CR1.QUEUE_IC, CACHEABILITY.writeBackReadAllocate);

function writeBase(smmu: SmmuDevice, offset: number, value: Int32Array): void {
  smmu.window.write64(offset, value[0]!, value[1]!);
}

/** Forgets all that the SMMU may have cached before it was ours. */
function invalidateEverything(cmdq: CommandRing, hyp: boolean): number {
  const words = new Int32Array(CMD_WORDS);
  cfgiAll(words, 0);
  let status = cmdq.issue(words, 1, true);
  if (hyp && status === 0) {
    tlbiEl2All(words, 0);
    status = cmdq.issue(words, 1, true);
  }
  if (status === 0) {
    tlbiNsnhAll(words, 0);
    status = cmdq.issue(words, 1, true);
  }
  return status;
}

interface RingRegisters {
  readonly base: number;
  readonly prod: number;
  readonly cons: number;
}

const CMDQ: RingRegisters = { base: OFFSET.CMDQ_BASE, prod: OFFSET.CMDQ_PROD, cons: OFFSET.CMDQ_CONS };
const EVENTQ: RingRegisters = { base: OFFSET.EVENTQ_BASE, prod: OFFSET.EVENTQ_PROD, cons: OFFSET.EVENTQ_CONS };
const PRIQ: RingRegisters = { base: OFFSET.PRIQ_BASE, prod: OFFSET.PRIQ_PROD, cons: OFFSET.PRIQ_CONS };

const EVENTQ_PAGE0: RingRegisters = { base: OFFSET.EVENTQ_BASE, prod: PAGE0_INDICES.evtqProd, cons: PAGE0_INDICES.evtqCons };
const PRIQ_PAGE0: RingRegisters = { base: OFFSET.PRIQ_BASE, prod: PAGE0_INDICES.priqProd, cons: PAGE0_INDICES.priqCons };

function pointTo(smmu: SmmuDevice, at: RingRegisters, queue: CommandRing | EventQueue): void {
  const value = new Int32Array(2);
  queueBase(value, queue.pa, queue.log2);
  queue.reset();
  writeBase(smmu, at.base, value);
  smmu.window.write32(at.prod, 0);
  smmu.window.write32(at.cons, 0);
}

interface MsiRegisters {
  readonly cfg0: number;
  readonly cfg1: number;
  readonly cfg2: number;
}

const EVENTQ_MSI: MsiRegisters = { cfg0: OFFSET.EVENTQ_IRQ_CFG0, cfg1: OFFSET.EVENTQ_IRQ_CFG1, cfg2: OFFSET.EVENTQ_IRQ_CFG2 };
const GERROR_MSI: MsiRegisters = { cfg0: OFFSET.GERROR_IRQ_CFG0, cfg1: OFFSET.GERROR_IRQ_CFG1, cfg2: OFFSET.GERROR_IRQ_CFG2 };
const PRIQ_MSI: MsiRegisters = { cfg0: OFFSET.PRIQ_IRQ_CFG0, cfg1: OFFSET.PRIQ_IRQ_CFG1, cfg2: OFFSET.PRIQ_IRQ_CFG2 };
/** IRQ_CFG2: Device-nGnRE. */
const MSI_DEVICE_NGNRE = 1;

/** Messages instead of wires, where the SMMU and the platform have them. False: nothing was set up. */
function messages(smmu: SmmuDevice, pri: boolean, setup: InterruptSetup): boolean {
  const queues: readonly (readonly [MsiRegisters, () => void])[] = [
    [EVENTQ_MSI, setup.eventq],
    [GERROR_MSI, setup.gerror],
    ...(pri ? [[PRIQ_MSI, setup.priq] as const] : []),
  ];
  const granted = smmu.requestMsis(queues.map(([, handler]) => handler));
  granted?.forEach(({ address, data }, i) => {
    const { cfg0, cfg1, cfg2 } = queues[i]![0];
    smmu.window.write64(cfg0, lo32(address), hi32(address));
    smmu.window.write32(cfg1, data);
    smmu.window.write32(cfg2, MSI_DEVICE_NGNRE);
  });
  return granted !== undefined;
}

/**
 * Disables interrupts, makes them wired (an MSI address of 0, 6.3.21), sets them up, enables them. A kernel leaves the addresses alone
 * where one combined interrupt is used; they are UNKNOWN after reset, so here they are not.
 */
function interrupts(smmu: SmmuDevice, msi: boolean, pri: boolean, setup: InterruptSetup): number {
  const status = writeAcked(smmu, OFFSET.IRQ_CTRL, OFFSET.IRQ_CTRLACK, 0);
  if (status < 0) return status;
  smmu.window.write64(OFFSET.GERROR_IRQ_CFG0, 0, 0);
  smmu.window.write64(OFFSET.EVENTQ_IRQ_CFG0, 0, 0);
  if (pri) smmu.window.write64(OFFSET.PRIQ_IRQ_CFG0, 0, 0);
  const combined = smmu.node.interrupts["combined"] !== undefined;
  if (combined || !msi || !messages(smmu, pri, setup)) setup.wired();
  const enable =
    maskOf(IRQ_CTRL.EVENTQ_IRQEN) | maskOf(IRQ_CTRL.GERROR_IRQEN) | (pri ? maskOf(IRQ_CTRL.PRIQ_IRQEN) : 0);
  return writeAcked(smmu, OFFSET.IRQ_CTRL, OFFSET.IRQ_CTRLACK, enable);
}

/**
 * Brings the SMMU from any state to one in which every stream does what its STE says. Nothing passes untranslated on the
 * way, except what the SMMU let through before.
 * @param setup used while interrupts are disabled
 * @returns 0, or a negative errno, with the SMMU disabled
 */
export function resetDevice(smmu: SmmuDevice, structures: Structures, setup: InterruptSetup): number {
  const status = runReset(smmu, structures, setup);
  if (status < 0) writeCr0(smmu, 0);
  return status;
}

function runReset(smmu: SmmuDevice, structures: Structures, setup: InterruptSetup): number {
  const { window } = smmu;
  const { features, cmdq, evtq, priq } = structures;
  if ((window.read32(OFFSET.CR0) & maskOf(CR0.SMMUEN)) !== 0) {
    smmu.log("warn", "SMMU currently enabled! Resetting...");
    const aborted = abortWhenDisabled(smmu);
    if (aborted < 0) return aborted;
  }
  let status = writeCr0(smmu, 0);
  if (status < 0) return status;

  window.write32(OFFSET.CR1, ATTRIBUTES);
  const e2h = structures.e2h ? maskOf(CR2.E2H) : 0;
  window.write32(OFFSET.CR2, maskOf(CR2.PTM) | maskOf(CR2.RECINVSID) | e2h);
  const base = new Int32Array(2);
  strtabBase(base, structures.strtab);
  writeBase(smmu, OFFSET.STRTAB_BASE, base);
  window.write32(OFFSET.STRTAB_BASE_CFG, strtabBaseCfg(structures.geometry));

  let enables = 0;
  const enable = (bit: number): number => {
    enables |= bit;
    return writeCr0(smmu, enables);
  };
  pointTo(smmu, CMDQ, cmdq);
  status = enable(maskOf(CR0.CMDQEN));
  if (status === 0) status = invalidateEverything(cmdq, features.hyp);
  if (status < 0) return status;

  const { page0RegsOnly } = smmu.quirks;
  pointTo(smmu, page0RegsOnly ? EVENTQ_PAGE0 : EVENTQ, evtq);
  status = enable(maskOf(CR0.EVENTQEN));
  if (status === 0 && priq !== undefined) {
    pointTo(smmu, page0RegsOnly ? PRIQ_PAGE0 : PRIQ, priq);
    status = enable(maskOf(CR0.PRIQEN));
  }
  if (status === 0 && features.ats) status = enable(maskOf(CR0.ATSCHK));
  if (status === 0) status = interrupts(smmu, features.msi, priq !== undefined, setup);
  if (status < 0) return status;
  // Nobody reads events of devices that go on from before the crash.
  if (smmu.params.kdump) enables &= ~(maskOf(CR0.EVENTQEN) | maskOf(CR0.PRIQEN));
  return enable(maskOf(CR0.SMMUEN));
}
