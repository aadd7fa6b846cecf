// Where QEMU's SMMUv3 (11.1.3) leaves the manual. A rule corrects what was recorded into what the manual asks for; the row is
// that of vectors/qemu/deviations.json, the section that of IHI 0070 G.b.
import type { Memory } from "@smmuv3/platform";
import { EVENTS, getField, STE } from "@smmuv3/smmu-v3-defs";
import type { Outcome } from "./replay.ts";

/** One recorded access with all that a rule may look at. */
export interface Case {
  readonly name: string;
  readonly stages: "s1" | "s2" | "nested";
  readonly sid: number;
  readonly iova: bigint;
  readonly write: boolean;
  /** What QEMU did. */
  readonly recorded: Outcome;
  /** What an independent walker says where it disagrees, and the row that explains it. */
  readonly walkerSays: string | undefined;
  readonly why: string | undefined;
  /** The STE, 16 words; zero where there is none. */
  readonly ste: Int32Array;
  /** What the model does for another address under the same configuration. */
  readonly probe: (iova: bigint) => Outcome;
}

export interface Rule {
  readonly row: string;
  readonly section: string;
  /** The corrected expectation, or undefined where the rule does not apply. It may depend on `got` only to be as strict. */
  readonly correct: (c: Case, expected: Outcome) => Outcome | undefined;
}

type Record4 = readonly string[];

function word(record: Record4, index: number): bigint {
  return BigInt(record[index]!);
}

function hex(value: bigint): string {
  return `0x${value.toString(16).padStart(16, "0")}`;
}

function typeOf(outcome: Outcome): number {
  const [record] = outcome.events;
  return record === undefined ? 0 : Number(word(record, 0) & 0xffn);
}

/** `outcome` with its first record changed. */
function edit(outcome: Outcome, change: (record: readonly bigint[]) => readonly bigint[]): Outcome {
  const [record] = outcome.events;
  if (record === undefined) return outcome;
  return { ...outcome, events: [change(record.map((text) => BigInt(text))).map(hex)] };
}

const S2 = 1n << 39n;
const RNW = 1n << 35n;
const CLASS = 3n << 40n;
const CLASS_TT = 1n << 40n;
const IAS = 44n;
/** Tables of the 16K and 64K granules. */
const SMALLEST_LARGE_TABLE = 0x4000n;
const LARGEST_TABLE = 0x1_0000n;

/** Refused, with one record of `type`; the words are those of a fault of stage 1 or none. */
function fault(c: Case, type: number, dw1: bigint, dw2: bigint, dw3: bigint): Outcome {
  return { ok: false, pa: undefined, events: [[(BigInt(c.sid) << 32n) | BigInt(type), dw1, dw2, dw3].map(hex)] };
}

/** Input bits that stage 2 has, and those that its first table resolves without concatenation. */
function stage2Bits(ste: Int32Array): { input: number; plain: number; outputBits: number } {
  const tg = getField(ste, 0, STE.S2TG);
  const sl0 = getField(ste, 0, STE.S2SL0);
  const pageShift = [12, 16, 14][tg] ?? 12;
  const level = tg === 0 ? 2 - sl0 : 3 - sl0;
  return {
    input: 64 - getField(ste, 0, STE.S2T0SZ),
    plain: pageShift + (pageShift - 3) * (4 - level),
    outputBits: [32, 36, 40, 42, 44, 48, 52, 52][getField(ste, 0, STE.S2PS)]!,
  };
}

function usesStage2(ste: Int32Array): boolean {
  return (getField(ste, 0, STE.Config) & 6) === 6;
}

/** In the order in which they are applied. */
export const RULES: readonly Rule[] = [
  {
    row: "s2t0sz-vs-ps",
    section: "5.2 STE.S2T0SZ: the range is bounded by IAS, not by S2PS",
    correct(c, expected) {
      if (typeOf(expected) !== EVENTS.C_BAD_STE.type || !usesStage2(c.ste)) return undefined;
      const { input, outputBits } = stage2Bits(c.ste);
      if (input <= outputBits) return undefined;
      // A legal STE whose leaf lies beyond S2PS.
      const dw1 = S2 | (2n << 40n) | (c.write ? 0n : RNW);
      const type = c.probe(c.iova).events[0]?.[0]?.endsWith("10") === true ? EVENTS.F_TRANSLATION.type : EVENTS.F_ADDR_SIZE.type;
      return fault(c, type, dw1, c.iova, c.iova & ~0xfffn);
    },
  },
  {
    row: "s2-concat",
    section: "Arm ARM D8.2: concatenated tables are indexed by the extra bits",
    correct(c, expected) {
      if (c.stages !== "s2" && !usesStage2(c.ste)) return undefined;
      const { input, plain } = stage2Bits(c.ste);
      if (input <= plain || c.iova >= 1n << BigInt(input)) return undefined;
      // QEMU answers for the address without the bits that select the table; the model must agree on that one.
      const masked = c.iova & ((1n << BigInt(plain)) - 1n);
      const there = c.probe(masked);
      const agrees = there.ok === expected.ok && (!there.ok || there.pa === expected.pa) && typeOf(there) === typeOf(expected);
      return agrees && masked !== c.iova ? c.probe(c.iova) : undefined;
    },
  },
  {
    row: "s1-16k-l1-block",
    section: "Arm ARM D8.3: the 16K granule has level-1 blocks only with 52-bit addresses",
    correct: (c, expected) =>
      c.name.endsWith("s1-16k-t0sz16-invalid-level-desc") && expected.ok
        ? fault(c, EVENTS.F_TRANSLATION.type, (2n << 40n) | (c.write ? 0n : RNW), c.iova, 0n)
        : undefined,
  },
  {
    row: "cd-fetch-addr",
    section: "7.3.10: FetchAddr is in bits [247:195]",
    correct: (_c, expected) =>
      typeOf(expected) === EVENTS.F_CD_FETCH.type
        ? edit(expected, ([a, b, address]) => [a!, b!, 0n, address!])
        : undefined,
  },
  {
    row: "l2-span",
    section: "5.1 L1STD.Span, 7.3.3: a StreamID beyond Span is C_BAD_STREAMID",
    correct: (c, expected) =>
      c.name === "strtab-2lvl-span-small" && typeOf(expected) === EVENTS.C_BAD_STE.type
        ? { ...expected, events: [] }
        : undefined,
  },
  {
    row: "recinvsid",
    section: "6.3.12 CR2.RECINVSID = 0: C_BAD_STREAMID is not recorded",
    correct: (_c, expected) =>
      typeOf(expected) === EVENTS.C_BAD_STREAMID.type ? { ...expected, events: [] } : undefined,
  },
  {
    row: "s2-iova-beyond-ias",
    section: "3.4.1, 7.3.14: stage 1 is disabled and its output is beyond IAS: F_ADDR_SIZE of stage 1",
    correct: (c, expected) =>
      c.stages === "s2" && !expected.ok && expected.events.length === 0 && c.iova >= 1n << IAS
        ? fault(c, EVENTS.F_ADDR_SIZE.type, (2n << 40n) | (c.write ? 0n : RNW), c.iova, 0n)
        : undefined,
  },
  {
    row: "nested-table-base",
    section: "3.3.2: each stage-1 descriptor address is an input of stage 2",
    correct(c, expected) {
      // The record has the base of the table; the descriptor lies in another page of it.
      const got = c.probe(c.iova);
      const [record] = expected.events;
      const [mine] = got.events;
      if (c.why === "nested-table-base") return agreesWithWalker(c, got) ? got : undefined;
      if (record === undefined || mine === undefined || c.stages !== "nested") return undefined;
      if ((word(record, 1) & CLASS) !== CLASS_TT) {
        // A page of a table other than its first is unmapped: the same fault, one stage earlier.
        const inside = (word(mine, 1) & (S2 | CLASS)) === (S2 | CLASS_TT) && word(mine, 3) % LARGEST_TABLE !== 0n;
        return inside && typeOf(got) === typeOf(expected) ? got : undefined;
      }
      if ((word(mine, 1) & CLASS) !== CLASS_TT) {
        // The base of a large table is unmapped, the page of the descriptor is not: the same fault, one stage later.
        const base = word(record, 3) % SMALLEST_LARGE_TABLE === 0n;
        return base && typeOf(got) === typeOf(expected) ? got : undefined;
      }
      const distance = word(mine, 3) - (word(record, 3) & ~0xfffn);
      return distance > 0n && distance < LARGEST_TABLE
        ? edit(expected, ([a, b, address]) => [a!, b!, address!, word(mine, 3)])
        : undefined;
    },
  },
  {
    row: "nested-tt-s2bit",
    section: "7.3.13: a fault of stage 2 on a stage-1 table walk has S2 = 1",
    correct: (c, expected) =>
      c.stages === "nested" && expected.events.some((r) => (word(r, 1) & CLASS) === CLASS_TT && (word(r, 1) & S2) === 0n) &&
      typeOf(expected) !== EVENTS.F_WALK_EABT.type
        ? edit(expected, ([a, b, address, ipa]) => [a!, b! | S2, address!, ipa!])
        : undefined,
  },
  {
    row: "nested-rnw",
    section: "7.3.13: RnW is that of the transaction, also where a CD or table was being fetched",
    correct: (c, expected) =>
      c.write && expected.events.some((r) => (word(r, 1) & S2) !== 0n && (word(r, 1) & RNW) !== 0n)
        ? edit(expected, ([a, b, address, ipa]) => [a!, b! & ~RNW, address!, ipa!])
        : undefined,
  },
  {
    row: "ipa-low-bits",
    section: "7.3.13: the record holds IPA[55:12]",
    correct: (_c, expected) =>
      expected.events.some((r) => (word(r, 1) & S2) !== 0n && (word(r, 3) & 0xfffn) !== 0n)
        ? edit(expected, ([a, b, address, ipa]) => [a!, b!, address!, ipa! & ~0xfffn])
        : undefined,
  },
  ...(["tbi1-macro", "priority-addrsize", "priority-aptable"] as const).map((row): Rule => ({
    row,
    section: {
      "tbi1-macro": "5.4 CD.TBI: TBI1 governs addresses with bit 55 set",
      "priority-addrsize": "Arm ARM D8.15: address size before access flag and permission",
      "priority-aptable": "Arm ARM D8.15: APTable restricts the leaf, faults of lower levels come first",
    }[row],
    correct(c) {
      if (c.why !== row) return undefined;
      const got = c.probe(c.iova);
      return agreesWithWalker(c, got) ? got : undefined;
    },
  })),
];

/** The independent walker and the model see the same thing. */
function agreesWithWalker(c: Case, got: Outcome): boolean {
  const name = Object.entries(EVENTS).find(([, { type }]) => type === typeOf(got))?.[0];
  return got.ok ? Number(c.walkerSays) === got.pa : c.walkerSays === name;
}

/** The STE of a stream in a linear stream table; zero where it is not readable. */
export function readSte(memory: Memory, base: bigint, sid: number): Int32Array {
  const out = new Int32Array(16);
  const pa = Number(base & 0x00ff_ffff_ffff_ffc0n) + sid * 64;
  if (memory.pageIndex(pa) >= 0) memory.read(pa, out);
  return out;
}
