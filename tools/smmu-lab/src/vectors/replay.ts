import { ACCESS, join, Memory, PAGE_SIZE, PAGE_WORDS, TRANSLATION } from "@smmuv3/platform";
import { OFFSET, REGISTERS } from "@smmuv3/smmu-v3-defs";
import type { RegisterDef, RegisterName } from "@smmuv3/smmu-v3-defs";
import { PRESETS, SmmuV3 } from "@smmuv3/smmu-v3-model";
import type { ProfileName } from "@smmuv3/smmu-v3-model";
import { pairs } from "../reference/bus.ts";
import type { Bus } from "../reference/bus.ts";
import type { Access } from "../reference/explain.ts";
import { high, low, queueOf } from "../reference/registers.ts";
import type { Registers } from "../reference/registers.ts";
import type { Observation, PageContent } from "./cases.ts";

const GBPA_UPDATE = 0x8000_0000 | 0;
const EVENT_LOG2 = 5;
/** In the order in which a driver programs them; CR0 comes last. */
const PROGRAMMED: readonly RegisterName[] = [
  "CR1", "CR2", "GBPA", "STRTAB_BASE", "STRTAB_BASE_CFG", "CMDQ_BASE", "CMDQ_PROD", "CMDQ_CONS", "EVENTQ_BASE",
  "IRQ_CTRL", "CR0",
];

/** Registers with the identity of QEMU 11 where they lack one. */
export function withIdentity(registers: Registers): Registers {
  const { IDR0, IDR1, IDR3, IDR5, AIDR = 0 } = PRESETS.qemuNested;
  return { IDR0: BigInt(IDR0), IDR1: BigInt(IDR1), IDR3: BigInt(IDR3), IDR5: BigInt(IDR5), AIDR: BigInt(AIDR), ...registers };
}

/** A model with the recorded identity and registers; its event queue is empty. */
export function programModel(memory: Memory, registers: Registers, profile: ProfileName): SmmuV3 {
  const id = (name: string): number => low(registers, name);
  const smmu = new SmmuV3({
    memory,
    profile,
    id: { IDR0: id("IDR0"), IDR1: id("IDR1"), IDR3: id("IDR3"), IDR5: id("IDR5"), AIDR: id("AIDR") },
  });
  for (const name of PROGRAMMED) {
    if (registers[name] === undefined) continue;
    const def: RegisterDef = REGISTERS[name];
    const lo = low(registers, name) | (name === "GBPA" ? GBPA_UPDATE : 0);
    if (def.bits === 64) smmu.registers.write64(OFFSET[name], lo, high(registers, name));
    else smmu.registers.write32(OFFSET[name], lo);
  }
  return smmu;
}

/** Takes the records out of the model's event queue. */
function drain(smmu: SmmuV3): bigint[][] {
  const records = smmu.decodeEvents().map(({ words }) => pairs(words));
  smmu.registers.write32(OFFSET.EVENTQ_CONS, smmu.registers.read32(OFFSET.EVENTQ_PROD));
  return records;
}

/** One access of the model, with its records. */
export function accessModel(smmu: SmmuV3, { sid, ssid, iova, write, privileged, instruction }: Access): Observation {
  const flags =
    (write ? ACCESS.write : ACCESS.read) |
    (privileged ? ACCESS.privileged : 0) |
    (instruction ? ACCESS.instruction : 0) |
    (ssid === undefined ? 0 : ACCESS.ssidValid);
  const lo = Number(BigInt.asIntN(32, iova));
  const hi = Number(BigInt.asIntN(32, iova >> 32n));
  const ok = smmu.translate(sid, ssid ?? 0, lo, hi, flags) === TRANSLATION.ok;
  return { ok, pa: ok ? BigInt(join(smmu.paLo, smmu.paHi)) : undefined, events: drain(smmu) };
}

/** Memory as the reference walk reads it: a page without permission, or outside of RAM, aborts. */
export function memoryBus(memory: Memory): Bus {
  return {
    read(pa, count) {
      const address = Number(pa);
      const page = memory.pageIndex(address);
      if (page < 0 || (memory.perm[page]! & 1) === 0) return undefined;
      const at = page * PAGE_WORDS + (address % PAGE_SIZE) / 4;
      return memory.words.slice(at, at + count);
    },
  };
}

/** Writes the pages of a case; the function returned makes them, and the event queue, zero again. */
export function loadPages(memory: Memory, pages: readonly PageContent[], registers: Registers): () => void {
  for (const { pa, values } of pages) {
    for (const [offset, value] of values) {
      const at = memory.index(pa + offset, true);
      memory.words[at] = Number(BigInt.asIntN(32, value));
      memory.words[at + 1] = Number(BigInt.asIntN(32, value >> 32n));
    }
  }
  const clear = (pa: number): void => {
    const page = memory.pageIndex(pa);
    if (page >= 0) memory.words.fill(0, page * PAGE_WORDS, (page + 1) * PAGE_WORDS);
  };
  return () => {
    for (const { pa } of pages) clear(pa);
    const { base, log2 } = queueOf(registers, "EVENTQ_BASE", 19, EVENT_LOG2);
    // No access of a case leaves more than one record, which the replay takes out: only so many pages are written.
    for (let at = Number(base); at < Number(base) + 2 ** (log2 + EVENT_LOG2); at += PAGE_SIZE) clear(at);
  };
}
