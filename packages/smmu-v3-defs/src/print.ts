import { CMD, CMD_WORDS, COMMAND_NAMES, COMMANDS } from "./commands.ts";
import type { CommandDef } from "./commands.ts";
import { EVENT, EVENT_NAMES, EVENTS } from "./events.ts";
import { bits, definedBits, getField, isAddressField } from "./field.ts";
import type { AnyField } from "./field.ts";

function hex(word: number): string {
  return (word >>> 0).toString(16);
}

/** `field` of the structure at `base` as text: addresses in hex, small values in decimal. */
export function printField(words: Int32Array, base: number, field: AnyField): string {
  if (!isAddressField(field)) {
    const value = getField(words, base, field);
    return `${field.name}=${value < 10 ? value.toString() : `0x${hex(value)}`}`;
  }
  const lo = words[base + field.word]! & field.loMask;
  const hi = words[base + field.word + 1]! & field.hiMask;
  return `${field.name}=0x${hi === 0 ? hex(lo) : hex(hi) + hex(lo).padStart(8, "0")}`;
}

/** All fields of a structure that are not zero, in the order of their definition. */
export function printFields(
  fields: Readonly<Record<string, AnyField>>,
  words: Int32Array,
  base: number = 0,
): string {
  const shown = Object.values(fields).map((field) => printField(words, base, field));
  return shown.filter((text) => !text.endsWith("=0") && !text.endsWith("=0x0")).join(" ");
}

function pick(table: object, names: readonly string[]): Record<string, AnyField> {
  const all = table as Readonly<Record<string, AnyField>>;
  return Object.fromEntries(names.map((name) => [name, all[name]!]));
}

/** One line for the command whose four words start at `base`. */
export function printCommand(words: Int32Array, base: number = 0): string {
  const opcode = getField(words, base, CMD.Opcode);
  const name = COMMAND_NAMES.get(opcode);
  if (name === undefined) return `reserved opcode 0x${hex(opcode)}`;
  return `CMD_${name} ${printFields(pick(CMD, COMMANDS[name].fields), words, base)}`.trimEnd();
}

/** One line for the event record whose eight words start at `base`. */
export function printEvent(words: Int32Array, base: number = 0): string {
  const type = getField(words, base, EVENT.Type);
  const name = EVENT_NAMES.get(type);
  const sid = printField(words, base, EVENT.SID);
  if (name === undefined) return `event 0x${hex(type)} ${sid}`;
  return `${name} ${sid} ${printFields(pick(EVENT, EVENTS[name].fields), words, base)}`.trimEnd();
}

/** Bits of a command that its definition gives no meaning, in each of its four words (4.1.5). Undefined for a reserved opcode. */
export function reservedCommandBits(opcode: number): Int32Array | undefined {
  const name = COMMAND_NAMES.get(opcode);
  if (name === undefined) return undefined;
  const { fields, addressMsb }: CommandDef = COMMANDS[name];
  const reserved = definedBits(pick(CMD, ["Opcode", ...fields]), CMD_WORDS).map((defined) => ~defined);
  // Address[63:n+1] are the top bits of the last word.
  if (addressMsb !== undefined) reserved[3] = reserved[3]! | bits(31, addressMsb - 31);
  return reserved;
}
