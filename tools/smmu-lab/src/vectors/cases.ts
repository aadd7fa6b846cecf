import { InputError } from "../lab/trace-file.ts";
import type { Registers } from "../reference/registers.ts";
import { arrayOf, bigOf, flagOf, intOf, Malformed, objectOf, readJsonLines } from "./json.ts";
import type { Json } from "./json.ts";

/** What an access was seen to do. `pa` is undefined where it was refused or could not be seen. */
export interface Observation {
  readonly ok: boolean;
  readonly pa: bigint | undefined;
  /** Event records, four 64-bit values each. */
  readonly events: readonly (readonly bigint[])[];
}

export interface RecordedAccess {
  readonly sid: number;
  readonly ssid: number | undefined;
  readonly iova: bigint;
  readonly len: number;
  readonly write: boolean;
  readonly recorded: Observation;
  /** The PA is known by its low 32 bits only, and only where there is RAM: the recorder read tags out of pages. */
  readonly tagged: boolean;
  /** Row of the deviation list that the recorder blames, where it does. */
  readonly why: string | undefined;
  /** Bit 0: a read is permitted there, bit 1: a write. */
  readonly perm: number | undefined;
}

/** Non-zero 64-bit values of a page, by byte offset. */
export interface PageContent {
  readonly pa: number;
  readonly values: readonly (readonly [offset: number, value: bigint])[];
}

export interface RecordedCase {
  readonly file: string;
  readonly line: number;
  readonly name: string;
  readonly registers: Registers;
  readonly pages: readonly PageContent[];
  readonly access: readonly RecordedAccess[];
  /** Later accesses of the case, after changes of memory and invalidations that were not recorded. */
  readonly steps: number;
  /** QEMU itself ended: nothing was recorded. */
  readonly crashed: boolean;
}

function eventsOf(value: unknown, what: string): bigint[][] {
  return arrayOf(value ?? [], what).map((record, i) => {
    const at = `${what}[${i}]`;
    const words = arrayOf(record, at);
    if (words.length !== 4) throw new Malformed(`${at}: expected 4 values, got ${words.length}`);
    return words.map((word, j) => bigOf(word, `${at}[${j}]`));
  });
}

const OUTCOMES: Readonly<Record<string, boolean>> = { ok: true, bypass: true, fault: false, abort: false };
/** Data of a bus read that nothing answered. */
const NO_ANSWER = 0xffff_ffffn;
const U32 = 0xffff_ffff;

/** One recorded access; a line of a probe file has the same form. */
export function accessOf(value: unknown, what: string): RecordedAccess {
  const a = objectOf(value, what);
  const { outcome } = a;
  if (outcome === undefined && a["ok"] === undefined) throw new Malformed(`${what}: neither "ok" nor "outcome"`);
  if (outcome !== undefined && !(typeof outcome === "string" && Object.hasOwn(OUTCOMES, outcome))) {
    throw new Malformed(`${what}.outcome: expected one of ${Object.keys(OUTCOMES).join(", ")}, got ${JSON.stringify(outcome)}`);
  }
  const tagged = outcome === undefined;
  const pa = a["pa"] === undefined || a["pa"] === null ? undefined : bigOf(a["pa"], `${what}.pa`);
  const ok = (typeof outcome === "string" ? OUTCOMES[outcome]! : flagOf(a["ok"], `${what}.ok`)) && !(tagged && pa === NO_ANSWER);
  return {
    sid: intOf(a["sid"], `${what}.sid`, U32),
    ssid: a["ssid"] === undefined || a["ssid"] === null ? undefined : intOf(a["ssid"], `${what}.ssid`, 2 ** 20 - 1),
    iova: bigOf(a["iova"], `${what}.iova`),
    len: intOf(a["len"] ?? 4, `${what}.len`, U32),
    write: flagOf(a["write"], `${what}.write`),
    recorded: { ok, pa: ok ? pa : undefined, events: eventsOf(a["events"], `${what}.events`) },
    tagged,
    why: typeof a["why"] === "string" ? a["why"] : undefined,
    perm: a["perm"] === undefined || a["perm"] === null ? undefined : intOf(a["perm"], `${what}.perm`, 3),
  };
}

function registersOf(value: unknown): Registers {
  return Object.fromEntries(Object.entries(objectOf(value, "regs")).map(([name, text]) => [name, bigOf(text, `regs.${name}`)]));
}

function pageOf(value: unknown, what: string): PageContent {
  const page = objectOf(value, what);
  const pa = Number(bigOf(page["pa"], `${what}.pa`));
  const values = Object.entries(objectOf(page["q"] ?? {}, `${what}.q`)).map(([offset, text]) => {
    const at = Number(bigOf(offset, `${what}.q offset`));
    if ((pa + at) % 8 !== 0) throw new Malformed(`${what}.q: offset ${offset} is not a multiple of 8`);
    return [at, bigOf(text, `${what}.q[${offset}]`)] as const;
  });
  return { pa, values };
}

/** What the first line of some files says of the machine. */
interface Meta {
  readonly idr0: bigint | undefined;
}

function caseOf(json: Json, meta: Meta, file: string, line: number): RecordedCase {
  const list = arrayOf(json["access"] ?? [], "access");
  const recorded = json["regs"] === undefined ? {} : registersOf(json["regs"]);
  if (list.length > 0 && json["regs"] === undefined) throw new Malformed("regs: missing");
  const steps = arrayOf(json["steps"] ?? [], "steps").map((step, i) => {
    const what = `steps[${i}]`;
    return arrayOf(objectOf(step, what)["access"] ?? [], `${what}.access`).map((a, j) => accessOf(a, `${what}.access[${j}]`)).length;
  });
  return {
    file,
    line,
    name: typeof json["name"] === "string" ? json["name"] : `line ${line}`,
    registers: meta.idr0 === undefined ? recorded : { IDR0: meta.idr0, ...recorded },
    pages: arrayOf(json["mem"] ?? [], "mem").map((page, i) => pageOf(page, `mem[${i}]`)),
    access: list.map((a, i) => accessOf(a, `access[${i}]`)),
    steps: steps.reduce((sum, n) => sum + n, 0),
    crashed: flagOf(json["qemuCrashed"], "qemuCrashed"),
  };
}

/** Cases of a file, in order. Throws InputError with file and line for one that is malformed, and for a file without any. */
export async function* readCases(path: string): AsyncGenerator<RecordedCase> {
  let meta: Meta = { idr0: undefined };
  let cases = 0;
  const parse = (value: unknown, line: number): RecordedCase | undefined => {
    const json = objectOf(value, "the line");
    if (json["meta"] !== undefined) {
      meta = { idr0: json["idr0"] === undefined ? undefined : bigOf(json["idr0"], "idr0") };
      return undefined;
    }
    if (json["access"] === undefined && json["qemuCrashed"] === undefined && json["steps"] === undefined) {
      throw new Malformed('neither a case ("access") nor metadata ("meta")');
    }
    return caseOf(json, meta, path, line);
  };
  for await (const found of readJsonLines(path, parse)) {
    if (found === undefined) continue;
    cases++;
    yield found;
  }
  if (cases === 0) throw new InputError(`${path}:1: the file has no case`);
}
