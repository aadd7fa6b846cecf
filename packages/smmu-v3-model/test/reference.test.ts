import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { ACCESS, Memory, TRANSLATION } from "@smmuv3/platform";
import { CD, EVENT_NAMES, OFFSET, setAddress, setField, STE, STE_CONFIG } from "@smmuv3/smmu-v3-defs";
import type { Field } from "@smmuv3/smmu-v3-defs";
import { SmmuV3 } from "../src/index.ts";
import type { IdRegisters, ProfileName } from "../src/index.ts";
import { ReferenceSmmu } from "./reference-model.ts";
import type { Access } from "./reference-model.ts";

/** Both stages, all granules, 2-level CD tables, substreams, dirty state updates, both endiannesses, OAS of 48 bits. */
const ID: IdRegisters = {
  IDR0: 0x3 | (2 << 2) | (2 << 6) | (1 << 12) | (1 << 18) | (1 << 19) | (1 << 24) | (1 << 27),
  IDR1: 8 | (10 << 6) | (8 << 16) | (8 << 21) | (1 << 26),
  IDR3: (1 << 2) | (1 << 4),
  IDR5: 5 | (7 << 4),
  AIDR: 1,
};
const BASE = 0x4000_0000;
const SIZE = 0x40_0000;
const STRTAB = BASE;
const EVENTQ = BASE + 0x1000;
const CDS = BASE + 0x2000;
const L1CDS = BASE + 0x1_0000;
const LEAF_CDS = BASE + 0x2_0000;
const TABLES = BASE + 0x10_0000;
const SIDS_LOG2 = 2;
const GRANULE_SHIFT = [12, 16, 14];

/** Random choices out of what fast-check made, and after that the same again. */
class Dice {
  #at = 0;
  readonly #values: readonly number[];

  constructor(values: readonly number[]) {
    this.#values = values;
  }

  below(n: number): number {
    const at = this.#at++;
    const mixed = this.#values[at % this.#values.length]! ^ Math.imul(Math.floor(at / this.#values.length), 0x9e37_79b1);
    return (mixed >>> 0) % n;
  }

  chance(percent: number): boolean {
    return this.below(100) < percent;
  }

  one<T>(values: readonly T[]): T {
    return values[this.below(values.length)]!;
  }
}

interface Plan {
  readonly accesses: readonly Access[];
}

class Builder {
  readonly #memory: Memory;
  readonly #dice: Dice;
  #next = TABLES;

  constructor(memory: Memory, dice: Dice) {
    this.#memory = memory;
    this.#dice = dice;
  }

  #allocate(bytes: number): number {
    const pa = Math.ceil(this.#next / bytes) * bytes;
    this.#next = pa + bytes;
    return pa;
  }

  #fields(table: object, pa: number, values: Readonly<Record<string, number>>): void {
    const at = this.#memory.index(pa, true);
    for (const [name, value] of Object.entries(values)) {
      const target = (table as Record<string, unknown>)[name] as Field;
      if ("loMask" in target) setAddress(this.#memory.words, at, target as never, value);
      else setField(this.#memory.words, at, target, value);
    }
  }

  #store(pa: number, value: bigint, bigEndian: boolean): void {
    const at = this.#memory.index(pa, true);
    const bytes = new DataView(new ArrayBuffer(8));
    bytes.setBigUint64(0, value, !bigEndian);
    this.#memory.words[at] = bytes.getInt32(0, true);
    this.#memory.words[at + 1] = bytes.getInt32(4, true);
  }

  #load(pa: number, bigEndian: boolean): bigint {
    const at = this.#memory.index(pa, false);
    const bytes = new DataView(new ArrayBuffer(8));
    bytes.setInt32(0, this.#memory.words[at]!, true);
    bytes.setInt32(4, this.#memory.words[at + 1]!, true);
    return bytes.getBigUint64(0, !bigEndian);
  }

  /** Maps `input` at `level` in tables of a granule; what table descriptors have besides their address is `upper`. */
  map(root: number, inputBits: number, granule: number, bigEndian: boolean, input: bigint, level: number, leaf: bigint, upper: () => bigint): void {
    const page = GRANULE_SHIFT[granule]!;
    const stride = page - 3;
    let table = root;
    const start = 4 - Math.ceil((inputBits - page) / stride);
    for (let at = start; ; at++) {
      const shift = page + (3 - at) * stride;
      const bits = at === start ? inputBits - shift : stride;
      const slot = table + Number((input >> BigInt(shift)) & ((1n << BigInt(bits)) - 1n)) * 8;
      if (at === level) {
        this.#store(slot, leaf | (level === 3 ? 3n : 1n), bigEndian);
        return;
      }
      const known = this.#load(slot, bigEndian);
      const address = known & 0xffff_ffff_f000n;
      if ((known & 3n) === 3n && address >= BigInt(BASE) && address < BigInt(BASE + SIZE)) {
        table = Number(address);
        continue;
      }
      table = this.#allocate(1 << page);
      this.#store(slot, BigInt(table) | 3n | upper(), bigEndian);
    }
  }

  root(inputBits: number, granule: number): number {
    const page = GRANULE_SHIFT[granule]!;
    const stride = page - 3;
    const levels = Math.ceil((inputBits - page) / stride);
    return this.#allocate(8 << (inputBits - page - (levels - 1) * stride));
  }

  stage2(): Record<string, number> {
    const dice = this.#dice;
    const tg = dice.below(3);
    const inputBits = dice.one([40, 42]);
    const bigEndian = dice.chance(15);
    const page = GRANULE_SHIFT[tg]!;
    const stride = page - 3;
    const levels = Math.ceil((inputBits - page) / stride);
    const start = 4 - levels;
    const root = this.root(inputBits, tg);
    const attributes = (): bigint =>
      (dice.chance(88) ? 0xc0n : dice.one([0n, 0x40n, 0x80n, 0x40n])) |
      (dice.chance(85) ? 0x400n : 0n) |
      (dice.chance(92) ? 0x3cn : 0x4n) |
      (dice.chance(20) ? 1n << 51n : 0n) |
      (dice.chance(15) ? BigInt(dice.below(4)) << 53n : 0n);
    // All of RAM at its own address, in blocks and where those are large in some pages of their own.
    const block = 2;
    const span = 1 << (page + stride);
    for (let pa = Math.floor(BASE / span) * span; pa < BASE + SIZE; pa += span) {
      this.map(root, inputBits, tg, bigEndian, BigInt(pa), block, BigInt(pa) | (dice.chance(80) ? 0x7fcn : attributes()), () => 0n);
    }
    const far = 0x80_0000_0000n;
    for (let i = 0n; i < 4n; i++) {
      const level = dice.chance(70) ? 3 : 2;
      const size = 1n << BigInt(page + (3 - level) * stride);
      const ipa = (far + i * 0x4000_0000n) / size * size;
      this.map(root, inputBits, tg, bigEndian, ipa, level, (ipa + 0x10_0000_0000n) | attributes(), () => 0n);
    }
    return {
      S2T0SZ: dice.chance(2) ? 15 : 64 - inputBits,
      S2SL0: tg === 0 ? 2 - start : 3 - start,
      S2TG: tg, S2PS: dice.one([5, 5, 5, 2, 6]), S2AA64: 1, S2TTB: root,
      S2R: dice.chance(85) ? 1 : 0, S2ENDI: bigEndian ? 1 : 0, S2AFFD: dice.chance(10) ? 1 : 0,
      S2HA: dice.chance(40) ? 1 : 0, S2HD: dice.chance(30) ? 1 : 0, S2PTW: dice.chance(15) ? 1 : 0, S2VMID: 3,
    };
  }

  /** Writes a CD with its tables. Returns addresses that lead somewhere. */
  cd(pa: number, asid: number): bigint[] {
    const dice = this.#dice;
    const inputBits = dice.one([36, 39, 42, 48]);
    const tg = dice.below(3);
    const bigEndian = dice.chance(15);
    const root = this.root(inputBits, tg);
    const high = dice.chance(30);
    const page = GRANULE_SHIFT[tg]!;
    const stride = page - 3;
    const addresses: bigint[] = [];
    // Hierarchical permissions, and now and then an address that is not RAM.
    const upper = (): bigint => (dice.chance(20) ? BigInt(dice.below(16)) << 59n : 0n) | (dice.chance(2) ? 1n << 45n : 0n);
    for (let i = 0; i < 5; i++) {
      const level = dice.chance(75) ? 3 : 2;
      const size = 1n << BigInt(page + (3 - level) * stride);
      const va = (BigInt(dice.below(4)) * 0x4000_0000n + BigInt(dice.below(3)) * 0x20_0000n) / size * size;
      const target = dice.chance(90) ? 0x80_0000_0000n + BigInt(dice.below(4)) * 0x4000_0000n : BigInt(dice.below(2 ** 31)) << 16n;
      const leaf =
        target / size * size |
        BigInt(dice.below(4)) << 6n |
        (dice.chance(80) ? 0x400n : 0n) |
        0x800n |
        (dice.chance(30) ? 1n << 51n : 0n) |
        (dice.chance(25) ? BigInt(dice.below(4)) << 53n : 0n);
      const before = this.#next;
      if (4 - Math.ceil((inputBits - page) / stride) <= level && before < BASE + SIZE - 0x10_0000) {
        this.map(root, inputBits, tg, bigEndian, va, level, dice.chance(95) ? leaf : 0n, upper);
      }
      addresses.push((high ? (1n << 64n) - (1n << BigInt(inputBits)) + va : va) + BigInt(dice.below(0x1000)));
    }
    const half = high
      ? { EPD0: 1, EPD1: 0, T1SZ: 64 - inputBits, TG1: [2, 3, 1][tg]!, TTB1: root, TBI1: dice.chance(20) ? 1 : 0, HAD1: dice.chance(20) ? 1 : 0 }
      : { EPD1: 1, T0SZ: dice.chance(2) ? 15 : 64 - inputBits, TG0: tg, TTB0: root, TBI0: dice.chance(20) ? 1 : 0, HAD0: dice.chance(20) ? 1 : 0 };
    this.#fields(CD, pa, {
      V: dice.chance(97) ? 1 : 0, AA64: 1, A: dice.chance(80) ? 1 : 0, R: dice.chance(85) ? 1 : 0, S: dice.chance(2) ? 1 : 0,
      IPS: dice.one([5, 5, 5, 2, 6]), ASID: asid, ENDI: bigEndian ? 1 : 0, AFFD: dice.chance(10) ? 1 : 0, WXN: dice.chance(20) ? 1 : 0,
      PAN: dice.chance(20) ? 1 : 0, HA: dice.chance(40) ? 1 : 0, HD: dice.chance(30) ? 1 : 0, ...half,
    });
    return addresses;
  }

  plan(): Plan {
    const dice = this.#dice;
    const config = dice.one([STE_CONFIG.s1, STE_CONFIG.s1, STE_CONFIG.s2, STE_CONFIG.nested, STE_CONFIG.nested, STE_CONFIG.nested, STE_CONFIG.bypass, STE_CONFIG.abort]);
    const ste: Record<string, number> = {
      V: dice.chance(98) ? 1 : 0, Config: config, PRIVCFG: dice.one([0, 0, 1, 2, 3]), INSTCFG: dice.one([0, 0, 1, 2, 3]),
    };
    if ((config & 2) !== 0) Object.assign(ste, this.stage2());
    let addresses: bigint[] = [0x80_0000_0123n, 0x80_4000_0000n, 0x4000_0000n, 1n << 41n];
    let ssids = [-1];
    if ((config & 1) !== 0) {
      const format = dice.below(4);
      const cdMax = dice.one([0, 3, 8]);
      Object.assign(ste, { S1CDMax: dice.chance(2) ? 11 : cdMax, S1Fmt: format, S1DSS: dice.below(4) });
      const twoLevel = cdMax > 0 && (format === 1 || format === 2);
      ste["S1ContextPtr"] = dice.chance(3) ? 2 ** 40 : twoLevel ? L1CDS : CDS;
      const used = cdMax === 0 ? [0] : [0, dice.below(8)];
      addresses = [];
      for (const index of used) addresses.push(...this.cd((twoLevel ? LEAF_CDS : CDS) + index * 64, 8 + index));
      if (twoLevel) this.#store(L1CDS, BigInt(LEAF_CDS) | (dice.chance(94) ? 1n : 0n) | (dice.chance(3) ? 1n << 50n : 0n), false);
      ssids = cdMax === 0 ? [-1, -1, -1, 1] : [-1, ...used, ...used, 1 << cdMax];
    }
    this.#fields(STE, STRTAB + 64, ste);
    const accesses = Array.from({ length: 8 }, (): Access => ({
      sid: dice.chance(97) ? 1 : dice.one([2, 77]),
      ssid: dice.one(ssids),
      address: BigInt.asUintN(64, dice.one(addresses) ^ (dice.chance(12) ? 1n << BigInt(dice.below(64)) : 0n)),
      write: dice.chance(45),
      privileged: dice.chance(40),
      instruction: dice.chance(20),
    }));
    return { accesses };
  }
}

function start(memory: Memory, profile: ProfileName): SmmuV3 {
  const smmu = new SmmuV3({ memory, id: ID, profile });
  smmu.registers.write64(OFFSET.STRTAB_BASE, STRTAB, 0);
  smmu.registers.write32(OFFSET.STRTAB_BASE_CFG, SIDS_LOG2);
  smmu.registers.write64(OFFSET.EVENTQ_BASE, EVENTQ | 3, 0);
  smmu.registers.write32(OFFSET.CR2, 2);
  smmu.registers.write32(OFFSET.CR0, 5);
  return smmu;
}

function ask(smmu: SmmuV3, access: Access): object {
  const flags =
    (access.write ? ACCESS.write : 0) |
    (access.privileged ? ACCESS.privileged : 0) |
    (access.instruction ? ACCESS.instruction : 0) |
    (access.ssid < 0 ? 0 : ACCESS.ssidValid);
  const lo = Number(BigInt.asIntN(32, access.address));
  const hi = Number(BigInt.asIntN(32, access.address >> 32n));
  const result = smmu.translate(access.sid, Math.max(access.ssid, 0), lo, hi, flags);
  const events = smmu.decodeEvents().map(({ words }) => Array.from(words, (word) => word >>> 0));
  smmu.registers.write32(OFFSET.EVENTQ_CONS, smmu.registers.read32(OFFSET.EVENTQ_PROD));
  return {
    result: result === TRANSLATION.ok ? "ok" : result === TRANSLATION.raz ? "raz" : "abort",
    ...(result === TRANSLATION.ok ? { pa: (BigInt(smmu.paHi >>> 0) << 32n) | BigInt(smmu.paLo >>> 0) } : {}),
    ...(events.length > 0 ? { event: events[0] } : {}),
  };
}

const entropy = fc.array(fc.integer({ min: 0, max: 2 ** 31 - 1 }), { minLength: 97, maxLength: 97 });

describe.each<ProfileName>(["eager", "lazy"])("3.3.2: agrees with a slow model in outcome, record and memory | profile %s", (profile) => {
  const own = Memory.allocate({ base: BASE, size: SIZE });
  const theirs = Memory.allocate({ base: BASE, size: SIZE });
  const seen = new Map<string, number>();

  test.each([11, 22, 33])("random configurations | seed %i", (seed) => {
    fc.assert(
      fc.property(entropy, (values) => {
        own.words.fill(0);
        const { accesses } = new Builder(own, new Dice(values)).plan();
        theirs.words.set(own.words);
        const smmu = start(own, profile);
        const reference = new ReferenceSmmu(theirs, { strtab: BigInt(STRTAB), strtabLog2: SIDS_LOG2, ssidSize: 10, addressBits: 48 });
        const tables = Buffer.from(theirs.words.buffer, TABLES - BASE);
        const before = Buffer.from(tables);
        for (const access of accesses) {
          const answer = reference.translate(access);
          expect(ask(smmu, access)).toEqual(answer);
          const name = answer.event === undefined ? answer.result : EVENT_NAMES.get(answer.event[0]! & 0xff)!;
          seen.set(name, (seen.get(name) ?? 0) + 1);
        }
        if (!before.equals(tables)) seen.set("update", (seen.get("update") ?? 0) + 1);
        own.fill(EVENTQ, 0x1000, 0);
        expect(Buffer.compare(Buffer.from(own.words.buffer), Buffer.from(theirs.words.buffer))).toBe(0);
      }),
      { seed, numRuns: 120 },
    );
  });

  test("the cases cover what can happen", () => {
    expect(Array.from(seen.keys())).toEqual(
      expect.arrayContaining([
        "ok", "abort", "raz", "update", "C_BAD_STREAMID", "C_BAD_STE", "C_BAD_SUBSTREAMID", "F_STREAM_DISABLED", "F_CD_FETCH", "C_BAD_CD",
        "F_WALK_EABT", "F_TRANSLATION", "F_ADDR_SIZE", "F_ACCESS", "F_PERMISSION",
      ]),
    );
  });
});

