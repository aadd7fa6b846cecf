import { extract, REG } from "@smmuv3/smmu-v3-defs";
import type { Field } from "@smmuv3/smmu-v3-defs";
import { decodeFeatures } from "@smmuv3/smmu-v3-model";
import type { Features } from "@smmuv3/smmu-v3-model";

/** Registers by name; what is left out reads 0. */
export type Registers = Readonly<Record<string, bigint>>;

/** Low word of a register, as int32. */
export function low(registers: Registers, name: string): number {
  return Number(BigInt.asIntN(32, registers[name] ?? 0n));
}

/** High word of a register, as int32. */
export function high(registers: Registers, name: string): number {
  return Number(BigInt.asIntN(32, (registers[name] ?? 0n) >> 32n));
}

/** A field of the low word of a register. */
export function fieldOf(registers: Registers, name: string, field: Field): number {
  return extract(low(registers, name), field) >>> 0;
}

/** The identity that the registers show. */
export function featuresOf(registers: Registers): Features {
  const id = (name: string): number => low(registers, name);
  return decodeFeatures({ IDR0: id("IDR0"), IDR1: id("IDR1"), IDR3: id("IDR3"), IDR5: id("IDR5"), AIDR: id("AIDR") });
}

/** Where a queue lies: its base and log2 of its entries. */
export function queueOf(registers: Registers, name: "CMDQ_BASE" | "EVENTQ_BASE", most: number, entryLog2: number): { base: bigint; log2: number } {
  const log2 = Math.min(fieldOf(registers, name, REG[name].LOG2SIZE), most);
  const address = (registers[name] ?? 0n) & 0x000f_ffff_ffff_ffe0n;
  // The base is aligned to the size of the queue (6.3.26, 6.3.29).
  return { base: address & ~((1n << BigInt(log2 + entryLog2)) - 1n), log2 };
}
