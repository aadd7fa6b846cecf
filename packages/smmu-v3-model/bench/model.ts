// The rows hw.* of the native baseline with the same inputs: three address spaces, 65536 streams. One line per sample:
// `js<TAB>bench<TAB>ns`. Usage: node bench/model.ts [samples] [name filter]
import { performance } from "node:perf_hooks";
import { ACCESS, LEVEL, Memory, TRANSLATION } from "@smmuv3/platform";
import { CD, CMD, COMMANDS, EVENTS, OFFSET, place, setAddress, setField, STE, STE_CONFIG } from "@smmuv3/smmu-v3-defs";
import { PERM, Stage1Walker, Stage2Walker, STAGE1, WALK } from "@smmuv3/vmsa-walk";
import { PRESETS, PROFILES, SmmuV3 } from "../src/index.ts";
import { Tlb } from "../src/tlb.ts";
import { warmFormats } from "./warm.ts";

const samples = Number(process.argv[2] ?? 5);
const filter = process.argv[3] ?? "";

const GIB = 2 ** 30;
const PA_BASE = 2 ** 32;
const S2_BASE = 2 * PA_BASE;
const S1_ATTRS = 0xf40;
const S2_ATTRS = 0x7fc;
const STREAMS = 65536;
const N = 1 << 20;
const QUEUE_LOG2 = 12;

const memory = Memory.allocate({ base: 0, size: 420 * 2 ** 20 });
const words = memory.words;

/** xorshift32 with the seed of the native bench. */
function generator(): () => number {
  let state = 12345;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return state >>> 0;
  };
}
const rnd = generator();

/** Address 0 stays unused. */
const arena = { next: 4096 };
function alloc(bytes: number, align: number): number {
  const pa = Math.ceil(arena.next / align) * align;
  arena.next = pa + bytes;
  if (arena.next > memory.size) throw new Error("guest memory is full");
  return pa;
}

function mapPage(root: number, address: number, pa: number, attrs: number): void {
  let table = root;
  for (let shift = 39; shift > 12; shift -= 9) {
    const at = (table + (Math.floor(address / 2 ** shift) % 512) * 8) / 4;
    if (words[at] === 0) words[at] = alloc(4096, 4096) | 3;
    table = words[at]! & ~0xfff;
  }
  const at = (table + (Math.floor(address / 4096) % 512) * 8) / 4;
  words[at] = pa | attrs | 3;
  words[at + 1] = pa / 2 ** 32;
}

const root1 = alloc(4096, 4096);
const root64 = alloc(4096, 4096);
const rootS2 = alloc(4096, 4096);
for (let a = 0; a < GIB; a += 4096) mapPage(root1, a, PA_BASE + a, S1_ATTRS);
for (let a = 0; a < 64 * GIB; a += 4096) mapPage(root64, a, PA_BASE + a, S1_ATTRS);
for (let a = 0; a < GIB / 2; a += 4096) mapPage(rootS2, a, a, S2_ATTRS);
for (let a = 0; a < GIB; a += 4096) mapPage(rootS2, PA_BASE + a, S2_BASE + a, S2_ATTRS);

const streamTable = alloc((STREAMS >> 8) * 8, 4096);
const level2 = alloc(STREAMS * 64, 65536);
const cds = alloc(STREAMS * 64, 65536);
for (let i = 0; i < STREAMS >> 8; i++) words[streamTable / 4 + i * 2] = (level2 + i * 256 * 64) | 9;
for (let sid = 0; sid < STREAMS; sid++) {
  const ste = (level2 + sid * 64) / 4;
  const cd = (cds + sid * 64) / 4;
  const nested = sid === 2;
  setField(words, ste, STE.V, 1);
  setField(words, ste, STE.Config, nested ? STE_CONFIG.nested : STE_CONFIG.s1);
  setAddress(words, ste, STE.S1ContextPtr, cds + sid * 64);
  if (nested) {
    setField(words, ste, STE.S2VMID, 1);
    setField(words, ste, STE.S2T0SZ, 64 - 44);
    setField(words, ste, STE.S2SL0, 2);
    setField(words, ste, STE.S2PS, 4);
    setField(words, ste, STE.S2AA64, 1);
    setField(words, ste, STE.S2R, 1);
    setAddress(words, ste, STE.S2TTB, rootS2);
  }
  for (const [field, value] of [
    [CD.T0SZ, 16], [CD.EPD1, 1], [CD.V, 1], [CD.IPS, 4], [CD.AA64, 1], [CD.R, 1], [CD.A, 1], [CD.ASID, sid],
  ] as const) setField(words, cd, field, value);
  setAddress(words, cd, CD.TTB0, sid === 1 ? root64 : root1);
}
const queue = alloc(16 << QUEUE_LOG2, 16 << QUEUE_LOG2);
const eventQueue = alloc(32 * 128, 4096);

const smmu = new SmmuV3({ memory, id: PRESETS.qemuNested, profile: "finite", progress: "manual" });
const regs = smmu.registers;
regs.write64(OFFSET.STRTAB_BASE, streamTable, 0);
regs.write32(OFFSET.STRTAB_BASE_CFG, 16 | (8 << 6) | (1 << 16));
regs.write64(OFFSET.CMDQ_BASE, queue | QUEUE_LOG2, 0);
regs.write64(OFFSET.EVENTQ_BASE, eventQueue | 7, 0);
regs.write32(OFFSET.CR0, 0xd);
smmu.step(0);

// Addresses as int32 pairs, drawn in the order of the native bench.
function pairs(): { lo: Int32Array; hi: Int32Array } {
  return { lo: new Int32Array(N), hi: new Int32Array(N) };
}
const a1 = pairs();
const a64 = pairs();
const hot = pairs();
const sids = new Int32Array(N);
for (let i = 0; i < N; i++) {
  const set = (to: { lo: Int32Array; hi: Int32Array }, pages: number): void => {
    const page = rnd() % pages;
    to.lo[i] = (page << 12) | (rnd() & 0xfff);
    to.hi[i] = page >>> 20;
  };
  set(a1, 262144);
  set(a64, 64 * 262144);
  sids[i] = rnd() % STREAMS;
  set(hot, 1024);
}

/** Keeps results alive. */
const sink = { value: 0 };
function report(name: string, ns: number): void {
  process.stdout.write(`js\t${name}\t${ns.toFixed(3)}\n`);
}

/** Operations that one call of a body does: a loop of a million in one call would be measured in on-stack-replaced code. */
const SLICE = 1024;

/** Runs `body` over all operations, some times for the compiler and then once per sample; ns per operation. */
function measure(name: string, body: (from: number, to: number) => number): void {
  if (!name.includes(filter)) return;
  for (let round = -3; round < samples; round++) {
    let sum = 0;
    const start = performance.now();
    for (let from = 0; from < N; from += SLICE) sum = (sum + body(from, from + SLICE)) | 0;
    const ns = ((performance.now() - start) * 1e6) / N;
    sink.value = (sink.value + sum) | 0;
    if (round >= 0) report(name, ns);
  }
}

function walks(): void {
  const stage2 = new Stage2Walker(memory);
  for (const [span, root, input] of [["1G", root1, a1], ["64G", root64, a64]] as const) {
    const walker = new Stage1Walker(memory, stage2);
    walker.configure(4, STAGE1.AFFD);
    walker.configureHalf(false, root, 0, 16, 0, 0);
    measure(`hw.walk.${span}`, (from, to) => {
      let sum = 0;
      for (let i = from; i < to; i++) {
        if (walker.walk(input.lo[i]!, input.hi[i]!, PERM.READ) !== WALK.OK) throw new Error("walk");
        sum = (sum + walker.paLo) | 0;
      }
      return sum;
    });
    measure(`hw.walk.dep.${span}`, (from, to) => {
      let k = from;
      for (let i = from; i < to; i++) {
        walker.walk(input.lo[k]!, input.hi[k]!, PERM.READ);
        k = (i + ((walker.paLo >>> 12) & 1)) & (N - 1);
      }
      return k;
    });
  }
}

function tlbAlone(): void {
  const tlb = new Tlb(PROFILES.finite.tlb);
  const fill = { pageShift: 12, leafShift: 12, level: 3, global: false, paLo: 0, paHi: 0, ipaLo: 0, ipaHi: 0, perm: 63, perm2: 63, clean: 0, attributes: 0 };
  for (let page = 0; page < 1024; page++) tlb.insert(page, 0, 0, 7, { ...fill, paLo: page << 12 });
  const hash = Tlb.hash(7, 0);
  const floor = tlb.floor(0, 0, 7);
  measure("hw.tlbhit", (from, to) => {
    let sum = 0;
    for (let i = from; i < to; i++) {
      const at = tlb.find(hot.lo[i]! >>> 12, 0, 7, 0, hash, floor);
      sum = (sum + tlb.data[at + 4]!) | 0;
    }
    return sum;
  });
}

function expectPa(base: number, lo: number): void {
  if (smmu.paHi !== base / 2 ** 32 || smmu.paLo !== lo) throw new Error("wrong PA");
}

function translations(): void {
  const ok = TRANSLATION.ok;
  const fail = (): never => {
    throw new Error("translate");
  };
  measure("hw.xlat.hit", (from, to) => {
    let sum = 0;
    for (let i = from; i < to; i++) {
      if (smmu.translate(5, 0, hot.lo[i]!, 0, i & ACCESS.write) !== ok) fail();
      sum = (sum + smmu.paLo) | 0;
    }
    expectPa(PA_BASE, hot.lo[to - 1]!);
    return sum;
  });
  measure("hw.xlat.hit.64str", (from, to) => {
    let sum = 0;
    for (let i = from; i < to; i++) {
      if (smmu.translate((sids[i]! & 63) | 64, 0, hot.lo[i]! & 0xffff, 0, 0) !== ok) fail();
      sum = (sum + smmu.paLo) | 0;
    }
    return sum;
  });
  measure("hw.xlat.miss.1G", (from, to) => {
    let sum = 0;
    for (let i = from; i < to; i++) {
      if (smmu.translate(5, 0, a1.lo[i]!, a1.hi[i]!, 0) !== ok) fail();
      sum = (sum + smmu.paLo) | 0;
    }
    return sum;
  });
  measure("hw.xlat.miss.64G", (from, to) => {
    let sum = 0;
    for (let i = from; i < to; i++) {
      if (smmu.translate(1, 0, a64.lo[i]!, a64.hi[i]!, 0) !== ok) fail();
      sum = (sum + smmu.paLo) | 0;
    }
    return sum;
  });
  measure("hw.xlat.nested.1G", (from, to) => {
    let sum = 0;
    for (let i = from; i < to; i++) {
      if (smmu.translate(2, 0, a1.lo[i]!, a1.hi[i]!, 0) !== ok) fail();
      sum = (sum + smmu.paLo) | 0;
    }
    expectPa(S2_BASE, a1.lo[to - 1]!);
    return sum;
  });
  measure("hw.xlat.1kstr", (from, to) => {
    let sum = 0;
    for (let i = from; i < to; i++) {
      if (smmu.translate((sids[i]! & 1023) | 1024, 0, hot.lo[i]! & 0x3fff, 0, 0) !== ok) fail();
      sum = (sum + smmu.paLo) | 0;
    }
    return sum;
  });
  measure("hw.xlat.64kstr", (from, to) => {
    let sum = 0;
    for (let i = from; i < to; i++) {
      if (smmu.translate(sids[i]! | 3, 0, hot.lo[i]! & 0x3fff, 0, 0) !== ok) fail();
      sum = (sum + smmu.paLo) | 0;
    }
    return sum;
  });
  measure("hw.xlat.fault", (from, to) => {
    for (let i = from; i < to; i++) {
      if (smmu.translate(5, 0, a1.lo[i]!, a1.hi[i]! | 0x100, 0) !== TRANSLATION.abort) fail();
    }
    if (smmu.explainLast() !== "F_TRANSLATION") throw new Error("fault");
    return EVENTS.F_TRANSLATION.type;
  });
}

/** Commands of one opcode; a SYNC in every 64th place but for TLBI_NH_ASID. */
function commands(name: string, opcode: number, count: number): void {
  const counters = smmu.counters.values;
  const consumed = smmu.counters.id("commands") + LEVEL.device;
  let cons = regs.read32(OFFSET.CMDQ_CONS);
  const fill = (): void => {
    for (let i = 0; i < count; i++) {
      const at = queue / 4 + ((cons + i) & ((1 << QUEUE_LOG2) - 1)) * 4;
      words.fill(0, at, at + 4);
      words[at] = opcode;
      if (opcode !== COMMANDS.TLBI_NH_ASID.opcode && (i & 63) === 63) words[at] = COMMANDS.SYNC.opcode;
      else if (opcode === COMMANDS.TLBI_NH_VA.opcode) {
        words[at + 1] = place(CMD.ASID, 5);
        words[at + 2] = hot.lo[i]! & ~0xfff;
      } else if (opcode === COMMANDS.CFGI_STE.opcode) words[at + 1] = sids[i]!;
      else if (opcode === COMMANDS.TLBI_NH_ASID.opcode) words[at + 1] = place(CMD.ASID, i + 9);
    }
    cons = (cons + count) & ((2 << QUEUE_LOG2) - 1);
    regs.write32(OFFSET.CMDQ_PROD, cons);
  };
  if (!name.includes(filter)) return;
  for (let round = -40; round < samples * 4; round++) {
    fill();
    const before = counters[consumed]!;
    const start = performance.now();
    // Warm up in batches of a driver's size, so that the loop is compiled as a function and not in the middle.
    if (round < 0) while (smmu.step(64) > 0);
    else smmu.step(count);
    const ns = ((performance.now() - start) * 1e6) / count;
    if (counters[consumed]! - before !== count || regs.read32(OFFSET.CMDQ_CONS) !== cons) throw new Error(name);
    if (round >= 0) report(name, ns);
  }
}

warmFormats();
walks();
tlbAlone();
translations();
commands("hw.cmdq.tlbi_va", COMMANDS.TLBI_NH_VA.opcode, 4095);
commands("hw.cmdq.cfgi_ste", COMMANDS.CFGI_STE.opcode, 4095);
commands("hw.cmdq.sync", COMMANDS.SYNC.opcode, 4095);
commands("hw.cmdq.tlbi_asid", COMMANDS.TLBI_NH_ASID.opcode, 64);
if (sink.value === 0.5) report("never", 0);
