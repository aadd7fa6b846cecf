import { expect, test } from "vitest";
import { Memory } from "@smmuv3/platform";
import { CD, CD_WORDS, setField, STE, STE_WORDS } from "@smmuv3/smmu-v3-defs";
import { PERM, Stage1Walker, Stage2Walker, WALK } from "@smmuv3/vmsa-walk";
import { PRESETS } from "../src/index.ts";
import { decodeFeatures } from "../src/presets.ts";
import { configureStage1, configureStage2 } from "../src/regime.ts";
import { WalkerSetup } from "../src/walker-setup.ts";

const memory = Memory.allocate({ base: 0, size: 0x10_0000 });
const features = decodeFeatures(PRESETS.reference);
/** Fields and bits whose change has to be noticed, or is a table's address, or is nothing to walks. */
const CD_BITS = [6, 14, 15, 16, 30, 32, 35, 36, 40, 43, 48, 50, 65, 66, 67, 76, 80, 90, 100, 123, 129, 130, 140, 150, 170, 186];
const STE_BITS = [89, 128, 130, 160, 166, 174, 176, 180, 181, 182, 183, 184, 194, 208, 215, 230];
const ADDRESSES = [[0, 0], [0x1234_5000, 0x12], [-1, -1], [0x7654_3210, -0x100]] as const;

/** What walks read and find, with all of RAM made of one leaf and table descriptors that go round. */
function walks(stage1: Stage1Walker, stage2: Stage2Walker): unknown[] {
  const out: unknown[] = [];
  stage1.trace = (...read): void => {
    out.push(read);
  };
  for (const [lo, hi] of ADDRESSES) {
    for (const need of [PERM.READ, PERM.PRIV_WRITE]) {
      const first = stage1.walk(lo, hi, need);
      out.push(first);
      if (first === WALK.OK) out.push(stage1.perm, stage1.perm2, stage1.paLo, stage1.paHi, stage1.shareability, stage1.ipaLo);
      const second = stage2.walk(lo, hi & 0xff, need);
      out.push(second, stage2.fwb);
      if (second === WALK.OK) out.push(stage2.perm, stage2.paLo, stage2.paHi);
    }
  }
  stage1.trace = null;
  return out;
}

function flip(words: Int32Array, bit: number): void {
  words[bit >> 5]! ^= 1 << (bit & 31);
}

test("one stream after the other is as each alone", () => {
  for (let at = 0; at < memory.words.length; at += 2) memory.words[at] = ((at * 36) & 0xf_f000) | 0xcff;
  const stage2 = new Stage2Walker(memory);
  const stage1 = new Stage1Walker(memory, stage2);
  const setup = new WalkerSetup(features, stage1, stage2);
  const cd = new Int32Array(CD_WORDS);
  for (const [field, value] of [[CD.T0SZ, 16], [CD.T1SZ, 17], [CD.TG1, 2], [CD.IPS, 5], [CD.AA64, 1]] as const) setField(cd, 0, field, value);
  const ste = new Int32Array(STE_WORDS);
  for (const [field, value] of [[STE.S2T0SZ, 16], [STE.S2SL0, 2], [STE.S2PS, 5], [STE.S2AA64, 1]] as const) setField(ste, 0, field, value);
  for (let i = 0; i < 400; i++) {
    const single = i % 7 === 0;
    const nested = i % 3 === 0;
    flip(cd, CD_BITS[i % CD_BITS.length]!);
    flip(ste, STE_BITS[i % STE_BITS.length]!);
    if (i % 5 === 0) setup.forget();
    setup.stage2(ste, 0);
    setup.stage1(cd, 0, ste, 0, nested, single);
    const fresh2 = new Stage2Walker(memory);
    const fresh1 = new Stage1Walker(memory, fresh2);
    configureStage2(fresh2, ste, 0, features);
    configureStage1(fresh1, cd, 0, features, nested, nested && (ste[5]! & (1 << 22)) !== 0, single);
    expect(walks(stage1, stage2)).toEqual(walks(fresh1, fresh2));
  }
});
