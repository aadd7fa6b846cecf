import { CD, getField, L1STD, STE, STE_CONFIG, STE_WORDS } from "@smmuv3/smmu-v3-defs";
import { UnknownPage } from "../reference/bus.ts";
import { cdViolation, fetchCd, foreignStage1, foreignStage2, secondLevel, show, stage1Of, stage2Of, stagesOf, steViolation, streamTableOf } from "../reference/config.ts";
import type { Machine, StreamTable } from "../reference/config.ts";
import { NO_QUIRKS } from "../reference/quirks.ts";
import { alignDown, RIGHT, walkStage2 } from "../reference/tables.ts";
import { stage1Leaves, stage2Leaves } from "./leaves.ts";
import type { Leaves } from "./leaves.ts";

/** A CD that a stream uses. */
export interface ContextReport {
  readonly ssid: number;
  readonly pa: bigint | undefined;
  readonly text: string;
  /** Why it cannot be used. */
  readonly problem: string | undefined;
  readonly leaves: Leaves | undefined;
}

/** Streams with consecutive numbers and the same STE, or one that translates. */
export interface StreamReport {
  readonly first: number;
  readonly last: number;
  /** Of the first one. */
  readonly pa: bigint;
  readonly config: string;
  readonly text: string;
  /** Why the STE is ILLEGAL, or its tables are not listed. */
  readonly problem: string | undefined;
  readonly contexts: readonly ContextReport[];
  readonly stage2: Leaves | undefined;
}

export interface StreamTableReport {
  readonly table: StreamTable;
  readonly streams: readonly StreamReport[];
  /** Streams whose STE has V = 0. */
  readonly invalid: number;
  /** StreamIDs without an STE, under level-1 descriptors with Span 0. */
  readonly absent: number;
  /** Places of the stream table that the dump does not hold, with the StreamIDs that they decide. */
  readonly missing: readonly { readonly pa: bigint; readonly first: number; readonly last: number; readonly why: "unknown" | "unreadable" }[];
}

const CONFIGS: ReadonlyMap<number, string> = new Map([
  [STE_CONFIG.bypass, "bypass"],
  [STE_CONFIG.s1, "stage 1"],
  [STE_CONFIG.s2, "stage 2"],
  [STE_CONFIG.nested, "nested"],
]);

type Reading = Int32Array | "unknown" | "unreadable";

function tryRead(machine: Machine, pa: bigint, words: number): Reading {
  try {
    return machine.bus.read(pa, words) ?? "unreadable";
  } catch (error) {
    if (error instanceof UnknownPage) return "unknown";
    throw error;
  }
}

/** Contexts of one stream: each substream that has a valid CD. */
function contextsOf(machine: Machine, ste: Int32Array): ContextReport[] {
  const { s2 } = stagesOf(ste);
  const stage2 = s2 ? stage2Of(ste, machine.features, NO_QUIRKS) : undefined;
  const cdMax = machine.features.ssidSize === 0 ? 0 : Math.min(getField(ste, 0, STE.S1CDMax), machine.features.ssidSize);
  const translate =
    stage2 === undefined
      ? undefined
      : (ipa: bigint): bigint | undefined => {
          const found = walkStage2({ bus: machine.bus, quirks: NO_QUIRKS, onRead: () => {} }, stage2, ipa, RIGHT.read);
          return found.fault === undefined ? found.pa : undefined;
        };
  const out: ContextReport[] = [];
  for (let ssid = 0; ssid < 2 ** cdMax; ssid++) {
    let pa: bigint | undefined;
    const problem = (text: string): ContextReport => ({ ssid, pa, text: "", problem: text, leaves: undefined });
    try {
      const cd = fetchCd(machine, ste, ssid, translate, (read) => {
        pa = read.pa;
      });
      if (cd === undefined) out.push(problem("stage 2 refuses its address"));
      else if (!(cd instanceof Int32Array)) {
        if (cd.event !== "C_BAD_SUBSTREAMID") out.push(problem(cd.reason));
      } else if (getField(cd, 0, CD.V) === 1 || cdMax === 0) {
        const foreign = foreignStage1(ste, cd, machine.features);
        const illegal = cdViolation(machine, ste, cd) ?? (foreign === undefined ? undefined : `${foreign} is not read here`);
        const leaves = illegal === undefined ? stage1Leaves(machine.bus, stage1Of(machine, ste, cd), stage2) : undefined;
        out.push({ ssid, pa, text: show(CD, cd), problem: illegal, leaves });
      }
    } catch (error) {
      if (!(error instanceof UnknownPage)) throw error;
      out.push(problem(error.message));
    }
  }
  return out;
}

class Collector {
  readonly streams: StreamReport[] = [];
  readonly missing: { pa: bigint; first: number; last: number; why: "unknown" | "unreadable" }[] = [];
  invalid = 0;
  absent = 0;
  readonly #machine: Machine;
  readonly #stage2 = new Map<string, Leaves>();
  #words: Int32Array | undefined;

  constructor(machine: Machine) {
    this.#machine = machine;
  }

  miss(pa: bigint, first: number, last: number, why: "unknown" | "unreadable"): void {
    const before = this.missing.at(-1);
    if (before !== undefined && before.last + 1 === first && before.why === why) before.last = last;
    else this.missing.push({ pa, first, last, why });
  }

  /** Takes STEs in ascending order. */
  stes(base: bigint, first: number, count: number): void {
    for (let i = 0; i < count; i++) {
      const pa = base + BigInt(i) * 64n;
      const words = tryRead(this.#machine, pa, STE_WORDS);
      if (words instanceof Int32Array) {
        this.#ste(words, pa, first + i);
        continue;
      }
      // The rest of the page is no better.
      const rest = Math.min(count - i, Number(64n - ((pa - alignDown(pa, 12)) >> 6n)));
      this.miss(alignDown(pa, 12), first + i, first + i + rest - 1, words);
      i += rest - 1;
    }
  }

  #ste(words: Int32Array, pa: bigint, sid: number): void {
    const machine = this.#machine;
    const last = this.streams.at(-1);
    const { s1, s2 } = stagesOf(words);
    if (getField(words, 0, STE.V) === 0) {
      this.invalid++;
      return;
    }
    if (!s1 && !s2 && last !== undefined && last.last + 1 === sid && this.#words?.every((word, i) => word === words[i]) === true) {
      this.streams[this.streams.length - 1] = { ...last, last: sid };
      return;
    }
    this.#words = words;
    const foreign = s2 ? foreignStage2(words, machine.features) : undefined;
    const problem = steViolation(words, machine.features, NO_QUIRKS) ?? (foreign === undefined ? undefined : `${foreign} is not read here`);
    const legal = problem === undefined;
    this.streams.push({
      first: sid,
      last: sid,
      pa,
      config: CONFIGS.get(getField(words, 0, STE.Config)) ?? "abort",
      text: show(STE, words),
      problem,
      contexts: legal && s1 ? contextsOf(machine, words) : [],
      stage2: legal && s2 ? this.#leaves(words) : undefined,
    });
  }

  /** Streams of one guest share their stage 2. */
  #leaves(ste: Int32Array): Leaves {
    const key = ste.slice(4, 8).join();
    const known = this.#stage2.get(key) ?? stage2Leaves(this.#machine.bus, stage2Of(ste, this.#machine.features, NO_QUIRKS));
    this.#stage2.set(key, known);
    return known;
  }
}

/** Reads the stream table and all that it leads to. */
export function listStreams(machine: Machine): StreamTableReport {
  const table = streamTableOf(machine);
  const collector = new Collector(machine);
  const { twoLevel, log2, split, base } = table;
  if (!twoLevel) collector.stes(base, 0, 2 ** log2);
  else {
    const under = 2 ** split;
    for (let i = 0; i < 2 ** Math.max(log2 - split, 0); i++) {
      const pa = base + BigInt(i) * 8n;
      const words = tryRead(machine, pa, 2);
      if (!(words instanceof Int32Array)) {
        collector.miss(alignDown(pa, 12), i * under, i * under + under - 1, words);
        continue;
      }
      const second = secondLevel(words, split, NO_QUIRKS);
      collector.absent += under - second.entries;
      if (getField(words, 0, L1STD.Span) !== 0) collector.stes(second.base, i * under, second.entries);
    }
  }
  const { streams, missing, invalid, absent } = collector;
  return { table, streams, missing, invalid, absent };
}
