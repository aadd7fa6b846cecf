import { describe, expect, test } from "vitest";
import { ACCESS } from "@smmuv3/platform";
import { OFFSET, place, REG } from "@smmuv3/smmu-v3-defs";
import { PRESETS, SmmuV3 } from "../src/index.ts";
import type { IdRegisters, ProfileName, Progress, SmmuState } from "../src/index.ts";
import { BASE, CMDQ, EVTQ, PA, Rig, S1, S2 } from "./rig.ts";
import type { RigOptions } from "./rig.ts";

const stalls: IdRegisters = {
  ...PRESETS.full,
  IDR5: (PRESETS.full.IDR5 & 0xffff) | place(REG.IDR5.STALL_MAX, 4),
};

/** xorshift32: numbers in [0, n). */
function generator(seed: number): (n: number) => number {
  let state = seed * 7919 + 1;
  return (n) => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) % n;
  };
}

interface World {
  readonly rig: Rig;
  readonly roots: readonly number[];
  readonly options: RigOptions;
}

/** Four streams: stage 1, stage 1 that stalls, stage 2, nested. */
function build(profile: ProfileName, progress: Progress): World {
  const options: RigOptions = { id: stalls, profile, progress };
  const rig = new Rig(options);
  const one = rig.stage1(1);
  const two = rig.stage1(2, { S: 1 });
  const three = rig.stage2(3, 3);
  const { root1 } = rig.nested(4, 4);
  return { rig, roots: [one, two, three, root1], options };
}

/** One random operation; returns what can be seen of it. */
function operate({ rig, roots }: World, random: (n: number) => number): unknown {
  const stream = random(4);
  const sid = stream + 1;
  const va = 0x1000 * (1 + random(6));
  switch (random(14)) {
    case 0:
    case 1:
      rig.map(roots[stream]!, va, stream === 3 ? BASE + 0x5000 + va : PA + va * random(8), stream === 2 ? S2.rw : random(2) === 0 ? S1.rw : S1.ro);
      return "map";
    case 2:
      rig.command("TLBI_NH_VA", { VMID: stream === 3 ? 4 : 0, ASID: sid, Address: va });
      return rig.read("CMDQ_CONS");
    case 3:
      rig.command(random(2) === 0 ? "TLBI_NSNH_ALL" : "CFGI_STE", { SID: sid });
      return rig.read("CMDQ_CONS");
    case 4:
      rig.command("RESUME", { SID: sid, STAG: random(4), Ac: random(2), Ab: 1 });
      return rig.smmu.stalled.map(({ sid: held, stag, state }) => [held, stag, state]);
    case 5:
      return rig.events();
    case 6:
      rig.write("GBPA", (random(2) << 20) | -0x8000_0000);
      return rig.read("GBPA");
    case 7:
      rig.write("CR0", random(4) === 0 ? 0xc : 0xd);
      return rig.read("CR0ACK");
    case 8:
      rig.ste(5, { Config: 4 });
      return rig.outcome(5, va);
    case 9:
      return rig.smmu.step(random(3));
    default:
      return [rig.outcome(sid, va, random(3) === 0 ? ACCESS.write : ACCESS.read), rig.smmu.cacheStats()];
  }
}

/** Everything that software could look at. */
function look({ rig }: World): unknown {
  const { registers } = rig.smmu;
  const words = (at: number, count: number): number[] => Array.from({ length: count }, (_, i) => rig.memory.load32(at + 4 * i));
  return [Object.values(OFFSET).map((offset) => registers.read32(offset)), words(EVTQ, 32), words(CMDQ, 64), rig.smmu.cacheStats()];
}

/** Replaces the SMMU by a new one that goes on from the state of the old one. */
function move({ rig, options }: World, through: (state: SmmuState) => SmmuState = (state) => state): void {
  const state = through(rig.smmu.saveState());
  const fresh = new SmmuV3({ memory: rig.memory, ...options });
  fresh.restoreState(state);
  Object.assign(rig, { smmu: fresh });
}

const CASES: readonly (readonly [ProfileName, Progress])[] = [
  ["lazy", "immediate"], ["lazy", "manual"], ["finite", "immediate"], ["eager", "manual"],
];

describe.each(CASES)("profile %s, progress %s: moved and unmoved behave alike", (profile, progress) => {
  test.each(Array.from({ length: 12 }, (_, seed) => seed))("seed %i", (seed) => {
    const run = (moves: boolean): unknown[] => {
      const world = build(profile, progress);
      const random = generator(seed);
      const seen: unknown[] = [];
      for (let step = 0; step < 120; step++) {
        seen.push(operate(world, random));
        if (moves && step % 17 === seed % 17) move(world);
      }
      return [...seen, look(world)];
    };
    expect(run(true)).toEqual(run(false));
  });
});

test("stale translations survive, with their context", () => {
  const world = build("lazy", "immediate");
  const { rig } = world;
  rig.map(world.roots[0]!, 0x1000, PA, S1.rw);
  expect(rig.outcome(1, 0x1000)).toBe(PA);
  rig.memory.store64(rig.leaf(world.roots[0]!, 0x1000), 0, 0);
  move(world, ({ json, binary }) => ({ json: JSON.stringify(JSON.parse(json)), binary: Uint8Array.from(binary) }));
  expect(rig.outcome(1, 0x1000)).toBe(PA);
  rig.command("TLBI_NSNH_ALL");
  expect(rig.outcome(1, 0x1000)).toBe("F_TRANSLATION");
});

test("a stalled transaction is answered after the move", () => {
  const world = build("lazy", "immediate");
  const { rig } = world;
  rig.access(2, 0x1000);
  expect(rig.smmu.stalled).toHaveLength(1);
  const { stag } = rig.smmu.stalled[0]!;
  move(world);
  const outcomes: number[] = [];
  rig.smmu.onResume = ({ sid }, outcome) => {
    outcomes.push(sid, outcome);
  };
  rig.map(world.roots[1]!, 0x1000, PA, S1.rw);
  rig.command("RESUME", { SID: 2, STAG: stag, Ac: 1 });
  expect(outcomes).toEqual([2, 0]);
  expect(rig.smmu.stalled).toEqual([]);
});

describe("states that are refused", () => {
  test.each([
    ["not a state", /format/, (): SmmuState => ({ json: "{}", binary: new Uint8Array() })],
    ["another version", /version 2/, (state: SmmuState): SmmuState => ({ ...state, json: state.json.replace('"version":1', '"version":2') })],
    ["another identity", /another identity/, (): SmmuState => new Rig().smmu.saveState()],
    ["another profile", /another profile/, (): SmmuState => new Rig({ id: stalls, profile: "eager" }).smmu.saveState()],
    ["without a value", /has no "/, (state: SmmuState): SmmuState => {
      const json = JSON.parse(state.json) as { values: Record<string, unknown> };
      return { ...state, json: JSON.stringify({ ...json, values: {} }) };
    }],
    ["cut off", /has no/, (state: SmmuState): SmmuState => ({ ...state, binary: state.binary.slice(0, 16) })],
  ] as const)("%s", (_name, message, change) => {
    const { rig } = build("lazy", "immediate");
    expect(() => { rig.smmu.restoreState(change(rig.smmu.saveState())); }).toThrow(message);
  });
});
