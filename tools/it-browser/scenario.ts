// Some thousand accesses through a model with stage-1, stage-2 and nested streams, with faults, invalidations and a move of its state.
// It runs alike in Node and in a browser: nothing here is of either.
import { ACCESS, Memory, TRANSLATION } from "@smmuv3/platform";
import { CD, CMD, COMMANDS, OFFSET, place, setAddress, setField, STE, STE_CONFIG } from "@smmuv3/smmu-v3-defs";
import type { AddressField, CommandName, Field } from "@smmuv3/smmu-v3-defs";
import { formatExplanation, PRESETS, SmmuV3 } from "@smmuv3/smmu-v3-model";
import type { SmmuV3Options } from "@smmuv3/smmu-v3-model";

/** What a run gives; plain data, the same wherever it runs. */
export interface ScenarioResult {
  readonly accesses: number;
  readonly outcomes: Readonly<Record<string, number>>;
  /** FNV-1a of every outcome and output address. */
  readonly hash: number;
  readonly events: Readonly<Record<string, number>>;
  readonly firstEvents: readonly string[];
  readonly counters: Readonly<Record<string, number>>;
  /** FNV-1a of RAM at the end: records, flags of descriptors. */
  readonly memory: number;
  readonly stale: readonly string[];
  readonly stateBytes: number;
  readonly explanation: readonly string[];
}

const BASE = 0x4000_0000;
const SIZE = 0x100_0000;
const STRTAB: number = BASE + 0x1_0000;
const CMDQ: number = BASE + 0x2_0000;
const EVTQ: number = BASE + 0x3_0000;
const CDS: number = BASE + 0x4_0000;
const ARENA: number = BASE + 0x10_0000;
const PA = 0x8_0000_0000;
const QUEUE_LOG2 = 8;
const PAGES = 64;

const STAGE1_RW = 0xf40;
const STAGE1_RO = 0xfc0;
const STAGE2_RW = 0x7fc;
const STAGE2_RO = 0x77c;
/** HTTU of the preset: access flags and dirty state. */
const NO_ACCESS_FLAG = 1 << 10;

function mix(hash: number, value: number): number {
  return Math.imul(hash ^ value, 0x0100_0193);
}

class World {
  readonly memory: Memory = Memory.allocate({ base: BASE, size: SIZE });
  readonly options: SmmuV3Options = { memory: this.memory, id: PRESETS.full, profile: "lazy", witness: true };
  smmu: SmmuV3 = new SmmuV3(this.options);
  #free = ARENA;
  #prod = 0;

  /** Zeroed page for a table. */
  table(): number {
    const pa = this.#free;
    this.#free += 0x1000;
    return pa;
  }

  fields(pa: number, values: readonly (readonly [Field | AddressField, number])[]): void {
    const at = this.memory.index(pa, true);
    for (const [field, value] of values) {
      if ("loMask" in field) setAddress(this.memory.words, at, field, value);
      else setField(this.memory.words, at, field, value);
    }
  }

  map(root: number, address: number, pa: number, attributes: number): void {
    let table = root;
    for (let shift = 39; shift > 12; shift -= 9) {
      const slot = table + (Math.floor(address / 2 ** shift) % 512) * 8;
      if (this.memory.load64(slot) === 0) this.memory.store64(slot, this.table() | 3, 0);
      table = (this.memory.load32(slot) & ~0xfff) >>> 0;
    }
    this.memory.store64(table + (Math.floor(address / 0x1000) % 512) * 8, (pa % 2 ** 32 | 0) | attributes | 3, Math.floor(pa / 2 ** 32));
  }

  stage1(sid: number, root: number, config: number): void {
    const cd = CDS + sid * 64;
    this.fields(STRTAB + sid * 64, [[STE.V, 1], [STE.Config, config], [STE.S1ContextPtr, cd]]);
    this.fields(cd, [
      [CD.V, 1], [CD.AA64, 1], [CD.T0SZ, 16], [CD.EPD1, 1], [CD.IPS, 5], [CD.A, 1], [CD.R, 1], [CD.ASID, sid], [CD.HA, 1], [CD.HD, 1],
      [CD.TTB0, root],
    ]);
  }

  stage2(sid: number, root: number, config: number): void {
    this.fields(STRTAB + sid * 64, [
      [STE.V, 1], [STE.Config, config], [STE.S2VMID, sid], [STE.S2T0SZ, 16], [STE.S2SL0, 2], [STE.S2PS, 5], [STE.S2AA64, 1], [STE.S2R, 1],
      [STE.S2TTB, root],
    ]);
  }

  command(name: CommandName, values: readonly (readonly [Field | AddressField, number])[]): void {
    const pa = CMDQ + (this.#prod & ((1 << QUEUE_LOG2) - 1)) * 16;
    this.memory.fill(pa, 16, 0);
    this.memory.store32(pa, place(CMD.Opcode, COMMANDS[name].opcode));
    this.fields(pa, values);
    this.#prod = (this.#prod + 1) & ((2 << QUEUE_LOG2) - 1);
    this.smmu.registers.write32(OFFSET.CMDQ_PROD, this.#prod);
  }

  start(): void {
    const { registers } = this.smmu;
    registers.write64(OFFSET.STRTAB_BASE, STRTAB, 0);
    registers.write32(OFFSET.STRTAB_BASE_CFG, 6);
    registers.write64(OFFSET.CMDQ_BASE, CMDQ + QUEUE_LOG2, 0);
    registers.write64(OFFSET.EVENTQ_BASE, EVTQ + QUEUE_LOG2, 0);
    registers.write32(OFFSET.CR2, 2);
    registers.write32(OFFSET.CR0, 0xd);
  }

  /** A new SMMU that goes on from the state of this one. */
  move(): number {
    const { json, binary } = this.smmu.saveState();
    this.smmu = new SmmuV3(this.options);
    this.smmu.restoreState({ json, binary: binary.slice() });
    return binary.byteLength;
  }
}

const STREAMS = [1, 2, 3, 4] as const;

function build(): { world: World; roots: readonly number[] } {
  const world = new World();
  const [root1, root2, root3, root4, nested2] = [world.table(), world.table(), world.table(), world.table(), world.table()] as const;
  world.stage1(1, root1, STE_CONFIG.s1);
  world.stage2(2, root2, STE_CONFIG.s2);
  for (let pa = BASE; pa < BASE + SIZE; pa += 0x1000) world.map(nested2, pa, pa, STAGE2_RW);
  world.stage1(3, root3, STE_CONFIG.s1);
  world.stage1(4, root4, STE_CONFIG.nested);
  world.stage2(4, nested2, STE_CONFIG.nested);
  for (let page = 0; page < PAGES; page++) {
    const address = page * 0x1000;
    const third = page % 3;
    world.map(root1, address, PA + address, (third === 0 ? STAGE1_RO : STAGE1_RW) & ~(third === 1 ? NO_ACCESS_FLAG : 0));
    world.map(root2, address, PA + 2 ** 33 + address, third === 0 ? STAGE2_RO : STAGE2_RW);
    if (third !== 0) world.map(root3, address, PA + address * 2, STAGE1_RW);
    world.map(root4, address, 0x1_0000_0000 + address, STAGE1_RW);
    if (third !== 1) world.map(nested2, 0x1_0000_0000 + address, PA + 2 ** 34 + address, page % 2 === 0 ? STAGE2_RW : STAGE2_RO);
  }
  world.start();
  return { world, roots: [root1, root2, root3, root4] };
}

/** Runs `rounds` rounds of accesses over all streams. The result depends on nothing but `rounds`. */
export function runScenario(rounds: number): ScenarioResult {
  const { world, roots } = build();
  const outcomes: Record<string, number> = { ok: 0, abort: 0, other: 0 };
  const events: Record<string, number> = {};
  const firstEvents: string[] = [];
  let [accesses, hash, state, stateBytes] = [0, 0x811c_9dc5, 12345, 0];
  const random = (n: number): number => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) % n;
  };
  for (let round = 0; round < rounds; round++) {
    for (const sid of STREAMS) {
      for (let page = 0; page < PAGES; page++) {
        const { smmu } = world;
        const address = (page + random(4)) * 0x1000 + random(0x1000);
        const status = smmu.translate(sid, 0, address, 0, random(3) === 0 ? ACCESS.write : ACCESS.read);
        accesses++;
        const name = status === TRANSLATION.ok ? "ok" : status === TRANSLATION.abort ? "abort" : "other";
        outcomes[name] = outcomes[name]! + 1;
        hash = mix(hash, status);
        if (status === TRANSLATION.ok) hash = mix(mix(hash, smmu.paLo), smmu.paHi);
      }
      for (const event of world.smmu.decodeEvents()) {
        const name = event.text.split(" ")[0]!;
        events[name] = (events[name] ?? 0) + 1;
        if (firstEvents.length < 8) firstEvents.push(event.text);
      }
      world.smmu.registers.write32(OFFSET.EVENTQ_CONS, world.smmu.registers.read32(OFFSET.EVENTQ_PROD));
    }
    // One page moves; its invalidation is forgotten in the last round, which the witness sees.
    const page = 1 + 3 * random(PAGES / 4);
    world.map(roots[0]!, page * 0x1000, PA + 2 ** 32 + round * 0x1000, STAGE1_RW);
    if (round < rounds - 1) {
      world.command("TLBI_NH_VA", [[CMD.ASID, 1], [CMD.Address, page * 0x1000]]);
      world.command("SYNC", []);
    } else world.smmu.translate(1, 0, page * 0x1000, 0, ACCESS.read);
    if (round === rounds >> 1) stateBytes = world.move();
  }
  const { smmu, memory } = world;
  const counter = (name: string): number => smmu.counters.read(name).device;
  return {
    accesses,
    outcomes,
    hash: hash >>> 0,
    events,
    firstEvents,
    counters: Object.fromEntries(["translations", "tlb.hits", "tlb.misses", "walkReads", "commands"].map((name) => [name, counter(name)])),
    memory: memory.words.reduce(mix, 0x811c_9dc5) >>> 0,
    stale: smmu.staleReports.map(({ missing }) => missing),
    stateBytes,
    explanation: formatExplanation(smmu.explainAccess(4, 0, 0x1000, 0, ACCESS.write)).split("\n"),
  };
}
