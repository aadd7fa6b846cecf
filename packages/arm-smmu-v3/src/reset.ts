import { cfgiAll, queueBase, strtabBase, strtabBaseCfg, tlbiEl2All, tlbiNsnhAll } from "@smmuv3/arm-smmu-v3-common";
import type { CommandQueue, EventQueue, SmmuFeatures, StrtabGeometry } from "@smmuv3/arm-smmu-v3-common";
import { CACHEABILITY, CMD_WORDS, maskOf, OFFSET, place, REG, SHAREABILITY } from "@smmuv3/smmu-v3-defs";
import { abortWhenDisabled, writeAcked, writeCr0 } from "./registers.ts";
import type { SmmuDevice } from "./smmu.ts";

/** What the SMMU is pointed to. */
export interface Structures {
  readonly features: SmmuFeatures;
  readonly cmdq: CommandQueue;
  readonly evtq: EventQueue;
  readonly priq: EventQueue | undefined;
  readonly strtab: number;
  readonly geometry: StrtabGeometry;
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
function invalidateEverything(cmdq: CommandQueue, hyp: boolean): number {
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

function pointTo(smmu: SmmuDevice, at: RingRegisters, queue: CommandQueue | EventQueue): void {
  const value = new Int32Array(2);
  queueBase(value, queue.pa, queue.log2);
  queue.reset();
  writeBase(smmu, at.base, value);
  smmu.window.write32(at.prod, 0);
  smmu.window.write32(at.cons, 0);
}

/** Disables interrupts, makes them wired (an MSI address of 0, 6.3.21), requests them by `setup`, enables them. */
function interrupts(smmu: SmmuDevice, pri: boolean, setup: () => void): number {
  const status = writeAcked(smmu, OFFSET.IRQ_CTRL, OFFSET.IRQ_CTRLACK, 0);
  if (status < 0) return status;
  smmu.window.write64(OFFSET.GERROR_IRQ_CFG0, 0, 0);
  smmu.window.write64(OFFSET.EVENTQ_IRQ_CFG0, 0, 0);
  if (pri) smmu.window.write64(OFFSET.PRIQ_IRQ_CFG0, 0, 0);
  setup();
  const enable =
    maskOf(IRQ_CTRL.EVENTQ_IRQEN) | maskOf(IRQ_CTRL.GERROR_IRQEN) | (pri ? maskOf(IRQ_CTRL.PRIQ_IRQEN) : 0);
  return writeAcked(smmu, OFFSET.IRQ_CTRL, OFFSET.IRQ_CTRLACK, enable);
}

/**
 * Brings the SMMU from any state to one in which every stream does what its STE says. Nothing passes untranslated on the
 * way, except what the SMMU let through before.
 * @param setupInterrupts called while they are disabled
 * @returns 0, or a negative errno, with the SMMU disabled
 */
export function resetDevice(smmu: SmmuDevice, structures: Structures, setupInterrupts: () => void): number {
  const status = runReset(smmu, structures, setupInterrupts);
  if (status < 0) writeCr0(smmu, 0);
  return status;
}

function runReset(smmu: SmmuDevice, structures: Structures, setupInterrupts: () => void): number {
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
  window.write32(OFFSET.CR2, maskOf(CR2.PTM) | maskOf(CR2.RECINVSID));
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

  pointTo(smmu, EVENTQ, evtq);
  status = enable(maskOf(CR0.EVENTQEN));
  if (status === 0 && priq !== undefined) {
    pointTo(smmu, PRIQ, priq);
    status = enable(maskOf(CR0.PRIQEN));
  }
  if (status === 0 && features.ats) status = enable(maskOf(CR0.ATSCHK));
  if (status === 0) status = interrupts(smmu, priq !== undefined, setupInterrupts);
  if (status < 0) return status;
  return enable(maskOf(CR0.SMMUEN));
}
