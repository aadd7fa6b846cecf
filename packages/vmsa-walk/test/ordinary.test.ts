import { Memory } from "@smmuv3/platform";
import { expect, test } from "vitest";
import { GRANULE, HALF, PERM, STAGE1, Stage1Walker, Stage2Walker, WALK } from "../src/index.ts";

const BASE = 0x4000_0000;
const PAGES = 96;
const MEMORY = Memory.allocate({ base: BASE, size: PAGES * 0x1000 });

/** xorshift32. */
function generator(seed: number): (below: number) => number {
  let state = Math.imul(seed, 0x9e37_79b1) | 1;
  return (below) => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) % below;
  };
}

/** Fills all of RAM with descriptors, most of them good ones that point to RAM, and takes some permissions away. */
function fill(below: (n: number) => number): void {
  const { words, perm } = MEMORY;
  for (let at = 0; at < words.length; at += 2) {
    const type = below(100) < 90 ? 3 : below(4);
    const page = below(100) < 97 ? BASE + below(PAGES) * 0x1000 : below(0x10_0000) * 0x1000;
    // Read and write in both stages, Normal memory, nG, AF; now and then anything.
    words[at] = page | (below(100) < 85 ? 0xcfc : below(0x400) << 2) & ~3 | type;
    words[at + 1] = below(100) < 90 ? 0 : below(2) === 0 ? 1 << below(32) : below(0x10000) << 16;
  }
  perm.fill(3);
  for (let i = below(4); i > 0; i--) perm[below(PAGES)] = below(4);
}

interface Walkers {
  readonly stage1: Stage1Walker;
  readonly stage2: Stage2Walker;
}

function walkers(): Walkers {
  const stage2 = new Stage2Walker(MEMORY);
  return { stage1: new Stage1Walker(MEMORY, stage2), stage2 };
}

function configure({ stage1, stage2 }: Walkers, below: (n: number) => number, nested: boolean): void {
  const bits2 = 36 + below(13);
  const level0 = bits2 > 43 || (bits2 > 39 && below(2) === 0);
  stage2.configure(BASE + below(PAGES) * 0x1000, 0, (64 - bits2) | ((level0 ? 2 : 1) << 6) | (5 << 16), below(4));
  const flags = (nested ? STAGE1.NESTED | (below(3) === 0 ? STAGE1.PTW : 0) : 0) | below(16) | (below(8) === 0 ? STAGE1.STT : 0);
  stage1.configure(below(10) === 0 ? 1 : 5, flags);
  for (const high of [false, true]) {
    const granule = below(8) === 0 ? GRANULE.K16 : GRANULE.K4;
    stage1.configureHalf(high, BASE + below(PAGES) * 0x1000, 0, 16 + below(24), granule, below(6) === 0 ? below(16) : below(2) * HALF.HAD);
  }
}

/** All that a walk leaves behind. */
function result({ stage1, stage2 }: Walkers, status: number): object {
  const both = [stage1.reads, stage2.reads];
  if (status !== WALK.OK) {
    const of = stage1.stage === 2 ? stage2 : stage1;
    const where = status === WALK.EXTERNAL_ABORT ? [of.descPaLo, of.descPaHi] : [];
    return { status, both, stage: stage1.stage, level: of.level, where, fault: stage1.stage === 2 ? [stage1.faultClass, stage1.ipaLo, stage1.ipaHi] : [] };
  }
  const { level, shift, pageShift, descLo, descHi, descPaLo, descPaHi, perm, perm2, clean, paLo, paHi, ipaLo, ipaHi, global, attrIndex, shareability } = stage1;
  return {
    both, level, shift, pageShift, descLo, descHi, descPaLo, descPaHi, perm, perm2, clean, paLo, paHi, ipaLo, ipaHi, global, attrIndex, shareability,
    attributes: stage1.attributes(0x44ff_0400, 0x0c08_bb4f),
  };
}

function ofStage2(walker: Stage2Walker, status: number): object {
  const { level, shift, descLo, descHi, descPaLo, descPaHi, perm, clean, paLo, paHi, memAttr, shareability, device, reads } = walker;
  if (status !== WALK.OK) return { status, level, reads, where: status === WALK.EXTERNAL_ABORT ? [descPaLo, descPaHi] : [] };
  return { level, shift, descLo, descHi, descPaLo, descPaHi, perm, clean, paLo, paHi, memAttr, shareability, device, reads };
}

const NEEDS = [PERM.READ, PERM.READ, PERM.WRITE, PERM.EXECUTE, PERM.PRIV_READ, PERM.PRIV_WRITE, PERM.READ | PERM.WRITE];

test.each([false, true])("an ordinary walk is what the whole walker makes of it | nested %s", (nested) => {
  const seen = { ok: 0, pages: 0, stage2: 0 };
  for (let seed = 1; seed <= 120; seed++) {
    const below = generator(seed);
    fill(below);
    const quick = walkers();
    const whole = walkers();
    // A trace needs each descriptor in turn.
    whole.stage1.trace = (): void => undefined;
    configure(quick, generator(seed + 1000), nested);
    configure(whole, generator(seed + 1000), nested);
    for (let i = 0; i < 60; i++) {
      const lo = (below(0x10000) << 16) | below(0x10000);
      const hi = below(4) === 0 ? -1 << below(24) : below(1 << below(17));
      const need = NEEDS[below(NEEDS.length)]!;
      const page = quick.stage1.page(lo, hi);
      const status = quick.stage1.walk(lo, hi, need);
      expect(whole.stage1.walk(lo, hi, need)).toBe(status);
      expect(result(quick, status)).toEqual(result(whole, status));
      if (status === WALK.OK) seen.ok++;
      if (page >= 0) {
        const { descLo, descHi } = whole.stage1;
        expect([MEMORY.words[page], MEMORY.words[page + 1]]).toEqual([descLo, descHi]);
        if (status === WALK.OK) expect(quick.stage1.rights(descLo, descHi)).toBe(whole.stage1.perm);
        expect(whole.stage1.shift).toBe(12);
        seen.pages++;
      }
      const ipaHi = below(1 << below(17));
      const other = quick.stage2.walk(lo, ipaHi, need);
      expect(whole.stage2.walk(lo, ipaHi, need)).toBe(other);
      expect(ofStage2(quick.stage2, other)).toEqual(ofStage2(whole.stage2, other));
      if (other === WALK.OK) seen.stage2++;
    }
  }
  expect(seen.ok).toBeGreaterThan(nested ? 200 : 500);
  expect(seen.stage2).toBeGreaterThan(500);
  if (!nested) expect(seen.pages).toBeGreaterThan(400);
});

test("another root is as another configuration", () => {
  fill(generator(7));
  const one = walkers();
  const other = walkers();
  for (let i = 0; i < 40; i++) {
    const below = generator(i);
    configure(one, below, false);
    configure(other, generator(i), false);
    const root = BASE + (i % PAGES) * 0x1000;
    one.stage1.setRoots(root, 0, root + 0x1000, 0);
    one.stage2.setRoot(root, 0);
    // What the same configuration with that root finds.
    other.stage1.trace = (_stage, _level, paLo): void => {
      firsts.push(paLo);
    };
    const firsts: number[] = [];
    other.stage1.setRoots(root, 0, root + 0x1000, 0);
    other.stage2.setRoot(root, 0);
    for (const hi of [0, -1]) {
      firsts.length = 0;
      expect(one.stage1.walk(0, hi, PERM.READ)).toBe(other.stage1.walk(0, hi, PERM.READ));
      if (firsts.length > 0) expect(firsts[0]! & ~0x3fff).toBe((root + (hi === 0 ? 0 : 0x1000)) & ~0x3fff);
    }
    other.stage1.trace = null;
  }
});

test("a configuration that does not fit faults at every address", () => {
  fill(generator(3));
  const { stage2 } = walkers();
  expect(stage2.configure(BASE, 0, 16 | (2 << 6) | (5 << 16))).toBe(WALK.OK);
  expect(stage2.configure(BASE, 0, 63)).toBe(WALK.TRANSLATION);
  expect([stage2.walk(0, 0, PERM.READ), stage2.level]).toEqual([WALK.TRANSLATION, 0]);
});
