import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { INV, Invs, makeInvs, mergeInvs, purgeInvs, unrefInvs } from "../src/index.ts";
import type { InvTag } from "../src/index.ts";

const never = (): never => {
  throw new Error("nobody has to wait");
};
const NAMES = Object.keys(INV);

/** Rows as text: `smmu type id[.ssid] x users`. */
function rows(invs: Invs): string[] {
  return Array.from({ length: invs.count }, (_, row) => {
    const ssid = invs.ssid(row) === 0 ? "" : `.${invs.ssid(row)}`;
    return `${invs.smmu(row)} ${NAMES[invs.type(row)]!} ${invs.id(row) >>> 0}${ssid} x${invs.users(row)}`;
  });
}

function invsOf(...tags: InvTag[]): Invs {
  return makeInvs(tags)!;
}

const asid = (id: number, smmu = 0): InvTag => ({ smmu, type: INV.s1Asid, id });
const vmid = (id: number, smmu = 0): InvTag => ({ smmu, type: INV.s2Vmid, id });
const clear = (id: number, smmu = 0): InvTag => ({ smmu, type: INV.s2VmidS1Clear, id });
const ats = (id: number, ssid = 0, smmu = 0): InvTag => ({ smmu, type: INV.ats, id, ssid });

describe("makeInvs", () => {
  test("sorts by SMMU, type, id and SubstreamID; equal tags are one", () => {
    const invs = invsOf(ats(9, 3), clear(2), asid(1, 1), ats(9), vmid(2), ats(-1 >>> 0), ats(9, 3), asid(5), asid(4));
    expect(rows(invs)).toEqual([
      "0 s1Asid 4 x1", "0 s1Asid 5 x1", "0 s2Vmid 2 x1", "0 s2VmidS1Clear 2 x1", "0 ats 9 x1", "0 ats 9.3 x1", "0 ats 4294967295 x1",
      "1 s1Asid 1 x1",
    ]);
  });
  test.each([
    [{ ...asid(1) }, [0x12, 0x11]], [{ ...asid(1), e2h: true }, [0x22, 0x21]], [vmid(1), [0x2a, 0x28]], [clear(1), [0x10, 0x10]],
    [ats(1), [0x40, 0x40]], [{ ...ats(1), type: INV.atsFull }, [0x40, 0x40]],
  ])("opcodes of %j", (tag, opcodes) => {
    const invs = invsOf(tag);
    expect([invs.sizeOpcode(0), invs.allOpcode(0)]).toEqual(opcodes);
  });
  test("flags tell what is in it", () => {
    const flags = (...tags: InvTag[]): boolean[] => {
      const { hasAts, hasRange, hasFullCont } = invsOf(...tags);
      return [hasAts, hasRange, hasFullCont];
    };
    expect(flags(asid(1))).toEqual([false, false, false]);
    expect(flags(asid(1), { ...asid(1, 1), ril: true })).toEqual([false, true, false]);
    expect(flags({ ...vmid(1), ril: true, fullCont: true }, ats(1))).toEqual([true, true, true]);
    expect(flags({ ...ats(1), type: INV.atsFull })).toEqual([true, false, false]);
  });
});

describe("a life of an array", () => {
  test("merge, unref and purge step by step", () => {
    let invs = invsOf();
    const merge = (...tags: InvTag[]): string[] => rows((invs = mergeInvs(invs, invsOf(...tags))!));
    const unref = (...tags: InvTag[]): [string[], number, number[]] => {
      const removed = invsOf(...tags);
      expect(unrefInvs(invs, removed, never)).toBe(0);
      return [rows(invs), invs.trash, tags.map((_, row) => removed.users(row))];
    };
    expect(merge(asid(1))).toEqual(["0 s1Asid 1 x1"]);
    expect(merge(asid(1), ats(7))).toEqual(["0 s1Asid 1 x2", "0 ats 7 x1"]);
    expect(merge(asid(1), ats(8))).toEqual(["0 s1Asid 1 x3", "0 ats 7 x1", "0 ats 8 x1"]);
    // In the middle: trash stays.
    expect(unref(asid(1), ats(7))).toEqual([["0 s1Asid 1 x2", "0 ats 7 x0", "0 ats 8 x1"], 1, [1, 0]]);
    // At the end: cut, with the trash before it.
    expect(unref(asid(1), ats(8))).toEqual([["0 s1Asid 1 x1"], 0, [1, 0]]);
    expect(invs.hasAts).toBe(true);
    expect(merge(ats(9))).toEqual(["0 s1Asid 1 x1", "0 ats 9 x1"]);
    expect(unref(asid(1))).toEqual([["0 s1Asid 1 x0", "0 ats 9 x1"], 1, [0]]);
    // What has no users is not merged again.
    expect(merge(asid(2))).toEqual(["0 s1Asid 2 x1", "0 ats 9 x1"]);
    expect(unref(asid(2))).toEqual([["0 s1Asid 2 x0", "0 ats 9 x1"], 1, [0]]);
    expect(merge(asid(2))).toEqual(["0 s1Asid 2 x1", "0 ats 9 x1"]);
    expect(unref(ats(9))).toEqual([["0 s1Asid 2 x1"], 0, [0]]);
    expect(purgeInvs(invs)).toBeUndefined();
    expect(unref(asid(2))).toEqual([[], 0, [0]]);
  });

  test("purge takes the trash away, and says again what is in it", () => {
    const invs = invsOf({ ...asid(1), ril: true }, asid(2, 1), ats(3, 0, 1));
    unrefInvs(invs, invsOf(asid(1)), never);
    const purged = purgeInvs(invs)!;
    expect([rows(purged), purged.trash, purged.hasAts, purged.hasRange]).toEqual([["1 s1Asid 2 x1", "1 ats 3 x1"], 0, true, false]);
    expect(rows(invs)[0]).toBe("0 s1Asid 1 x0");
  });

  test("without memory nothing changes", () => {
    const none = (): undefined => undefined;
    const invs = invsOf(asid(1), asid(2), asid(3));
    expect([makeInvs([asid(1)], none), mergeInvs(invs, invsOf(ats(1)), none)]).toEqual([undefined, undefined]);
    unrefInvs(invs, invsOf(asid(2)), never);
    expect(purgeInvs(invs, none)).toBeUndefined();
    expect(rows(invs)).toEqual(["0 s1Asid 1 x1", "0 s1Asid 2 x0", "0 s1Asid 3 x1"]);
  });

  test("what is not there, or not any more, is counted as missing", () => {
    const invs = invsOf(asid(1), asid(3), asid(5));
    expect(unrefInvs(invs, invsOf(asid(0), asid(2), asid(3), asid(9)), never)).toBe(3);
    expect(unrefInvs(invs, invsOf(asid(3)), never)).toBe(1);
    expect(rows(invs)).toEqual(["0 s1Asid 1 x1", "0 s1Asid 3 x0", "0 s1Asid 5 x1"]);
  });

  test("unref waits for invalidations that hold the lock, lock waits for unref", () => {
    const invs = invsOf(asid(1), ats(2));
    invs.lock(never);
    invs.lock(never);
    const steps: string[] = [];
    unrefInvs(invs, invsOf(ats(2)), () => {
      steps.push(`waits with ${invs.count} rows`);
      // Already no user: an invalidation that comes now leaves it out.
      expect(invs.live(1)).toBe(-1);
      invs.unlock();
    });
    expect(steps).toEqual(["waits with 2 rows", "waits with 2 rows"]);
    expect(invs.count).toBe(1);
    // Somebody is cutting the array: whoever comes waits until it is done.
    invs.cell[0] = 1 << 31;
    let waited = 0;
    invs.lock(() => {
      if (++waited === 3) Atomics.store(invs.cell, 0, 0);
    });
    expect([waited, invs.cell[0]]).toEqual([3, 1]);
  });

  test("unref waits for those that look at an earlier array", () => {
    const first = invsOf(asid(1), ats(2));
    const second = mergeInvs(first, invsOf(ats(3)))!;
    first.lock(never);
    let waited = 0;
    unrefInvs(purgeInvs(second) ?? second, invsOf(ats(2)), () => {
      waited++;
      first.unlock();
    });
    expect(waited).toBe(1);
  });

  test("another thread's view of the same memory", () => {
    const shared = makeInvs([asid(1), ats(2)], (words) => new Int32Array(new SharedArrayBuffer(words * 4)))!;
    const other = new Invs(shared.words, shared.cell);
    unrefInvs(other, invsOf(ats(2)), never);
    expect([rows(shared), shared.hasAts]).toEqual([["0 s1Asid 1 x1"], true]);
  });
});

// The same with a map from key to users.
const tag: fc.Arbitrary<InvTag> = fc.oneof(
  fc.record({ smmu: fc.nat(2), type: fc.constantFrom(INV.s1Asid, INV.s2Vmid, INV.s2VmidS1Clear), id: fc.nat(2) }),
  fc.record({ smmu: fc.nat(2), type: fc.constantFrom(INV.ats, INV.atsFull), id: fc.nat(2), ssid: fc.nat(1) }),
);
const step = fc.record({ what: fc.constantFrom("attach", "attach", "detach", "purge"), tags: fc.array(tag, { maxLength: 4 }), at: fc.nat() });

test("any sequence of merge, unref and purge is that of a multiset", () => {
  let shrank = 0;
  let purged = 0;
  fc.assert(
    fc.property(fc.array(step, { minLength: 12, maxLength: 40 }), (steps) => {
      let invs = invsOf();
      const naive = new Map<string, number>();
      const attached: InvTag[][] = [];
      const key = (row: InvTag): string => JSON.stringify([row.smmu, row.type, row.id, row.ssid ?? 0]);
      const keys = (tags: readonly InvTag[]): Set<string> => new Set(tags.map(key));
      for (const { what, tags, at } of steps) {
        const before = rows(invs);
        const old = invs;
        if (what === "attach") {
          attached.push(tags);
          for (const one of keys(tags)) naive.set(one, (naive.get(one) ?? 0) + 1);
          invs = mergeInvs(invs, invsOf(...tags))!;
          // Who reads the old one goes on undisturbed.
          expect(rows(old)).toEqual(before);
          expect(invs.trash).toBe(0);
        } else if (what === "detach" && attached.length > 0) {
          const [gone] = attached.splice(at % attached.length, 1) as [InvTag[]];
          const removed = invsOf(...gone);
          const count = invs.count;
          expect(unrefInvs(invs, removed, never)).toBe(0);
          if (invs.count < count) shrank++;
          for (const one of keys(gone)) naive.set(one, naive.get(one)! - 1);
          for (let row = 0; row < removed.count; row++) {
            const users = naive.get(JSON.stringify([removed.smmu(row), removed.type(row), removed.id(row), removed.ssid(row)]))!;
            expect(removed.users(row)).toBe(users === 0 ? 0 : 1);
          }
        } else if (what === "purge") {
          const clean = purgeInvs(invs);
          expect(clean === undefined).toBe(invs.trash === 0);
          if (clean !== undefined) purged++;
          invs = clean ?? invs;
        }
        const live: [string, number][] = [];
        let trash = 0;
        for (let row = 0; row < invs.count; row++) {
          if (invs.users(row) === 0) trash++;
          else live.push([JSON.stringify([invs.smmu(row), invs.type(row), invs.id(row), invs.ssid(row)]), invs.users(row)]);
        }
        expect(new Map(live)).toEqual(new Map([...naive].filter(([, users]) => users > 0)));
        expect(live.length).toBe(new Set(live.map(([name]) => name)).size);
        expect(invs.trash).toBe(trash);
        // The last row, if any, has users.
        expect(invs.count === 0 || invs.users(invs.count - 1) > 0).toBe(true);
        const order = live.map(([name]) => name);
        expect(order).toEqual(order.toSorted());
        // ATS may be said to be in it though it has gone, never the other way round.
        if (live.some(([name]) => (JSON.parse(name) as number[])[1]! >= INV.ats)) expect(invs.hasAts).toBe(true);
      }
    }),
    { seed: 12345, numRuns: 400 },
  );
  expect(Math.min(shrank, purged)).toBeGreaterThan(50);
});
