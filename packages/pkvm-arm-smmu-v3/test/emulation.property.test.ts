// What a hostile host may do to the emulated SMMU: registers, tables and commands, in any order.
import { PAGE_SIZE } from "@smmuv3/platform";
import {
  CMD,
  COMMANDS,
  getAddress,
  getField,
  OFFSET,
  REG,
  REGISTERS,
  setField,
  STE,
  STE_CONFIG,
} from "@smmuv3/smmu-v3-defs";
import type { CommandName, RegisterName } from "@smmuv3/smmu-v3-defs";
import fc from "fast-check";
import { expect, test } from "vitest";
import { OWNER } from "@smmuv3/pkvm-hyp";
import { CMDQ, HOST_PAGE, isolated, POOL_BASE, RAM_BASE, RAM_SIZE, rootsOf, STRTAB } from "./el2.ts";
import { cmd, CR0, Host, HOST_CMDQ, HOST_EVTQ, HOST_L2, HOST_STRTAB } from "./emulated-host.ts";

/** Streams that are looked at after every step; all of both tables are at the end. */
const SIDS = [0, 1, 2, 37, 255, 256, 300, 511];
const TWO_TABLES = Array.from({ length: 512 }, (_, sid) => sid);
/** The host's, EL2's and nobody's. */
const PLACES = [HOST_CMDQ, HOST_STRTAB, HOST_L2, HOST_EVTQ, HOST_L2 + 0x1000, POOL_BASE, CMDQ, STRTAB, 0, 0xffff_f000];
const KEPT = ["STRTAB_BASE", "STRTAB_BASE_CFG", "CMDQ_BASE", "CR1", "CR2", "GBPA"] as const;
const BASES = ["STRTAB_BASE", "CMDQ_BASE", "EVENTQ_BASE"] as const;
/** All that the hardware may be told, by the host or by EL2 on its behalf. */
const FORWARDED: readonly CommandName[] = [
  "PREFETCH_CONFIG", "PREFETCH_ADDR", "CFGI_STE", "CFGI_STE_RANGE", "CFGI_CD", "CFGI_CD_ALL", "TLBI_NH_ALL", "TLBI_NH_ASID",
  "TLBI_NH_VA", "TLBI_NH_VAA", "TLBI_NSNH_ALL", "RESUME", "STALL_TERM",
];
const OPCODES = FORWARDED.map((name) => COMMANDS[name].opcode);

interface Step {
  readonly toString: () => string;
  readonly run: (host: Host) => void;
}

const word = fc.integer({ min: -(2 ** 31), max: 2 ** 31 - 1 });
const sid = fc.oneof(fc.constantFrom(...SIDS), fc.nat(0x1_0000));
const place = fc.constantFrom(...PLACES);
const value = fc.oneof(word, fc.tuple(place, fc.nat(15)).map(([pa, low]) => (pa | low) | 0));
const config = fc.constantFrom(...Object.values(STE_CONFIG));
const opcode = fc.oneof(fc.constantFrom(...Object.values(COMMANDS).map((one) => one.opcode)), fc.nat(255));

/** STEs of the host's: what a driver writes, with anything at all in the other fields. */
const ste = fc.record({ sid: fc.constantFrom(...SIDS), words: fc.int32Array({ minLength: 16, maxLength: 16 }), config });
const command = fc.oneof(
  fc.record({ SID: sid, Leaf: fc.nat(1) }).map((fields) => cmd("CFGI_STE", fields)),
  fc.record({ SID: sid, Range: fc.nat(31) }).map((fields) => cmd("CFGI_STE_RANGE", fields)),
  fc.tuple(opcode, word, word, word, word).map(([op, w0, w1, w2, w3]) => [(w0 & ~0xff) | op, w1, w2, w3]),
);

const STEPS: fc.Arbitrary<Step>[] = [
  fc.record({ pa: fc.constantFrom(HOST_STRTAB, HOST_L2, HOST_CMDQ), at: fc.nat(1023), value }).map(({ pa, at, value: to }) => ({
    toString: () => `word ${at} at ${pa.toString(16)} = ${to}`,
    run: ({ cpu }: Host) => { cpu.memory.store32(pa + at * 4, to); },
  })),
  fc.record({ of: fc.constantFrom(0, 256), l2: place, span: fc.oneof(fc.constant(9), fc.nat(12)) }).map(({ of, l2, span }) => ({
    toString: () => `level 2 of ${of} at ${l2.toString(16)} span ${span}`,
    run: (host: Host) => { host.l1(of, l2, span); },
  })),
  ste.map(({ sid: of, words, config: to }) => ({
    toString: () => `STE ${of} = ${[...words].join(",")} with Config ${to}`,
    run: ({ cpu }: Host) => {
      const image = words.slice();
      setField(image, 0, STE.V, 1);
      setField(image, 0, STE.Config, to);
      cpu.memory.write(HOST_L2 + (of & 255) * 64, image);
    },
  })),
  fc.array(command, { minLength: 1, maxLength: 6 }).map((commands) => ({
    toString: () => `commands ${commands.map((words) => words.join(",")).join(" ")}`,
    run: (host: Host) => {
      host.queue(...commands);
      host.write("GERRORN", host.read("GERROR"));
    },
  })),
  fc.record({ name: fc.constantFrom(...(Object.keys(REGISTERS) as RegisterName[])), size: fc.constantFrom(4, 8), lo: value, hi: fc.nat(3) })
    .map(({ name, size, lo, hi }) => ({
      toString: () => `${name}/${size} = ${hi}:${lo}`,
      run: ({ cpu }: Host) => {
        expect(cpu.access(OFFSET[name], size, true, lo, hi).action).toBe(1);
        expect(cpu.access(OFFSET[name], size, false).action).toBe(1);
      },
    })),
  fc.record({ cr0: fc.oneof(fc.constant(13), fc.nat(15)), base: fc.option(fc.constantFrom(...BASES), { freq: 2 }), value })
    .map(({ cr0, base, value: to }) => ({
      toString: () => `reset${base === null ? "" : ` with ${base} ${to}`}, then CR0 = ${cr0}`,
      run: (host: Host) => {
        host.write("CR0", 0);
        host.enable(0);
        if (base !== null) host.write64(base, to, 1 << 30);
        host.write("CR0", cr0);
      },
    })),
];
const step = fc.oneof(...STEPS.map((arbitrary, at) => ({ arbitrary, weight: at === 2 || at === 3 ? 3 : 1 })));

/** EL2's part of an STE that translates. */
function roots(): number[] {
  const host = new Host();
  host.l1(0, HOST_L2);
  host.ste(3, { V: 1, Config: STE_CONFIG.bypass });
  host.enable();
  return rootsOf(host.hardware(3)!);
}

const configOf = (ste: Int32Array | undefined): number => (ste === undefined ? STE_CONFIG.abort : getField(ste, 0, STE.Config));

test("every STE that the hardware sees is EL2's, whatever the host does, and EL2 goes on", () => {
  const own = roots();
  let nested = 0;
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60, size: "max" }), (steps) => {
      const host = new Host();
      const { smmu } = host.cpu;
      const { states } = host.running.core;
      const check = (sids: readonly number[]): void => {
        const loose = sids.filter((one) => {
          const image = host.hardware(one);
          return image !== undefined && !isolated(image, own);
        });
        if (loose.length > 0) throw new Error(`streams ${loose.join(", ")} are not isolated: ${String(host.hardware(loose[0]!))}`);
      };
      let translated = false;
      const kept = KEPT.map((name) => [smmu.get(name), smmu.get(name, 1)]);
      // Also at each moment at which EL2 lets the hardware look.
      smmu.onCommand = () => { check(SIDS); };
      host.l1(0, HOST_L2);
      host.enable();
      for (const { run } of steps) {
        run(host);
        check(SIDS);
        translated ||= SIDS.some((one) => configOf(host.hardware(one)) === STE_CONFIG.nested);
        expect(smmu.get("CR0") & 9).toBe(9);
        if ((smmu.get("CR0") & CR0.EVENTQEN) !== 0) {
          const queue = getAddress(Int32Array.of(smmu.get("EVENTQ_BASE"), smmu.get("EVENTQ_BASE", 1)), 0, REG.EVENTQ_BASE.ADDR);
          expect(states.owner(host.cpu.memory.pageIndex(queue))).toBe(OWNER.host);
        }
      }
      check(TWO_TABLES);
      expect(KEPT.map((name) => [smmu.get(name), smmu.get(name, 1)])).toEqual(kept);
      for (const words of smmu.commands) {
        expect(OPCODES).toContain(words[0]! & 0xff);
        expect(getField(Int32Array.from(words), 0, CMD.SSec)).toBe(0);
      }
      // Nothing stays pinned for an SMMU that is off, and donations still work.
      host.write("CR0", 0);
      for (let page = 0; page < RAM_SIZE / PAGE_SIZE; page++) {
        if (states.hostOwned(page) && states.pins(page) !== 0) throw new Error(`page ${page} of ${RAM_BASE} is pinned`);
      }
      expect(host.cpu.call("__pkvm_host_donate_hyp", HOST_PAGE / PAGE_SIZE)).toBe(0);
      if (translated) nested++;
    }),
    { seed: 12345, numRuns: 100 },
  );
  // The host got somewhere: streams with its own stage 1.
  expect(nested).toBeGreaterThan(10);
});
