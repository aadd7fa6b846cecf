import { Memory } from "@smmuv3/platform";
import { expect, test } from "vitest";
import { GRANULE, HALF, PERM, STAGE1, Stage1Walker, STAGE2, Stage2Walker, WALK } from "../src/index.ts";
import { bits, Transaction, walkStage1, walkStage2 } from "./reference.ts";
import type { HalfConfig, Outcome, Reader, Stage1, Stage2, Store, Tree } from "./reference.ts";

/** RAM: stage-2 tables in its lower half, stage-1 tables in the upper, so that no update changes the way to another one. */
const BASE = 0x4000_0000;
const SIZE = 0x100_0000;
const HALF_SIZE = SIZE / 2;

/** xorshift32. */
class Random {
  #state: number;

  constructor(seed: number) {
    this.#state = Math.imul(seed, 0x9e37_79b1) | 1;
    for (let i = 0; i < 4; i++) this.next();
  }

  next(): number {
    let x = this.#state;
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    this.#state = x;
    return x >>> 0;
  }

  below(n: number): number {
    return this.next() % n;
  }

  chance(percent: number): boolean {
    return this.below(100) < percent;
  }

  pick<T>(values: readonly T[]): T {
    return values[this.below(values.length)]!;
  }

  /** A number of `count` random bits. */
  word(count: number): bigint {
    return bits((BigInt(this.next()) << 32n) | BigInt(this.next()), count - 1, 0);
  }
}

const PAGE_SHIFT: Record<number, number> = { [GRANULE.K4]: 12, [GRANULE.K16]: 14, [GRANULE.K64]: 16 };

/** A RAM whose descriptors are made up when the reference first reads them. */
class World implements Store {
  readonly memory: Memory;
  /** Addresses whose content was made up. */
  readonly known = new Set<bigint>();
  readonly #rnd: Random;
  /** Input size of the stage 2 that stage-1 tables lie behind, or 0. */
  ipaBits = 0;
  /** Percentage of descriptors that are meant well. */
  good = 95;

  constructor(memory: Memory, rnd: Random) {
    this.memory = memory;
    this.#rnd = rnd;
  }

  /** Leaves the memory as it was found. */
  clear(): void {
    for (const pa of this.known) this.memory.words.fill(0, (Number(pa) - BASE) / 4, (Number(pa) - BASE) / 4 + 2);
    this.memory.perm.fill(3);
  }

  #index(pa: bigint, need: number): number {
    const offset = Number(pa) - BASE;
    if (pa >= BigInt(BASE + SIZE) || offset < 0) return -1;
    return (this.memory.perm[offset >> 12]! & need) === 0 ? -1 : offset / 4;
  }

  writable(pa: bigint): boolean {
    return this.#index(pa, 2) >= 0;
  }

  read(pa: bigint, reader: Reader): bigint | undefined {
    const index = this.#index(pa, 1);
    if (index < 0) return undefined;
    const { words } = this.memory;
    if (!this.known.has(pa)) {
      this.known.add(pa);
      const descriptor = this.#invent(reader);
      const lo = Number(descriptor & 0xffff_ffffn) | 0;
      const hi = Number(descriptor >> 32n) | 0;
      const view = new DataView(words.buffer, index * 4, 8);
      view.setInt32(reader.tree.bigEndian ? 4 : 0, lo, !reader.tree.bigEndian);
      view.setInt32(reader.tree.bigEndian ? 0 : 4, hi, !reader.tree.bigEndian);
    }
    return (BigInt(words[index + 1]! >>> 0) << 32n) | BigInt(words[index]! >>> 0);
  }

  /** Some place for tables of `stage`, aligned to 64K. */
  place(stage: number): bigint {
    return BigInt(BASE + (stage === 1 ? HALF_SIZE : 0) + (this.#rnd.below(HALF_SIZE) & ~0xffff));
  }

  /** An address at which a stage-1 tree expects tables. */
  tablePointer(): bigint {
    const rnd = this.#rnd;
    if (this.ipaBits === 0) return this.place(1);
    if (rnd.chance(30)) return rnd.word(this.ipaBits) & ~0xffffn;
    // Low bits like those of the place itself, so that large blocks of stage 2 can lead there.
    const high = this.ipaBits > 42 && rnd.chance(50) ? rnd.word(this.ipaBits - 42) << 42n : 0n;
    return bits(high | this.place(1), this.ipaBits - 1, 0);
  }

  #invent({ tree, level, shift, purpose }: Reader): bigint {
    const rnd = this.#rnd;
    if (!rnd.chance(this.good)) return rnd.word(64) | (rnd.chance(50) ? 1n : 0n);
    const pageShift = PAGE_SHIFT[tree.granule]!;
    const blocks = level === 2 || (level === 1 && tree.granule === GRANULE.K4) || rnd.chance(20);
    const leaf = level === 3 || (level >= 0 && blocks && rnd.chance(30));
    let address: bigint;
    if (!leaf) address = tree.stage === 1 ? this.tablePointer() : this.place(2);
    else if (purpose === "table") address = this.place(1);
    else address = rnd.chance(this.good) ? rnd.word(Math.min(tree.outputBits, 52)) : rnd.word(52);
    const place = (address >> BigInt(leaf ? shift : pageShift)) << BigInt(leaf ? shift : pageShift);
    let d = bits(place, 47, pageShift) << BigInt(pageShift);
    if (tree.granule === GRANULE.K64) d |= bits(place, 51, 48) << 12n;
    else if (tree.ds) d |= (bits(place, 49, 48) << 48n) | (bits(place, 51, 50) << 8n);
    if (!leaf) {
      const hierarchy = rnd.chance(15) ? rnd.word(5) << 59n : 0n;
      return d | 3n | (rnd.chance(50) ? 1n << 10n : 0n) | hierarchy;
    }
    const kind = level === 3 ? 3n : 1n;
    const rights = (rnd.chance(50) ? rnd.word(2) : tree.stage === 1 ? 1n : 3n) << 6n;
    const friendly = purpose === "table" && rnd.chance(this.good) ? 1n << 6n | (rnd.word(1) << 7n) : rights;
    const never = rnd.chance(50) ? 0n : rnd.word(2) << 53n;
    return (
      d |
      kind |
      (rnd.word(4) << 2n) |
      friendly |
      (rnd.chance(purpose === "table" ? 90 : 75) ? 1n << 10n : 0n) |
      (rnd.word(1) << 11n) |
      (rnd.word(1) << 51n) |
      never
    );
  }
}

const SIZES = [32, 36, 40, 42, 44, 48, 52] as const;

/** Start level of a stage-1 tree: the fewest levels that resolve the input. */
function topLevel(inputBits: number, granule: number): number {
  for (let level = 3; ; level--) if (PAGE_SHIFT[granule]! + (4 - level) * (PAGE_SHIFT[granule]! - 3) >= inputBits) return level;
}

interface Common {
  readonly granule: number;
  readonly ds: boolean;
  readonly lpa: boolean;
  readonly bigEndian: boolean;
  readonly affd: boolean;
  readonly ha: boolean;
  readonly hd: boolean;
  readonly haft: boolean;
  readonly outputBits: number;
  readonly sizeCode: number;
}

function common(rnd: Random, lpae: boolean): Common {
  // Half of all trees are plain ones of 4K.
  const plain = rnd.chance(35);
  const granule = plain || lpae ? GRANULE.K4 : rnd.pick([GRANULE.K4, GRANULE.K16, GRANULE.K64]);
  const ha = !plain && !lpae && rnd.chance(60);
  const sizeCode = rnd.chance(60) ? 5 + rnd.below(2) : rnd.below(SIZES.length);
  return {
    granule,
    ds: !plain && !lpae && granule !== GRANULE.K64 && rnd.chance(40),
    lpa: !plain && rnd.chance(30),
    bigEndian: !plain && rnd.chance(25),
    affd: rnd.chance(25),
    ha,
    hd: ha && rnd.chance(70),
    haft: ha && rnd.chance(40),
    outputBits: lpae ? 40 : SIZES[sizeCode]!,
    sizeCode,
  };
}

/** A legal stage 2, and how the walker is told. */
function stage2Of(rnd: Random, world: World): { config: Stage2; vtcr: number; flags: number } {
  for (;;) {
    const lpae = rnd.chance(10);
    const c = common(rnd, lpae);
    const t0sz = lpae ? rnd.below(16) : rnd.chance(70) ? 16 + rnd.below(24) : 12 + rnd.below(37);
    const stt = rnd.chance(30);
    const k64 = c.granule === GRANULE.K64;
    const inputBits = lpae ? 32 - (t0sz < 8 ? t0sz : t0sz - 16) : 64 - t0sz;
    const top = lpae || (!c.ds && !k64) ? 48 : 52;
    const least = stt ? (k64 ? 17 : 16) : 25;
    if (inputBits > top || (!lpae && inputBits < least)) continue;
    const pageShift = PAGE_SHIFT[c.granule]!;
    const starts = [-1, 0, 1, 2, 3].filter((level) => {
      const entries = inputBits - (pageShift + (3 - level) * (pageShift - 3));
      if (entries < 1 || entries > pageShift + 1) return false;
      if (lpae) return level === 1 || level === 2;
      if (level === -1) return c.granule === GRANULE.K4 && c.ds;
      if (level === 0) return c.granule === GRANULE.K4 || (c.granule === GRANULE.K16 && c.ds);
      return level < 3 || c.granule !== GRANULE.K4 || stt;
    });
    if (starts.length === 0) continue;
    const startLevel = rnd.pick(starts);
    const sl0 = lpae ? 2 - startLevel : c.granule !== GRANULE.K4 ? 3 - startLevel : [0, 2, 1, 0, 3][startLevel + 1]!;
    const xnx = rnd.chance(50);
    const fwb = rnd.chance(30);
    const config: Stage2 = { ...c, stage: 2, ttb: world.place(2) + rnd.word(12), inputBits, startLevel, lpae, xnx, fwb };
    const vtcr = t0sz | (sl0 << 6) | (rnd.below(64) << 8) | ((lpae ? rnd.below(4) : c.granule) << 14) | (c.sizeCode << 16);
    const flags =
      (c.affd ? STAGE2.AFFD : 0) | (xnx ? STAGE2.XNX : 0) | (c.ha ? STAGE2.HA : 0) | (c.hd ? STAGE2.HD : 0) |
      (c.haft ? STAGE2.HAFT : 0) | (lpae ? STAGE2.LPAE : 0) | (c.bigEndian ? STAGE2.BIG_ENDIAN : 0) |
      (c.ds ? STAGE2.DS : 0) | (stt ? STAGE2.STT : 0) | (c.lpa ? STAGE2.LPA : 0) | (fwb ? STAGE2.FWB : 0) |
      (startLevel === -1 ? STAGE2.SL2 : 0) |
      // Hardware updates do not exist in VMSAv8-32, and HD and HAFT do nothing alone.
      (lpae ? rnd.pick([0, STAGE2.HA | STAGE2.HD | STAGE2.HAFT]) : c.ha ? 0 : rnd.pick([0, STAGE2.HD, STAGE2.HAFT]));
    return { config, vtcr, flags };
  }
}

function stage1Of(rnd: Random, world: World, nested: boolean, lpaeStage2: boolean): { config: Stage1; apply: (walker: Stage1Walker) => void } {
  const lpae = lpaeStage2 || rnd.chance(12);
  const shared = common(rnd, lpae);
  const stt = rnd.chance(30);
  const single = rnd.chance(15);
  const flag = (percent: number): boolean => rnd.chance(percent);
  const regime = { lpae, single, wxn: flag(25), uwxn: flag(25), pan: flag(30), epan: flag(30), ptw: nested && flag(40) };
  const calls: ((walker: Stage1Walker) => void)[] = [];
  const half = (high: boolean): HalfConfig => {
    const granule = lpae ? GRANULE.K4 : high ? rnd.pick([GRANULE.K4, GRANULE.K16, GRANULE.K64]) : shared.granule;
    const k64 = granule === GRANULE.K64;
    const ds = !lpae && !k64 && (shared.ds || (shared.granule === GRANULE.K64 && dsWanted));
    const least = k64 || ds ? 12 : 16;
    const most = stt ? (k64 ? 47 : 48) : 39;
    const tsz = lpae ? (flag(40) ? 0 : rnd.below(8)) : flag(60) ? 16 + rnd.below(10) : least + rnd.below(most - least + 1);
    const inputBits = (lpae ? 32 : 64) - tsz;
    const enabled = high ? !single && flag(60) : flag(95);
    const out: HalfConfig = {
      ...shared, granule, ds, stage: 1, tsz, inputBits, enabled,
      startLevel: topLevel(inputBits, granule),
      ttb: world.tablePointer() + rnd.word(12),
      tbi: !lpae && flag(30), had: flag(30), e0pd: flag(10),
    };
    calls.push((walker) => {
      walker.configureHalf(
        high, Number(out.ttb & 0xffff_ffffn) | 0, Number(out.ttb >> 32n) | 0, tsz, granule,
        (enabled ? 0 : HALF.DISABLED) | (out.tbi ? HALF.TBI : 0) | (out.had ? HALF.HAD : 0) | (out.e0pd ? HALF.E0PD : 0),
      );
    });
    return out;
  };
  const dsWanted = flag(30);
  const low = half(false);
  const config: Stage1 = { ...regime, low, high: half(true) };
  const ds = config.low.ds || config.high.ds;
  const fixed = (tree: HalfConfig): HalfConfig => ({ ...tree, e0pd: tree.e0pd && !lpae });
  const flags =
    (shared.affd ? STAGE1.AFFD : 0) | (regime.wxn ? STAGE1.WXN : 0) | (regime.pan ? STAGE1.PAN : 0) |
    (single ? STAGE1.SINGLE : 0) | (nested ? STAGE1.NESTED : 0) | (regime.ptw ? STAGE1.PTW : 0) |
    (regime.epan ? STAGE1.EPAN : 0) | (regime.uwxn ? STAGE1.UWXN : 0) | (lpae ? STAGE1.LPAE : 0) |
    (shared.ha ? STAGE1.HA : 0) | (shared.hd ? STAGE1.HD : 0) | (shared.haft ? STAGE1.HAFT : 0) |
    (shared.bigEndian ? STAGE1.BIG_ENDIAN : 0) | (ds ? STAGE1.DS : 0) | (stt ? STAGE1.STT : 0) | (shared.lpa ? STAGE1.LPA : 0);
  return {
    config: { ...config, low: fixed(config.low), high: fixed(config.high) },
    apply: (walker) => {
      walker.configure(shared.sizeCode, flags);
      for (const call of calls) call(walker);
    },
  };
}

function inputOf(rnd: Random, tree: Tree, high: boolean, tbi: boolean): bigint {
  const low = rnd.word(tree.inputBits);
  if (rnd.chance(5)) return rnd.word(64);
  let out = high && "tsz" in tree && tree.inputBits > 32 ? low | ((1n << 64n) - (1n << BigInt(tree.inputBits))) : low;
  if (tbi && rnd.chance(50)) out = (out & ((1n << 56n) - 1n)) | (rnd.word(8) << 56n);
  return out;
}

const NEEDS = [
  0, PERM.READ, PERM.WRITE, PERM.EXECUTE, PERM.PRIV_READ, PERM.PRIV_WRITE, PERM.PRIV_EXECUTE, PERM.READ | PERM.WRITE,
  PERM.PRIV_READ | PERM.PRIV_WRITE, PERM.READ, PERM.WRITE, PERM.PRIV_WRITE,
] as const;

function join64(lo: number, hi: number): bigint {
  return (BigInt(hi >>> 0) << 32n) | BigInt(lo >>> 0);
}

/** What the walker under test says, in the form of the reference. */
function observed1(status: number, w: Stage1Walker, nested: boolean): Outcome {
  const s2 = w.stage2;
  if (status === WALK.OK) {
    return {
      status, stage: 1, level: w.level, perm: w.perm, clean: w.clean, ipa: join64(w.ipaLo, w.ipaHi),
      pa: join64(w.paLo, w.paHi), perm2: nested ? w.perm2 : PERM.ALL, pageShift: w.pageShift,
    };
  }
  const desc = w.stage === 2 ? join64(s2.descPaLo, s2.descPaHi) : join64(w.descPaLo, w.descPaHi);
  return {
    status,
    stage: w.stage,
    level: w.stage === 2 ? s2.level : w.level,
    ...(w.stage === 2 ? { faultClass: w.faultClass, ttWrite: w.ttWrite, ipa: join64(w.ipaLo, w.ipaHi) } : {}),
    ...(status === WALK.EXTERNAL_ABORT ? { descPa: desc } : {}),
  };
}

function observed2(status: number, w: Stage2Walker): Outcome {
  if (status === WALK.OK) {
    return { status, stage: 2, level: w.level, pa: join64(w.paLo, w.paHi), perm: w.perm, clean: w.clean, pageShift: w.shift };
  }
  return { status, stage: 2, level: w.level, ...(status === WALK.EXTERNAL_ABORT ? { descPa: join64(w.descPaLo, w.descPaHi) } : {}) };
}

/** Content of all descriptors that were made up. */
function contents(world: World): Map<bigint, bigint> {
  const { words } = world.memory;
  return new Map([...world.known].map((pa) => {
    const index = (Number(pa) - BASE) / 4;
    return [pa, join64(words[index]!, words[index + 1]!)];
  }));
}

function spoilPages(rnd: Random, world: World): void {
  if (!rnd.chance(30)) return;
  const { perm } = world.memory;
  for (let page = 0; page < perm.length; page++) if (rnd.chance(4)) perm[page] = rnd.pick([0, 1, 2]);
}

interface Tally {
  readonly outcomes: Map<string, number>;
  updates: number;
}

/** Runs walks of one world and compares; `kind` chooses the stages. */
function run(memory: Memory, seed: number, kind: "stage 1" | "stage 2" | "nested", tally: Tally): void {
  const rnd = new Random(seed);
  const world = new World(memory, rnd);
  world.good = rnd.pick([80, 97, 99, 100]);
  spoilPages(rnd, world);
  const second = new Stage2Walker(memory);
  const walker = new Stage1Walker(memory, second);
  const s2 = stage2Of(rnd, world);
  expect(second.configure(Number(s2.config.ttb & 0xffff_ffffn) | 0, Number(s2.config.ttb >> 32n) | 0, s2.vtcr, s2.flags)).toBe(WALK.OK);
  const nested = kind === "nested";
  world.ipaBits = nested ? s2.config.inputBits : 0;
  const s1 = stage1Of(rnd, world, nested, nested && s2.config.lpae);
  s1.apply(walker);

  const written = new Map<bigint, bigint>();
  const note = (_stage: number, _level: number, paLo: number, paHi: number): void => {
    written.set(join64(paLo, paHi), 0n);
  };
  walker.onUpdate = note;
  second.onUpdate = note;
  const seen: bigint[] = [];
  for (let step = 0; step < 6; step++) {
    const need = rnd.pick(NEEDS);
    const high = rnd.chance(s1.config.high.enabled ? 40 : 3);
    const tree = kind === "stage 2" ? s2.config : high ? s1.config.high : s1.config.low;
    const input = seen.length > 0 && rnd.chance(40) ? rnd.pick(seen) : inputOf(rnd, tree, high, s1.config.low.tbi);
    seen.push(input);
    const lo = Number(input & 0xffff_ffffn) | 0;
    const hi = Number(input >> 32n) | 0;

    const plan = new Transaction(world);
    const expected =
      kind === "stage 2"
        ? walkStage2(s2.config, plan, input, need, "data")
        : walkStage1(s1.config, nested ? s2.config : undefined, plan, input, need);
    const before = contents(world);
    const go = (): Outcome =>
      kind === "stage 2"
        ? observed2(second.walk(lo, hi, need), second)
        : observed1(walker.walk(lo, hi, need), walker, nested);

    const context = `seed ${seed}, step ${step}, ${kind}, need ${need}`;
    // Without updates: the same answer but for what the updates would change, and nothing stored.
    walker.inhibitUpdates = true;
    const dry = go();
    walker.inhibitUpdates = false;
    expect({ status: dry.status, pa: dry.pa, ipa: dry.ipa, stage: dry.stage }, context).toEqual({
      status: expected.status, pa: expected.pa, ipa: expected.ipa, stage: expected.stage,
    });
    expect(contents(world), context).toEqual(before);

    written.clear();
    const traced = rnd.chance(20);
    const slots = new Set<bigint>();
    walker.trace = traced ? (_stage, _level, paLo, paHi) => slots.add(join64(paLo, paHi)) : null;
    const got = go();
    walker.trace = null;
    expect(got, context).toEqual(expected);
    const after = new Map([...before, ...plan.writes]);
    expect(contents(world), context).toEqual(after);
    const changed = [...plan.writes.keys()].filter((pa) => before.get(pa) !== plan.writes.get(pa));
    expect([...written.keys()].sort(), context).toEqual(changed.sort());
    for (const pa of slots) expect(world.known.has(pa), context).toBe(true);

    tally.updates += plan.writes.size;
    const key = `${expected.status}.${expected.stage}.${expected.faultClass ?? "-"}.${expected.ttWrite ?? "-"}`;
    tally.outcomes.set(key, (tally.outcomes.get(key) ?? 0) + 1);
  }
  world.clear();
}

test.each([
  ["stage 1", 1500, ["0.1", "1.1", "2.1", "3.1", "4.1", "5.1"]],
  ["stage 2", 1500, ["0.2", "1.2", "2.2", "3.2", "4.2", "5.2"]],
  ["nested", 2500, ["0.1", "1.1", "2.1", "4.1", "1.2.1", "2.2.1", "3.2.1", "4.2.1.false", "4.2.1.true", "5.2.1", "1.2.2", "4.2.2", "3.2.2"]],
] as const)("%s agrees with the reference", (kind, worlds, wanted) => {
  const tally: Tally = { outcomes: new Map(), updates: 0 };
  const memory = Memory.allocate({ base: BASE, size: SIZE });
  for (let seed = 1; seed <= worlds; seed++) run(memory, seed, kind, tally);
  // The worlds are of use only if they lead everywhere.
  for (const prefix of wanted) {
    const count = [...tally.outcomes].filter(([key]) => key.startsWith(prefix)).reduce((sum, [, n]) => sum + n, 0);
    expect(count, `${prefix} in ${JSON.stringify([...tally.outcomes])}`).toBeGreaterThan(20);
  }
  expect(tally.updates).toBeGreaterThan(200);
}, 120_000);
