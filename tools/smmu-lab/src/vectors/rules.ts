// Where QEMU's SMMUv3 leaves the manual, as rules. A rule is a switch of the reference walk: it applies to an access where that
// walk, over the same registers and structures, does something else with the switch than without. Nothing here knows the name
// of a case or a file.
import { explain } from "../reference/explain.ts";
import type { Access, Explanation } from "../reference/explain.ts";
import type { Machine } from "../reference/config.ts";
import { pairs } from "../reference/bus.ts";
import { NO_QUIRKS } from "../reference/quirks.ts";
import type { Quirk, Quirks } from "../reference/quirks.ts";
import type { Observation } from "./cases.ts";
import { hitTlb } from "./warm.ts";

export interface Rule {
  /** Row of the deviation list. */
  readonly row: Quirk | typeof PER_FOUR_BYTES;
  /** What the manual says, and where. */
  readonly section: string;
  /** What QEMU does. */
  readonly qemu: string;
  /** Not what QEMU 11 does with an access to cold caches: another version, or warm caches. Tried on its own, after the others. */
  readonly special?: true;
}

/** Row of the artefact that one refused access of n bytes is n/4 accesses to QEMU's SMMU. */
export const PER_FOUR_BYTES = "event-per-4-bytes";

export const RULES: readonly Rule[] = [
  { row: "ap-unpriv", section: "5.2 PRIVCFG, Arm ARM D8.4: AP[1] and APTable[0] refuse unprivileged accesses", qemu: "ignores them" },
  { row: "bypass-ias", section: "3.4.1, 7.3.14: a bypassed address beyond IAS is F_ADDR_SIZE", qemu: "lets it pass" },
  { row: "cd-fetch-addr", section: "7.3.10: FetchAddr of F_CD_FETCH is in bits [247:195]", qemu: "puts it into bits [191:128]" },
  {
    row: "cd-ste-validity",
    section: "5.2 S2HA, S2HD: ILLEGAL beyond IDR0.HTTU; S1STALLD: IGNORED without stage 1",
    qemu: "ignores S2HA and S2HD, refuses S1STALLD always",
  },
  { row: PER_FOUR_BYTES, section: "7.2: a record for each transaction", qemu: "gives one for each 4 bytes of it" },
  { row: "ipa-low-bits", section: "7.3.13: the record holds IPA[55:12]", qemu: "fills in IPA[11:0]" },
  {
    row: "l2-span",
    section: "5.1 L1STD.Span: 2^(Span-1) entries; 7.3.3: beyond them is C_BAD_STREAMID",
    qemu: "takes 2^Span entries, and gives C_BAD_STE beyond",
  },
  { row: "l2-span-too-big", section: "5.1 L1STD.Span: reserved above SPLIT + 1", qemu: "10.0 takes it", special: true },
  {
    row: "nested-rnw",
    section: "7.3, 7.3.12 to 7.3.16: RnW, InD, PnU are those of the input transaction; 7.3.16: TTRnW is that of the walk",
    qemu: "sets RnW for what it fetches by its configuration (CD, first table), and never TTRnW",
  },
  {
    row: "nested-table-base",
    section: "3.3.2: the address of each stage-1 descriptor is an input of stage 2",
    qemu: "translates the base of the table, and takes what follows as contiguous",
  },
  {
    row: "nested-tt-s2bit",
    section: "7.3.13: a fault of stage 2 on a stage-1 table has S2 = 1, and STE.S2R governs it",
    qemu: "reports it as one of stage 1, but for the first table",
  },
  {
    row: "nested-ttb1-unmapped",
    section: "3.3.2: only the half that an address selects is walked",
    qemu: "translates both table bases with the configuration",
  },
  { row: "priority-addrsize", section: "Arm ARM D8.15: address size before access flag and permission", qemu: "checks it last" },
  {
    row: "priority-aptable",
    section: "Arm ARM D8.15: APTable restricts the leaf; faults of lower levels come first",
    qemu: "refuses a write at the table descriptor",
  },
  { row: "recinvsid", section: "6.3.12 CR2.RECINVSID = 0: C_BAD_STREAMID is not recorded", qemu: "records it" },
  { row: "s1-16k-l1-block", section: "Arm ARM D8.3: levels that have no blocks", qemu: "takes a block at any level above 3" },
  { row: "s1cdmax", section: "5.2 S1CDMax: IGNORED where IDR1.SSIDSIZE = 0", qemu: "gives C_BAD_STE" },
  { row: "s2-concat", section: "Arm ARM D8.2: concatenated tables are indexed by the extra bits", qemu: "uses the first of them" },
  {
    row: "s2-iova-beyond-ias",
    section: "3.4.1, 7.3.14: with stage 2 alone an address beyond IAS is F_ADDR_SIZE of stage 1",
    qemu: "refuses it without a record",
  },
  { row: "s2t0sz-vs-ps", section: "5.2 S2T0SZ: the range is bounded by IAS, not by S2PS", qemu: "gives C_BAD_STE beyond S2PS" },
  { row: "table-addrsize", section: "Arm ARM D8.15: a table address beyond the output size is an address size fault", qemu: "walks on" },
  { row: "tbi1-macro", section: "5.4 CD.TBI: TBI1 governs addresses with bit 55 set", qemu: "uses TBI0 for both halves" },
  {
    row: "unchecked-ste",
    section: "5.2: reserved STRW, EATS, S1Fmt, S1ContextPtr, S2VMID and too few bits for S2SL0 are ILLEGAL; S2PTW",
    qemu: "does not look at them",
  },
  {
    row: "warm-tlb",
    section: "3.17: a TLB entry gives what the walk would",
    qemu: "forgets APTable, the IPA and the record of stage 2 on a TLB hit",
    special: true,
  },
];

/** An access with all that a rule may look at. */
export interface Subject {
  readonly machine: Machine;
  readonly access: Access;
  /** What can be seen of an outcome: the recorder's view. */
  readonly view: (explanation: Explanation) => Observation;
  /** Accesses of the case before this one. */
  readonly earlier: readonly Access[];
}

/** What an explained access shows. */
export function observe(explanation: Pick<Explanation, "event" | "pa"> & { readonly outcome: string }): Observation {
  const { event, outcome, pa } = explanation;
  return {
    ok: outcome === "ok",
    pa: outcome === "ok" ? pa : undefined,
    events: event?.recorded === true ? [pairs(event.words)] : [],
  };
}

export function sameObservation(a: Observation, b: Observation): boolean {
  return (
    a.ok === b.ok &&
    a.pa === b.pa &&
    a.events.length === b.events.length &&
    a.events.every((record, i) => record.every((word, j) => word === b.events[i]![j]))
  );
}

/** Whether the reference walk with `quirks` does what was `seen`. */
function does({ machine, access, view, earlier }: Subject, quirks: Quirks, seen: Observation): boolean {
  const warm = quirks.has("warm-tlb") ? hitTlb(machine, access, earlier, quirks) : undefined;
  const found = warm ?? explain(machine, access, quirks);
  return found.outcome !== "unknown" && sameObservation(view(found), seen);
}

const INPUT = 2;
const EXTRA = 3;
const S2 = 1n << 39n;

/** The first record of an access of `len` bytes; undefined where `events` are not what row event-per-4-bytes makes of one. */
export function collapse(events: Observation["events"], len: number): Observation["events"] | undefined {
  const [first] = events;
  if (first === undefined || events.length === 1) return events;
  if (len <= 4 || events.length > len / 4) return undefined;
  const follows = events.every((record, i) => {
    const step = BigInt(i * 4);
    // The IPA moves along where it is that of the input.
    const moved = (first[1]! & S2) !== 0n && record[EXTRA] === first[EXTRA]! + step;
    return record[0] === first[0] && record[1] === first[1] && record[INPUT] === first[INPUT]! + step && (moved || record[EXTRA] === first[EXTRA]);
  });
  return follows ? [first] : undefined;
}

/**
 * Rows that explain why `recorded` is not what the manual asks for: those without which QEMU, as the rules have it, would not
 * have done it. Undefined where the rules do not explain it, or where `got` is not the manual's outcome either.
 */
export function excuse(subject: Subject, got: Observation, recorded: Observation, rules: readonly Rule[] = RULES): readonly string[] | undefined {
  if (!does(subject, NO_QUIRKS, got)) return undefined;
  const usual = rules.flatMap(({ row, special }) => (row === PER_FOUR_BYTES || special === true ? [] : [row]));
  const special = rules.flatMap((rule) => (rule.row !== PER_FOUR_BYTES && rule.special === true ? [rule.row] : []));
  // What one quirk does may hide behind another that is off: a set without one that is not needed is tried as well.
  const sets = [usual, ...special.map((row) => [...usual, row]), ...usual.map((row) => usual.filter((other) => other !== row))];
  for (const set of sets) {
    const needed = reduce(subject, recorded, new Set(set));
    if (needed !== undefined) return [...needed];
  }
  return undefined;
}

/** The quirks of `all` that `recorded` needs, one where one is enough; undefined where they do not explain it. */
function reduce(subject: Subject, recorded: Observation, all: ReadonlySet<Quirk>): ReadonlySet<Quirk> | undefined {
  const asked = new Set<Quirk>();
  const listening: Quirks = {
    has: (quirk) => {
      if (all.has(quirk)) asked.add(quirk);
      return all.has(quirk);
    },
  };
  if (!does(subject, listening, recorded)) return undefined;
  const alone = [...asked].find((quirk) => does(subject, new Set([quirk]), recorded));
  if (alone !== undefined) return new Set([alone]);
  for (const quirk of [...asked]) {
    asked.delete(quirk);
    if (!does(subject, asked, recorded)) asked.add(quirk);
  }
  return asked;
}
