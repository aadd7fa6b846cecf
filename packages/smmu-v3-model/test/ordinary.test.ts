import { expect, test } from "vitest";
import { ACCESS } from "@smmuv3/platform";
import { STE_CONFIG } from "@smmuv3/smmu-v3-defs";
import type { CacheProfile } from "../src/index.ts";
import { PA, Rig, S1, S2 } from "./rig.ts";
import type { CdValues, SteValues } from "./rig.ts";

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

const bounded = (entries: number): { entries: number; grows: boolean } => ({ entries, grows: false });
const PROFILES: readonly [string, CacheProfile][] = [
  ["with room", { tlb: bounded(256), stes: bounded(64), cds: bounded(64) }],
  ["that evict", { tlb: bounded(16), stes: bounded(4), cds: bounded(4) }],
  ["that grow", { tlb: { entries: 8, grows: true }, stes: { entries: 4, grows: true }, cds: { entries: 4, grows: true } }],
  ["without a TLB", { tlb: bounded(0), stes: bounded(16), cds: bounded(16) }],
];

const CD_VARIANTS: readonly CdValues[] = [
  {}, {}, {}, { IPS: 4 }, { T0SZ: 25 }, { TBI0: 1 }, { WXN: 1 }, { PAN: 1 }, { A: 0 }, { T0SZ: 17, R: 0 }, { AFFD: 1 }, { EPD0: 1 },
];
const STE_VARIANTS: readonly SteValues[] = [{}, {}, {}, { PRIVCFG: 2 }, { PRIVCFG: 3, INSTCFG: 3 }, { S2PTW: 1 }, { MEV: 1 }];
const S1_LEAVES: readonly number[] = [S1.rw, S1.rw, S1.rw, S1.ro, S1.priv, S1.global, S1.noAf];
const S2_LEAVES: readonly number[] = [S2.rw, S2.rw, S2.rw, S2.ro, S2.wo, S2.none, S2.noAf];
const SIDS = 24;

/** Addresses in three tables of level 3, and in blocks. */
function address(below: (n: number) => number): number {
  return below(3) * 0x4000_0000 + below(2) * 0x20_0000 + below(4) * 0x1000;
}

/** Streams of all kinds over a few tables; the same for the same seed. */
function build(rig: Rig, below: (n: number) => number): void {
  const roots = Array.from({ length: 3 }, () => rig.alloc(0x1000));
  for (const root of roots) {
    for (let i = 0; i < 14; i++) {
      const block = below(5) === 0;
      const va = block ? 0xc000_0000 + below(2) * 0x20_0000 : address(below);
      rig.map(root, va, PA + below(64) * 0x20_0000 + (block ? 0 : below(4) * 0x1000), S1_LEAVES[below(S1_LEAVES.length)]!, block ? 0x20_0000 : 0x1000);
    }
  }
  const { root2 } = rig.nested(0);
  for (let page = 0; page < 64; page++) {
    const ipa = PA + page * 0x20_0000;
    if (below(3) === 0) rig.map(root2, ipa, ipa + 0x1_0000_0000, S2_LEAVES[below(S2_LEAVES.length)]!, 0x20_0000);
    else for (let i = 0; i < 4; i++) rig.map(root2, ipa + i * 0x1000, ipa + 0x1_0000_0000 + i * 0x1000, S2_LEAVES[below(S2_LEAVES.length)]!);
  }
  for (let sid = 1; sid < SIDS; sid++) {
    const cd = { ...CD_VARIANTS[below(CD_VARIANTS.length)]!, ASID: 1 + below(6) };
    const ste = STE_VARIANTS[below(STE_VARIANTS.length)]!;
    rig.stage1(sid, cd, ste);
    const root = roots[below(roots.length)]!;
    rig.fields({ TTB0: { word: 2, loMask: -16, hiMask: 0xf_ffff } }, 0x4004_0000 + sid * 64, { TTB0: cd.T0SZ === 25 ? (rig.memory.load32(root) & ~0xfff) >>> 0 : root });
    const kind = below(6);
    if (kind === 0) rig.ste(sid, { Config: STE_CONFIG.bypass, ...ste });
    if (kind === 1) rig.ste(sid, { Config: STE_CONFIG.s2, ...rig.stage2Fields(root2, 1 + below(2)), ...ste });
    if (kind === 2 || kind === 3) {
      rig.ste(sid, { Config: STE_CONFIG.nested, S1ContextPtr: 0x4004_0000 + sid * 64, ...rig.stage2Fields(root2, 1 + below(2)), ...ste });
    }
  }
}

/** An invalidation now and then. */
function invalidate(rig: Rig, below: (n: number) => number): void {
  const kind = below(60);
  if (kind === 0) rig.command("TLBI_NH_ASID", { ASID: 1 + below(6), VMID: below(3) });
  if (kind === 1) rig.command("TLBI_NH_VA", { ASID: 1 + below(6), VMID: below(3), Address: address(below) });
  if (kind === 2) rig.command("TLBI_S12_VMALL", { VMID: below(3) });
  if (kind === 3) rig.command("CFGI_STE", { SID: below(SIDS) });
  if (kind === 4) rig.command("CFGI_CD", { SID: below(SIDS) });
  if (kind === 5) rig.command("TLBI_NSNH_ALL", {});
}

test.each(PROFILES)("the short ways do what the long one does | caches %s", (_name, profile) => {
  const seen = { ok: 0, fault: 0 };
  for (let seed = 1; seed <= 12; seed++) {
    const quick = new Rig({ profile });
    // An observed SMMU takes no short way, neither in the TLB nor in walks.
    const whole = new Rig({ profile, witness: () => undefined });
    for (const rig of [quick, whole]) build(rig, generator(seed));
    const below = generator(seed + 500);
    for (let i = 0; i < 500; i++) {
      const seedOfCommand = below(0x7fff_ffff);
      for (const rig of [quick, whole]) invalidate(rig, generator(seedOfCommand));
      const sid = below(SIDS);
      const va = below(12) === 0 ? below(0x7fff_ffff) * 0x1000 : (below(4) === 0 ? PA + below(64) * 0x20_0000 : 0) + address(below) + (below(8) === 0 ? 0xc000_0000 : 0) + below(0x1000);
      const flags = (below(3) === 0 ? ACCESS.write : 0) | (below(3) === 0 ? ACCESS.privileged : 0) | (below(6) === 0 ? ACCESS.instruction : 0);
      const got = quick.outcome(sid, va, flags);
      expect(got).toBe(whole.outcome(sid, va, flags));
      if (typeof got === "number") seen.ok++;
      else seen.fault++;
      expect(quick.events()).toEqual(whole.events());
    }
    for (const name of quick.smmu.counters.names()) {
      expect([name, quick.smmu.counters.read(name)]).toEqual([name, whole.smmu.counters.read(name)]);
    }
    // Everything that is cached, and how.
    const [one, other] = [quick.smmu.saveState(), whole.smmu.saveState()];
    expect(one.json).toBe(other.json);
    expect(Buffer.compare(one.binary, other.binary)).toBe(0);
  }
  expect(seen.ok).toBeGreaterThan(1000);
  expect(seen.fault).toBeGreaterThan(500);
});
