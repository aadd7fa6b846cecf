import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { CERROR, CMD, COMMANDS, place } from "@smmuv3/smmu-v3-defs";
import type { CommandName } from "@smmuv3/smmu-v3-defs";
import type { CommandTarget } from "../src/command-target.ts";
import { buildCommandTable } from "../src/commands.ts";
import { ConfigCache } from "../src/config-cache.ts";
import { choosePolicy } from "../src/policy.ts";
import type { PolicyChoice } from "../src/policy.ts";
import { decodeFeatures, PRESETS } from "../src/presets.ts";
import type { PresetName } from "../src/presets.ts";
import { makeTlb } from "../src/profiles.ts";
import { QuickCommands } from "../src/quick-commands.ts";
import { GLOBAL, KIND, KIND_SHIFT, Tlb } from "../src/tlb.ts";
import type { TlbFill } from "../src/tlb.ts";
import { WalkCache } from "../src/walk-cache.ts";

/** Words of a TLB entry. */
const ENTRY = 8;

/** What a cache entry is for. */
interface Entry {
  readonly kind: number;
  readonly vmid: number;
  readonly asid: number;
  readonly global: boolean;
  /** 4K page, below 2^52. */
  readonly page: number;
  /** log2 of the sizes in bytes of the entry and of its stage-1 leaf. */
  readonly pageShift: number;
  readonly leafShift: number;
}

/** What a TLBI by address names; `asid` -1 for any. */
interface Range {
  readonly kind: number;
  readonly vmid: number;
  readonly asid: number;
  readonly page: number;
  readonly pages: number;
  readonly level: number;
}

const SIZES = [12, 14, 16, 21, 30, 39];
const LEVELS: Readonly<Record<number, number>> = { 12: 3, 14: 3, 16: 3, 21: 2, 30: 1, 39: 0 };
/** Few, so that commands meet entries: the ends of words and sign extensions among them. */
const PAGES = [0, 1, 5, 0x200, 0x3ff, 0x4_0000, 0xffff_ffff, 0x1_0000_0000, 0x7_ffff_ffff, 0xf_fff8_0000_0000, 0xf_ffff_ffff_ffff];
const page = fc.tuple(fc.constantFrom(...PAGES), fc.integer({ min: -2, max: 40 })).map(([at, by]) => Math.min(Math.max(at + by, 0), 0xf_ffff_ffff_ffff));
const id = fc.constantFrom(0, 1, 2, 0xff, 0x100, 0x8001, 0xffff);

const entry = fc
  .record({
    kind: fc.constantFrom<number>(KIND.EL1, KIND.IPA, KIND.EL2), vmid: id, asid: id, global: fc.boolean(), page,
    size: fc.constantFrom(...SIZES), cut: fc.integer({ min: 0, max: 9 }),
  })
  .map(({ kind, vmid, asid, global, page: at, size, cut }): Entry => {
    const pageShift = kind === KIND.EL1 && cut === 0 ? 12 : size;
    return {
      kind, vmid: kind === KIND.EL2 ? 0 : vmid, asid: kind === KIND.IPA ? 0 : asid, global: global && kind !== KIND.IPA,
      page: at - (at % 2 ** (pageShift - 12)), pageShift, leafShift: size,
    };
  });

function fillOf({ pageShift, leafShift, global }: Entry): TlbFill {
  return {
    pageShift, leafShift, level: LEVELS[leafShift]!, global, paLo: 0, paHi: 0, ipaLo: 0, ipaHi: 0, perm: 63, perm2: 63, clean: 0,
    attributes: 0,
  };
}

function tagOf({ vmid, asid }: Entry): number {
  return asid | (vmid << 16);
}

function insert(tlb: Tlb, one: Entry): void {
  tlb.insert(one.page | 0, Math.floor(one.page / 2 ** 32), one.kind, tagOf(one), fillOf(one));
}

/** The entries that are not dropped; all are as young as can be. */
function survivors(tlb: Tlb): string[] {
  const { data } = tlb;
  const names: string[] = [];
  for (let at = 0; at < data.length; at += ENTRY) {
    const [tag, key] = [data[at + 1]!, data[at + 2]!];
    if (data[at + 3] === 0) continue;
    const page = (key & 0xf_ffff) * 2 ** 32 + (data[at]! >>> 0);
    names.push(nameOf({
      kind: (key >>> KIND_SHIFT) & 3, vmid: tag >>> 16, asid: tag & 0xffff, global: (key & GLOBAL) !== 0, page, pageShift: key >>> 24,
      leafShift: 0,
    }));
  }
  return names.sort();
}

/** Two of one name are one entry. */
function nameOf({ kind, vmid, asid, global, page: at, pageShift }: Entry): string {
  return `${kind} ${vmid} ${global ? "global" : asid} ${at} ${pageShift}`;
}

/** With bits 63:56 of the address as bit 55. */
function extended(at: number): number {
  const low = at % 2 ** 44;
  return low >= 2 ** 43 ? low + (2 ** 52 - 2 ** 44) : low;
}

function isNamed(one: Entry, { kind, vmid, asid, page: at, pages, level }: Range): boolean {
  const leaf = 2 ** (one.leafShift - 12);
  const start = one.page - (one.page % leaf);
  const first = kind === KIND.IPA ? at % 2 ** 44 : extended(at);
  return (
    one.kind === kind && one.vmid === vmid && (asid < 0 || one.global || one.asid === asid) &&
    (level === 0 || LEVELS[one.leafShift] === level) && start < first + pages && start + leaf > first
  );
}

/** Which entry a command is aimed at, how far from it, and what its address has in bits 63:56 instead; or none. */
const aim = fc.option(fc.record({ at: fc.nat(), by: fc.integer({ min: -20, max: 2 }), tag: fc.option(fc.integer({ min: 0, max: 255 })) }), { freq: 3 });
type Aim = typeof aim extends fc.Arbitrary<infer T> ? T : never;

/** A command, made to meet one of the entries where it is aimed. */
function aimed<T extends { readonly vmid: number; readonly asid: number; readonly page: number; readonly aim: Aim }>(
  command: T,
  entries: readonly Entry[],
): T {
  if (command.aim === null || entries.length === 0) return command;
  const { at, by, tag } = command.aim;
  const one = entries[at % entries.length]!;
  const near = Math.min(Math.max(one.page + by, 0), 0xf_ffff_ffff_ffff);
  const kind = "kind" in command ? { kind: one.kind } : {};
  return {
    ...command, ...kind, vmid: one.vmid, asid: command.asid < 0 ? -1 : one.asid,
    page: tag === null ? near : (near % 2 ** 44) + tag * 2 ** 44,
  };
}

describe("a TLBI by address drops what the definition of its scope names (4.4.1)", () => {
  const command = fc.record({
    kind: fc.constantFrom<number>(KIND.EL1, KIND.IPA, KIND.EL2), vmid: id, asid: fc.oneof(id, fc.constant(-1)), page,
    pages: fc.constantFrom(1, 2, 16, 64, 512, 4096, 2 ** 18, 2 ** 33), level: fc.constantFrom(0, 0, 0, 1, 2, 3), aim,
  });

  test.each([16, 64, 4096])("a TLB that begins with %i entries", (size) => {
    fc.assert(
      fc.property(fc.array(entry, { minLength: 1, maxLength: 30 }), fc.array(command, { minLength: 1, maxLength: 12 }), (entries, commands) => {
        const tlb = new Tlb({ entries: size, grows: true });
        const left = new Map<string, Entry>();
        for (const one of entries) {
          insert(tlb, one);
          left.set(nameOf(one), one);
        }
        // Five that differ in size, or above VA[43:12], only are one too many for a set.
        const kept = new Set(survivors(tlb));
        for (const name of left.keys()) if (!kept.has(name)) left.delete(name);
        expect(kept.size).toBe(left.size);
        for (const range of commands.map((one) => aimed(one, entries))) {
          const { kind, vmid, asid, pages, level, page: at } = range;
          const low = kind === KIND.IPA ? at % 2 ** 44 : at;
          Object.assign(tlb.range, {
            kind, vmid, asid, pages, level, leaf: true, addressLo: (low % 2 ** 20) << 12, addressHi: Math.floor(low / 2 ** 20) | 0,
          });
          tlb.invalidateRange();
          for (const [name, one] of left) if (isNamed(one, range)) left.delete(name);
          expect(survivors(tlb)).toEqual([...left.keys()].sort());
        }
      }),
      { numRuns: 200 },
    );
  });
});

const NAMES = ["TLBI_NH_VA", "TLBI_S2_IPA", "TLBI_EL2_VA", "TLBI_NH_ASID", "CFGI_STE", "CFGI_CD", "SYNC", "TLBI_NH_VAA", "TLBI_NH_ALL", "TLBI_EL2_ALL"] as const;

interface Drawn {
  readonly name: CommandName;
  readonly vmid: number;
  readonly asid: number;
  readonly sid: number;
  readonly ssid: number;
  readonly page: number;
  /** Bits that make the command unusual, or all zero. */
  readonly odd: readonly number[];
  readonly repeat: number;
  readonly aim: Aim;
}

const drawn = fc.record({
  name: fc.constantFrom<CommandName>(...NAMES), vmid: id, asid: id, sid: fc.constantFrom(0, 1, 2, 3, 0x100, 0x1_0001, -1),
  ssid: fc.constantFrom(0, 1, 0x400), page,
  odd: fc.oneof(
    { weight: 3, arbitrary: fc.constant([0, 0, 0, 0]) },
    { weight: 1, arbitrary: fc.constantFrom([1 << 10, 0, 0, 0], [0, 0, 1, 0], [0, 0, 1 << 10, 0], [1 << 12, 0, 0, 0], [3 << 12, 0, 0, 0], [0, 0, 1 << 9, 0]) },
    { weight: 1, arbitrary: fc.array(fc.integer().map((bits) => bits & (bits >> 3) & (bits >> 7)), { minLength: 4, maxLength: 4 }) },
  ),
  repeat: fc.constantFrom(1, 1, 2, 5), aim,
});

function encode({ name, vmid, asid, sid, ssid, page: at, odd }: Drawn, words: Int32Array, index: number): void {
  const { opcode, fields } = COMMANDS[name];
  const has = (field: string): boolean => (fields as readonly string[]).includes(field);
  const to = index * 4;
  words[to] = opcode | (has("SSID") ? place(CMD.SSID, ssid) : 0);
  words[to + 1] = has("SID") ? sid : (has("VMID") ? vmid : 0) | (has("ASID") ? asid << 16 : 0);
  words[to + 2] = has("Address") ? at << 12 : 0;
  words[to + 3] = has("Address") ? Math.floor(at / 2 ** 20) : 0;
  // The opcode stays.
  for (let i = 0; i < 4; i++) words[to + i]! |= i === 0 ? odd[0]! & ~0xff : odd[i]!;
}

/** Caches with the same contents each time, and what commands do to them. */
class Caches {
  readonly tlb: Tlb;
  readonly stes: ConfigCache;
  readonly cds: ConfigCache;
  readonly target: CommandTarget;
  /** Resolved streams are known still. */
  known = true;

  constructor(preset: PresetName, choice: PolicyChoice, entries: readonly Entry[], options: { wildcard: number; e2h: boolean; walks: boolean; stale: boolean; timedOut: boolean }) {
    const features = decodeFeatures(PRESETS[preset]);
    const policy = choosePolicy(choice);
    this.tlb = makeTlb({ entries: 64, grows: true }, policy, false);
    if (options.walks) this.tlb.walks = new WalkCache({ entries: 64, grows: true });
    this.stes = new ConfigCache({ entries: 64, grows: true }, features.sidSize);
    this.cds = new ConfigCache({ entries: 64, grows: true }, features.sidSize);
    for (const one of entries) {
      insert(this.tlb, one);
      const hi = Math.floor(one.page / 2 ** 20) | 0;
      const reads = [0, 1, 2, 3].map((level) => ({ what: "S1" as const, level, pa: level * 4096, words: Int32Array.of(3, 0) }));
      this.tlb.walks?.learn(one.kind, tagOf(one), (one.page % 2 ** 20) << 12, hi, 1, reads, undefined);
    }
    for (const sid of SIDS) {
      this.stes.insert(sid, -1);
      for (const ssid of [0, 1, 0x400]) this.cds.insert(sid, ssid);
    }
    const stalls = { stale: options.stale, synchronize: (): void => void (stalls.stale = false) };
    const ats = {
      timedOut: options.timedOut,
      synchronize: (): number => {
        const was = ats.timedOut;
        ats.timedOut = false;
        return was ? CERROR.ATC_INV_SYNC : CERROR.NONE;
      },
    };
    this.target = {
      features, policy, tlb: this.tlb, stes: this.stes, cds: this.cds, stalls, ats,
      forgetContexts: () => {
        this.known = false;
      },
      vmidWildcard: () => options.wildcard,
      e2h: () => options.e2h,
    } as unknown as CommandTarget;
  }

  /** What is left, and what else commands have changed. */
  get state(): unknown {
    const { tlb, stes, cds, target, known } = this;
    const { data } = tlb;
    const live: string[] = [];
    for (let at = 0; at < data.length; at += ENTRY) {
      const [tag, key] = [data[at + 1]!, data[at + 2]!];
      const asid = (key & GLOBAL) === 0 ? tag & 0xffff : -1;
      if (data[at + 3] !== 0 && data[at + 3]! >= tlb.floor((key >>> KIND_SHIFT) & 3, tag >>> 16, asid)) live.push(`${data[at]} ${tag} ${key}`);
    }
    return {
      live: live.sort(), walks: tlb.walks?.save(), size: tlb.walks?.size, known, stale: target.stalls.stale, timedOut: target.ats?.timedOut,
      stes: SIDS.filter((sid) => stes.find(sid, -1) >= 0), cds: SIDS.flatMap((sid) => [0, 1, 0x400].map((ssid) => cds.find(sid, ssid) >= 0)),
    };
  }
}

const SIDS = [0, 1, 2, 3, 0x100];

describe("commands in runs do what their rules do", () => {
  const policies: PolicyChoice[] = ["strict", "adversarial", "qemuLike", { tlb: "split" }, { tlbiScope: "vmid" }, { stallEarlyRetry: true }, { commandParameter: "noEffect" }];
  const presets: PresetName[] = ["reference", "full", "qemuNested", "qemuStage1", "qemuStage2", "mmu600"];
  const options = fc.record({
    wildcard: fc.constantFrom(0, 0, 0, 3), e2h: fc.boolean(), walks: fc.boolean(), stale: fc.boolean(), timedOut: fc.boolean(),
  });

  test.each(presets.flatMap((preset) => policies.map((policy) => [preset, policy] as const)))("%s, policy %j", (preset, policy) => {
    fc.assert(
      fc.property(fc.array(entry, { maxLength: 24 }), fc.array(drawn, { minLength: 1, maxLength: 24 }), options, (entries, commands, chosen) => {
        const all = commands.flatMap((one) => new Array<Drawn>(one.repeat).fill(aimed(one, entries)));
        const words = new Int32Array(all.length * 4);
        for (const [index, one] of all.entries()) encode(one, words, index);
        const quick = new Caches(preset, policy, entries, chosen);
        const slow = new Caches(preset, policy, entries, chosen);
        const table = buildCommandTable(quick.target.features, quick.target.policy);
        const rule = (target: CommandTarget, at: number): number => {
          const opcode = words[at]! & 0xff;
          const handler = table.handlers[opcode];
          return handler === undefined || (words[at]! & table.illegalBits[opcode]!) !== 0 ? CERROR.ILL : handler(target, words, at);
        };
        const run = new QuickCommands(table, quick.target);
        for (let at = 0; at < words.length; ) {
          const stop = run.run(words, at, words.length);
          let syncs = 0;
          for (let i = at; i < stop; i += 4) {
            // Nothing but plain completion is done in runs: no error, no signal, no end of a batch.
            expect(rule(slow.target, i)).toBe(CERROR.NONE);
            if ((words[i]! & 0xff) === COMMANDS.SYNC.opcode) syncs++;
          }
          expect(run.syncs).toBe(syncs);
          expect(quick.state).toEqual(slow.state);
          if (stop < words.length) expect(rule(quick.target, stop)).toBe(rule(slow.target, stop));
          at = stop + 4;
        }
        expect(quick.state).toEqual(slow.state);
      }),
      { numRuns: 30 },
    );
  });

  test("what drivers send is all done in one run", () => {
    const caches = new Caches("qemuNested", "strict", [], { wildcard: 0, e2h: false, walks: true, stale: false, timedOut: false });
    const run = new QuickCommands(buildCommandTable(caches.target.features, caches.target.policy), caches.target);
    const names: CommandName[] = ["TLBI_NH_VA", "TLBI_NH_VA", "SYNC", "TLBI_S2_IPA", "SYNC", "CFGI_STE", "CFGI_CD", "TLBI_NH_ASID", "SYNC"];
    const words = new Int32Array(names.length * 4);
    for (const [index, name] of names.entries()) encode({ name, vmid: 1, asid: 2, sid: 3, ssid: 0, page: 5, odd: [0, 0, 0, 0], repeat: 1, aim: null }, words, index);
    expect(run.run(words, 0, words.length)).toBe(words.length);
    expect(run.syncs).toBe(3);
  });
});
