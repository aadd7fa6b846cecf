// How the commands of the stress run say whose they are. The SMMU executes them as what they are: invalidations of a TLB.
import { CMD, COMMANDS, place } from "@smmuv3/smmu-v3-defs";

/** Kinds of commands; `illegal` is none that exists. */
export const KIND = { tlbi: 0, atc: 1, illegal: 2 } as const;
export type Kind = (typeof KIND)[keyof typeof KIND];
const ILLEGAL_OPCODE = 0xee;
const OPCODES: readonly number[] = [COMMANDS.TLBI_NH_VA.opcode, COMMANDS.ATC_INV.opcode, ILLEGAL_OPCODE];
/** StreamID of the device that does not answer invalidations. */
export const SILENT_SID = 5;

/** A command of a list. */
export interface Place {
  producer: number;
  /** Number of the list among its producer's. */
  list: number;
  /** Commands of the list without its SYNC; place in the list. */
  count: number;
  index: number;
  sync: boolean;
  kind: Kind;
}

const INDEX_SHIFT = 12;
const SYNC_BIT: number = 1 << 20;
const PRODUCER_SHIFT = 24;

/** Writes a command. TLBI_NH_VA has it in VMID and address, ATC_INV in SubstreamID and address. */
export function encode(out: Int32Array, at: number, p: Place): void {
  const count = p.count & 0x7f;
  out[at] = OPCODES[p.kind]! | (p.kind === KIND.atc ? place(CMD.SSV, 1) | place(CMD.SSID, count) : 0);
  out[at + 1] = p.kind === KIND.atc ? SILENT_SID : place(CMD.VMID, count);
  out[at + 2] = (p.index << INDEX_SHIFT) | (p.sync ? SYNC_BIT : 0) | (p.producer << PRODUCER_SHIFT);
  out[at + 3] = p.list;
}

/** Reads a command into `out`. False for one that is not of the stress run. */
export function decode(words: Int32Array, at: number, out: Place): boolean {
  const kind = OPCODES.indexOf(words[at]! & 0xff);
  if (kind < 0) return false;
  out.kind = kind as Kind;
  out.count = kind === KIND.atc ? (words[at]! >>> CMD.SSID.shift) & 0x7f : words[at + 1]! & 0x7f;
  const word2 = words[at + 2]!;
  out.index = (word2 >>> INDEX_SHIFT) & 0x7f;
  out.sync = (word2 & SYNC_BIT) !== 0;
  out.producer = word2 >>> PRODUCER_SHIFT;
  out.list = words[at + 3]!;
  return true;
}
