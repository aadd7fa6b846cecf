// The driver beside a recorded Linux 6.12: the same register writes in the same order, and the same STEs, CDs and tables for the same
// devices and mappings, addresses of memory aside.
import { readFileSync } from "node:fs";
import { dataPath } from "@smmuv3/data";
import { CD, OFFSET, STE } from "@smmuv3/smmu-v3-defs";
import { PROT } from "@smmuv3/iommu-core";
import { PRESETS } from "@smmuv3/smmu-v3-model";
import { describe, expect, test } from "vitest";
import { Rig } from "./fixture.ts";

interface Access {
  readonly op: "r" | "w";
  readonly off: string;
  readonly val: string;
  readonly phase: "probe" | "run";
}
interface Stream {
  readonly sid: number;
  readonly config: number;
  readonly steAddr: string;
  readonly cdAddr?: string;
  readonly asid?: number;
  readonly vmid?: number;
  readonly tt0?: { readonly ttb: string };
  readonly s2?: { readonly ttb: string };
}
interface Leaf {
  readonly sid: number;
  readonly iova: string;
  readonly size: string;
  readonly pa: string;
  readonly desc: string;
}

const RUNS = [["s1-4k", PRESETS.qemuStage1], ["s2-4k", PRESETS.qemuStage2]] as const;
/** Its kernel allocates DMA memory in blocks of 1 MiB. */
const DRIVER = { maxBlockLog2: 20 };

const text = (run: string, file: string): string => readFileSync(dataPath(`vectors/linux/${run}/${file}`), "utf8");
const lines = <T>(run: string, file: string): T[] => text(run, file).trim().split("\n").map((line) => JSON.parse(line) as T);

/** The dump's memory, in words. */
class Dump {
  readonly #pages = new Map<number, Int32Array>();

  constructor(run: string) {
    const bytes = readFileSync(dataPath(`vectors/linux/${run}/pages.bin`));
    const { pages } = JSON.parse(text(run, "pages.json")) as { pages: { pa: string }[] };
    pages.forEach(({ pa }, i) => {
      this.#pages.set(Number(pa), new Int32Array(bytes.buffer.slice(bytes.byteOffset + i * 4096, bytes.byteOffset + (i + 1) * 4096)));
    });
  }

  words(pa: number, count: number): Int32Array {
    const page = this.#pages.get(pa - (pa % 4096));
    if (page === undefined) throw new RangeError(`0x${pa.toString(16)} is not in the dump`);
    return page.slice((pa % 4096) / 4, (pa % 4096) / 4 + count);
  }
}

/** Words with addresses of memory taken out. */
function without(words: Int32Array, address: { readonly word: number; readonly loMask: number; readonly hiMask: number }): string[] {
  const copy = words.slice();
  copy[address.word] = copy[address.word]! & ~address.loMask;
  copy[address.word + 1] = copy[address.word + 1]! & ~address.hiMask;
  return [...copy].map((word) => (word >>> 0).toString(16));
}

/** What a map of that leaf asked for. */
function protOf(desc: bigint, stage: 1 | 2): number {
  const bit = (at: bigint): boolean => ((desc >> at) & 1n) !== 0n;
  const noexec = bit(54n) ? PROT.NOEXEC : 0;
  if (stage === 2) {
    const attr = Number((desc >> 2n) & 15n);
    return (bit(6n) ? PROT.READ : 0) | (bit(7n) ? PROT.WRITE : 0) | (attr === 15 ? PROT.CACHE : attr === 1 ? PROT.MMIO : 0) | noexec;
  }
  const index = Number((desc >> 2n) & 7n);
  return PROT.READ | (bit(7n) ? 0 : PROT.WRITE) | (bit(6n) ? 0 : PROT.PRIV) | (index === 1 ? PROT.CACHE : index === 2 ? PROT.MMIO : 0) | noexec;
}

describe.each(RUNS)("%s", (run, id) => {
  const rig = (sids: readonly number[]): Rig => new Rig({ id, driver: DRIVER, clients: sids.map((sid) => [sid]) });

  test("R3 the same register writes in the same order", () => {
    const recorded = lines<Access>(run, "mmio.jsonl").filter(({ op, phase }) => op === "w" && phase === "probe");
    const base = new Set<number>([OFFSET.STRTAB_BASE, OFFSET.CMDQ_BASE, OFFSET.EVENTQ_BASE]);
    const masked = (offset: number, value: bigint): string => {
      // The allocation hint and the size stay.
      const shown = base.has(offset) ? value & 0xc000_0000_0000_001fn : value;
      return `${offset.toString(16)}=${shown.toString(16)}`;
    };
    // Page 0 has the event queue's indices as well on the machine that recorded.
    const page1 = new Map([[0xa8, OFFSET.EVENTQ_PROD], [0xac, OFFSET.EVENTQ_CONS]]);
    const expected = recorded.map(({ off, val }) => masked(page1.get(Number(off)) ?? Number(off), BigInt(val)));
    const actual = rig([]).writes.map(({ offset, value }) => masked(offset, value));
    expect(actual).toEqual(expected);
    expect(expected).toHaveLength(20);
  });

  test("the same commands for the first attach of every device", () => {
    const recorded = lines<{ readonly name: string; readonly sid?: number }>(run, "commands.jsonl");
    const sids = [72, 16, 24, 8];
    const made = rig(sids);
    sids.forEach((sid, i) => {
      // The kernel that recorded flushed the new ID before; an ID that nobody uses is clean, so newer ones do not, and neither is it done here.
      const theirs: string[] = [];
      for (const { name } of recorded.filter((command) => command.sid === sid)) {
        theirs.push(name);
        if (name === "PREFETCH_CONFIG") break;
      }
      const client = made.clients[i]!;
      made.attach(client, "blocked");
      const domain = made.domain(client);
      const ours = made.golden(() => made.attach(client, domain)).map((name) => name.replace(/^C\((.*)\)$/u, "$1"));
      expect(ours).toEqual(theirs);
    });
  });

  test("the same STEs, CDs and tables", () => {
    const dump = new Dump(run);
    const streams = (JSON.parse(text(run, "streams.json")) as Stream[]).filter(({ config }) => config === 5 || config === 6);
    const leaves = lines<Leaf>(run, "leaves.jsonl");
    const made = rig(streams.map(({ sid }) => sid));
    const ids = streams.map(({ asid, vmid }) => asid ?? vmid ?? 0);
    const domains = Array.from({ length: Math.max(...ids) }, () => made.paging());
    const done = new Set<number>();
    streams.forEach((stream, i) => {
      const client = made.clients[i]!;
      const domain = domains[ids[i]! - 1]!;
      expect(domain.id).toBe(ids[i]);
      const own = leaves.filter(({ sid }) => sid === stream.sid);
      if (!done.has(ids[i]!)) {
        for (const { iova, pa, size, desc } of own) {
          const prot = protOf(BigInt(desc), domain.stage);
          expect(made.iommu.map(domain, Number(iova), Number(pa), Number(size), prot)).toBe(0);
        }
      }
      done.add(ids[i]!);
      expect(made.attach(client, domain)).toBe(0);

      const pointer = domain.stage === 1 ? STE.S1ContextPtr : STE.S2TTB;
      expect(without(made.ste(stream.sid), pointer)).toEqual(without(dump.words(Number(stream.steAddr), 16), pointer));
      if (domain.stage === 1) {
        const theirs = dump.words(Number(stream.cdAddr), 16);
        // The kernel extends the sign of its MAIR: attributes 4 to 7, which no descriptor uses, are ones there and zero here.
        expect(theirs[CD.MAIR1.word]).toBe(-1);
        theirs[CD.MAIR1.word] = 0;
        expect(without(made.cd(client), CD.TTB0)).toEqual(without(theirs, CD.TTB0));
      }

      // The way to every leaf: descriptors of tables without their addresses, and the leaf as it is.
      const root = Number(stream.tt0?.ttb ?? stream.s2!.ttb);
      let compared = 0;
      for (const { iova } of own) {
        let table = root;
        domain.pgtable.walk(Number(iova), (level, lo, hi) => {
          const index = Math.floor(Number(iova) / 2 ** (39 - 9 * level)) % 512;
          const theirs = dump.words(table + index * 8, 2);
          const isTable = level < 3 && (lo & 3) === 3;
          const keep = isTable ? 0xfff : -1;
          expect([level, lo & keep, isTable ? hi & ~0xffff : hi]).toEqual([
            level, theirs[0]! & keep, isTable ? theirs[1]! & ~0xffff : theirs[1]!,
          ]);
          table = (theirs[1]! & 0xffff) * 2 ** 32 + ((theirs[0]! & ~0xfff) >>> 0);
          compared++;
        });
      }
      expect(compared).toBeGreaterThanOrEqual(own.length * 2);
    });
    expect(streams.length).toBeGreaterThan(8);
  });
});
