import { queueBase, strtabBase, strtabBaseCfg } from "@smmuv3/arm-smmu-v3-common";
import { ERRNO } from "@smmuv3/platform";
import type { HypCpu } from "@smmuv3/platform";
import { CACHEABILITY, maskOf, OFFSET, place, REG, SHAREABILITY } from "@smmuv3/smmu-v3-defs";

import { abortWhenDisabled, writeAndAck } from "./registers.ts";
import type { HypSmmu } from "./smmu.ts";

const { CR0, CR1, CR2 } = REG;
const SMMUEN: number = maskOf(CR0.SMMUEN);
const CMDQEN: number = maskOf(CR0.CMDQEN);

/** CR0 of an SMMU that EL2 has taken: translated requests of ATS are checked against STEs, where there is ATS. */
function runningCr0(smmu: HypSmmu): number {
  return SMMUEN | CMDQEN | (smmu.features.ats ? maskOf(CR0.ATSCHK) : 0);
}

/** Attributes of EL2's tables and queues. */
function cr1(coherent: boolean): number {
  const sh = coherent ? SHAREABILITY.inner : SHAREABILITY.outer;
  const cache = coherent ? CACHEABILITY.writeBackReadAllocate : CACHEABILITY.nonCacheable;
  return (
    place(CR1.TABLE_SH, sh) |
    place(CR1.TABLE_OC, cache) |
    place(CR1.TABLE_IC, cache) |
    place(CR1.QUEUE_SH, sh) |
    place(CR1.QUEUE_OC, cache) |
    place(CR1.QUEUE_IC, cache)
  );
}

/** Global errors from before: a service failure is final, the others are acknowledged. */
function settleErrors(smmu: HypSmmu): number {
  const { window } = smmu;
  const gerror = window.read32(OFFSET.GERROR);
  if (((gerror ^ window.read32(OFFSET.GERRORN)) & maskOf(REG.GERROR.SFM_ERR)) !== 0) return -ERRNO.EIO;
  window.write32(OFFSET.GERRORN, gerror);
  return 0;
}

/** Interrupts off, and no address left to which a message could go. */
function silence(cpu: HypCpu, smmu: HypSmmu): number {
  const { window, features } = smmu;
  const status = writeAndAck(cpu, window, OFFSET.IRQ_CTRL, OFFSET.IRQ_CTRLACK, 0);
  if (status < 0) return status;
  if (features.msi) {
    window.write64(OFFSET.GERROR_IRQ_CFG0, 0, 0);
    window.write64(OFFSET.EVENTQ_IRQ_CFG0, 0, 0);
  }
  if (features.msi && features.pri) window.write64(OFFSET.PRIQ_IRQ_CFG0, 0, 0);
  return 0;
}

/** Registers that EL2 keeps for good: tables, command queue, attributes. */
function program(smmu: HypSmmu): void {
  const { window, cmdq } = smmu;
  const value = new Int32Array(2);
  window.write32(OFFSET.CR1, cr1(smmu.coherent));
  // PTM: the host's broadcast TLBIs are not for these streams. RECINVSID: unknown streams are reported.
  window.write32(OFFSET.CR2, maskOf(CR2.PTM) | maskOf(CR2.RECINVSID));
  strtabBase(value, smmu.strtabBase);
  window.write64(OFFSET.STRTAB_BASE, value[0]!, value[1]!);
  window.write32(OFFSET.STRTAB_BASE_CFG, strtabBaseCfg(smmu.geometry));
  queueBase(value, cmdq.pa, cmdq.log2);
  window.write64(OFFSET.CMDQ_BASE, value[0]!, value[1]!);
  window.write32(OFFSET.CMDQ_PROD, 0);
  window.write32(OFFSET.CMDQ_CONS, 0);
  cmdq.reset();
}

/**
 * Brings the SMMU up under EL2's tables, from whatever state it was left in. An enabled SMMU is made to abort before it is
 * disabled; a disabled one goes from its reset behaviour to the stream table in one step, so that streams which have an STE
 * by then are not interrupted. 0, or a negative errno with the SMMU in an unknown state.
 */
export function startSmmu(cpu: HypCpu, smmu: HypSmmu): number {
  const { window } = smmu;
  const steps: readonly (() => number)[] = [
    () => ((window.read32(OFFSET.CR0ACK) & SMMUEN) === 0 ? 0 : abortWhenDisabled(cpu, window)),
    () => smmu.setCr0(0),
    () => settleErrors(smmu),
    () => silence(cpu, smmu),
    () => {
      program(smmu);
      return smmu.setCr0(CMDQEN);
    },
    () => smmu.invalidateAll(true),
    () => smmu.setCr0(runningCr0(smmu)),
    () => abortWhenDisabled(cpu, window),
  ];
  for (const step of steps) {
    const status = step();
    if (status < 0) return status;
  }
  return 0;
}

/** Undoes {@link startSmmu} as far as the next owner needs it: disabled, with the GBPA it had. */
export function stopSmmu(cpu: HypCpu, smmu: HypSmmu, gbpa: number): void {
  smmu.setCr0(0);
  smmu.window.write32(OFFSET.GBPA, gbpa | maskOf(REG.GBPA.UPDATE));
  cpu.barrier();
}
