// What the recorded vectors have in common: registers and memory as JSON, accesses, event records as four 64-bit words.
import { readFileSync } from "node:fs";
import { dataPath } from "@smmuv3/data";
import { ACCESS, join, PAGE_WORDS, TRANSLATION } from "@smmuv3/platform";
import type { Memory } from "@smmuv3/platform";
import { OFFSET, REGISTERS } from "@smmuv3/smmu-v3-defs";
import type { RegisterDef, RegisterName } from "@smmuv3/smmu-v3-defs";
import { SmmuV3 } from "@smmuv3/smmu-v3-model";
import type { ProfileName } from "@smmuv3/smmu-v3-model";

export function readText(name: string): string {
  return readFileSync(dataPath(name), "utf8");
}

export function readLines<T>(name: string): T[] {
  return readText(name)
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => JSON.parse(line) as T);
}

/** Registers by name, as hexadecimal text. */
export type Registers = Readonly<Record<string, string>>;

/** What an access did: nothing is `pa` where it was refused. */
export interface Outcome {
  readonly ok: boolean;
  readonly pa: number | undefined;
  readonly events: readonly (readonly string[])[];
}

const CR0_SMMUEN = 1;
const GBPA_UPDATE = 0x8000_0000;
/** In the order in which a driver programs them; CR0 comes last. */
const PROGRAMMED: readonly RegisterName[] = [
  "CR1", "CR2", "GBPA", "STRTAB_BASE", "STRTAB_BASE_CFG", "CMDQ_BASE", "CMDQ_PROD", "CMDQ_CONS", "EVENTQ_BASE",
  "IRQ_CTRL", "CR0",
];

/** Splits 64 bits of text into words. */
export function split(text: string): [lo: number, hi: number] {
  const value = BigInt(text);
  return [Number(BigInt.asIntN(32, value)), Number(BigInt.asIntN(32, value >> 32n))];
}

/** A model with the recorded identity and registers; the event queue is empty. */
export function program(memory: Memory, registers: Registers, profile: ProfileName): SmmuV3 {
  const id = (name: string): number => Number(registers[name] ?? 0) | 0;
  const smmu = new SmmuV3({
    memory,
    profile,
    id: { IDR0: id("IDR0"), IDR1: id("IDR1"), IDR3: id("IDR3"), IDR5: id("IDR5"), AIDR: id("AIDR") },
  });
  for (const name of PROGRAMMED) {
    const text = registers[name];
    if (text === undefined) continue;
    const def: RegisterDef = REGISTERS[name];
    const [lo, hi] = split(text);
    const extra = name === "GBPA" ? GBPA_UPDATE : 0;
    if (def.bits === 64) smmu.registers.write64(OFFSET[name], lo, hi);
    else smmu.registers.write32(OFFSET[name], lo | extra);
  }
  if (registers["CR0"] !== undefined && (Number(registers["CR0"]) & CR0_SMMUEN) !== (smmu.registers.read32(OFFSET.CR0ACK) & CR0_SMMUEN)) {
    throw new Error("CR0 was not acknowledged");
  }
  return smmu;
}

function hex64(lo: number, hi: number): string {
  const half = (word: number): string => (word >>> 0).toString(16).padStart(8, "0");
  return `0x${half(hi)}${half(lo)}`;
}

/** Takes the records out of the event queue. */
export function drain(smmu: SmmuV3): string[][] {
  const records = smmu.decodeEvents().map(({ words }) =>
    [0, 2, 4, 6].map((word) => hex64(words[word]!, words[word + 1]!)),
  );
  smmu.registers.write32(OFFSET.EVENTQ_CONS, smmu.registers.read32(OFFSET.EVENTQ_PROD));
  return records;
}

/** One access, which does not cross a page. */
export function access(smmu: SmmuV3, sid: number, iova: string, write: boolean): Outcome {
  const [lo, hi] = split(iova);
  const result = smmu.translate(sid, 0, lo, hi, write ? ACCESS.write : ACCESS.read);
  const ok = result === TRANSLATION.ok;
  return { ok, pa: ok ? join(smmu.paLo, smmu.paHi) : undefined, events: drain(smmu) };
}

/** Non-zero words of pages: `q` maps byte offsets to 64-bit values. */
export interface PageContent {
  readonly pa: string;
  readonly q: Readonly<Record<string, string>>;
}

/** Writes pages; the function returned makes them zero again. */
export function loadPages(memory: Memory, pages: readonly PageContent[]): () => void {
  for (const { pa, q } of pages) {
    for (const [offset, text] of Object.entries(q)) {
      const at = memory.index(Number(pa) + Number(offset), true);
      [memory.words[at], memory.words[at + 1]] = split(text);
    }
  }
  return () => {
    for (const { pa } of pages) {
      const at = memory.index(Number(pa), true);
      memory.words.fill(0, at, at + PAGE_WORDS);
    }
  };
}

