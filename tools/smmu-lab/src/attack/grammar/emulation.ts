import { PAGE_SIZE } from "@smmuv3/platform";
import { COMMANDS, OFFSET, REGISTER_SPACE } from "@smmuv3/smmu-v3-defs";
import type { Scene } from "../scene.ts";
import { createVm, donateToVm } from "./traffic.ts";
import type { AttackClass } from "./index.ts";

const RUNNING = 0b1101;
const CMDQ_LOG2 = 7;
const EVENTQ_LOG2 = 6;
/** Pages of a second-level stream table. */
const L2_PAGES = 4;
/** StreamID bits for which a linear table is one page. */
const MAX_LINEAR = 6;
const OFFSETS = Object.values(OFFSET);
/** Registers that matter most. */
const CONTROL: readonly number[] = [OFFSET.CR0, OFFSET.CR1, OFFSET.CR2, OFFSET.GBPA, OFFSET.IRQ_CTRL, OFFSET.STRTAB_BASE, OFFSET.STRTAB_BASE_CFG, OFFSET.CMDQ_BASE];
const OPCODES = Object.values(COMMANDS).map(({ opcode }) => opcode);
const BYPASS = 1 | (4 << 1);
const STAGE1 = 1 | (5 << 1);
const SHCFG_INCOMING = 1 << 12;
/** Second-level tables of 2^8 STEs, or of few: level 1 has 8 bytes for each. */
const STRTAB_CFGS: readonly number[] = [0x1_0000 | (8 << 6) | 16, 0x1_0000 | (8 << 6) | 14, (8 << 6) | 5, 6, 0x1_0000 | (6 << 6) | 10, 0x1_0000 | (10 << 6) | 31, 0x2_0000 | 16, 31];

function write64(scene: Scene, name: "CMDQ_BASE" | "STRTAB_BASE" | "EVENTQ_BASE", pa: number, low: number): void {
  scene.op("write64", OFFSET[name], pa | low, Math.floor(pa / 2 ** 32));
}

/** An STE that the host writes and announces. */
function stream(scene: Scene, sid: number, word0: number, word3: number = SHCFG_INCOMING, leaf: number = 1, word2: number = 0): void {
  scene.op("ste", sid, word0, 0, word2, word3);
  scene.op("command", COMMANDS.CFGI_STE.opcode, sid, leaf, 0);
}

/** STE word 2: EATS, STRW, or anything. */
function oddWord2(scene: Scene): number {
  const { random } = scene;
  return random.oneIn(2) ? 0 : random.pick([1 << 28, 2 << 28, 3 << 28, 1 << 30, 2 << 30, random.next() | 0]);
}

/** CD with one table of 39 bits: T0SZ, EPD1, V; IPS, AA64, R, A, ASET, ASID; MAIR. */
const CD_WORD0 = 25 | (1 << 30) | (1 << 31);
const CD_WORD1 = 5 | (1 << 9) | (7 << 13) | (1 << 16);
const CD_TTB = 8;
const CD_MAIR = 24;
const TABLE = 3;
/** Page, AttrIndx 0, AP = read and write for all, SH inner, AF. */
const LEAF = 3 | (1 << 6) | (3 << 8) | (1 << 10);
const LEVEL1_SPAN = 0x4000_0000;

/** A stage-1 table of the host's, in four pages of its own, that maps `pages` from `iova` on for a stream. */
function stage1(scene: Scene, sid: number, iova: number, pages: readonly number[]): void {
  const [cd, l1, l2, l3] = [0, 1, 2, 3].map(() => scene.free());
  const at = (table: number, index: number, value: number): void => {
    scene.op("store32", table + index * 8, value | 0);
    scene.op("store32", table + index * 8 + 4, 0);
  };
  at(l1!, Math.floor(iova / LEVEL1_SPAN) % 512, l2! | TABLE);
  at(l2!, Math.floor(iova / 0x20_0000) % 512, l3! | TABLE);
  pages.forEach((pa, index) => {
    at(l3!, (Math.floor(iova / PAGE_SIZE) + index) % 512, pa | LEAF);
  });
  for (const [offset, value] of [[0, CD_WORD0], [4, CD_WORD1], [CD_TTB, l1!], [CD_TTB + 4, 0], [CD_MAIR, 0xff]] as const) scene.op("store32", cd! + offset, value | 0);
  scene.op("ste", sid, STAGE1 | cd!, 0, oddWord2(scene), SHCFG_INCOMING);
  scene.op("command", COMMANDS.CFGI_STE.opcode, sid, 1, 0);
  scene.op("command", COMMANDS.CFGI_CD_ALL.opcode, sid, 0, 0);
}

/** A nested stream with a warm TLB; one of its pages is given away. */
function nested(scene: Scene): void {
  const sid = scene.clientSid();
  const iova = scene.random.below(64) * PAGE_SIZE + LEVEL1_SPAN;
  const pages = [scene.free(), scene.free()];
  if (scene.vm() === undefined) createVm(scene);
  setUp(scene, true);
  stage1(scene, sid, iova, pages);
  for (let i = 0; i < pages.length; i++) scene.op("dma", sid, iova + i * PAGE_SIZE, 1, -1);
  if (scene.random.oneIn(3)) scene.op("write32", OFFSET.CR0, RUNNING & ~1);
  donateToVm(scene, pages[0]);
  scene.op("write32", OFFSET.CR0, RUNNING);
  for (let i = 0; i < pages.length; i++) scene.op("dma", sid, iova + i * PAGE_SIZE, scene.random.below(2), -1);
}

/** The host's own command queue, stream table and event queue in the arena; with `all`, as a kernel sets them up that wants to work. */
export function setUp(scene: Scene, all: boolean): void {
  const { random } = scene;
  scene.op("write32", OFFSET.CR0, 0);
  if (all) scene.op("write32", OFFSET.GERRORN, Math.max(scene.world.run({ class: "look", call: "read32", args: [OFFSET.GERROR] }), 0));
  if (all || random.oneIn(2)) {
    write64(scene, "CMDQ_BASE", scene.free(), CMDQ_LOG2);
    scene.op("write32", OFFSET.CMDQ_PROD, 0);
    scene.op("write32", OFFSET.CMDQ_CONS, 0);
  }
  if (all || random.oneIn(2)) {
    const l1 = scene.free();
    write64(scene, "STRTAB_BASE", l1, 0);
    const linear = scene.world.sidBits <= MAX_LINEAR;
    scene.op("write32", OFFSET.STRTAB_BASE_CFG, all ? (linear ? scene.world.sidBits : STRTAB_CFGS[0]!) : random.pick(STRTAB_CFGS));
    if (!linear) {
      scene.op("store32", l1, scene.freeBlock(L2_PAGES) | 9);
      scene.op("store32", l1 + 4, 0);
    }
  }
  if (random.oneIn(3)) write64(scene, "EVENTQ_BASE", scene.free(), EVENTQ_LOG2);
  scene.op("write32", OFFSET.CR0, RUNNING);
  stream(scene, scene.clientSid(), BYPASS);
}

/** Attacks on an SMMU that EL2 emulates. Elsewhere the registers abort. */
export const EMULATION_CLASSES: readonly AttackClass[] = [
  {
    id: "a11",
    title: "SMMUEN off, a page given away, SMMUEN on, and the TLB used",
    weight: 5,
    generate: (scene) => {
      if (scene.random.oneIn(3)) {
        nested(scene);
        return;
      }
      const pa = scene.free();
      const sid = scene.clientSid();
      if (scene.random.oneIn(2)) setUp(scene, true);
      stream(scene, sid, BYPASS);
      scene.op("dma", sid, pa, 1, -1);
      scene.op("write32", OFFSET.CR0, scene.random.oneIn(2) ? RUNNING & ~1 : 0);
      donateToVm(scene, pa);
      scene.op("write32", OFFSET.CR0, RUNNING);
      scene.op("dma", sid, pa, scene.random.below(2), -1);
    },
  },
  {
    id: "a12",
    title: "CMDQEN off while SMMUEN is on, then what needs an invalidation",
    weight: 4,
    generate: (scene) => {
      const pa = scene.free();
      scene.op("write32", OFFSET.CR0, RUNNING & ~8);
      donateToVm(scene, pa);
      scene.op("dma", scene.clientSid(), pa, 1, -1);
      scene.op("write32", OFFSET.CR0, RUNNING);
    },
  },
  {
    id: "a13",
    title: "stream tables that change size, format, place or content",
    weight: 6,
    generate: (scene) => {
      const { random } = scene;
      const steps: readonly (() => void)[] = [
        () => {
          setUp(scene, random.oneIn(2));
        },
        () => {
          scene.op("write32", OFFSET.STRTAB_BASE_CFG, random.oneIn(3) ? random.next() : random.pick(STRTAB_CFGS));
        },
        () => {
          stream(scene, scene.sid(), random.oneIn(2) ? STAGE1 : BYPASS, SHCFG_INCOMING | (random.oneIn(3) ? random.next() : 0), random.below(2), oddWord2(scene));
        },
        () => {
          scene.op("ste", scene.sid(), ...Array.from({ length: 16 }, () => random.next() | 0));
          scene.op("command", COMMANDS.CFGI_STE.opcode, scene.sid(), random.below(2), 0);
        },
        () => {
          // Level-1 descriptors that name memory of others.
          const l1 = scene.free();
          scene.op("write32", OFFSET.CR0, 0);
          write64(scene, "STRTAB_BASE", l1, 0);
          scene.op("write32", OFFSET.STRTAB_BASE_CFG, STRTAB_CFGS[0]!);
          scene.op("store32", l1, scene.taken() | (random.oneIn(3) ? random.below(32) : 9));
          scene.op("store32", l1 + 4, random.oneIn(6) ? random.next() | 0 : 0);
          scene.op("write32", OFFSET.CR0, RUNNING);
          scene.op("command", COMMANDS.CFGI_STE.opcode, scene.clientSid(), 0, 0);
        },
        () => {
          // A table that is in use is given away.
          const l1 = scene.free();
          scene.op("write32", OFFSET.CR0, 0);
          write64(scene, "STRTAB_BASE", l1, 0);
          scene.op("write32", OFFSET.STRTAB_BASE_CFG, STRTAB_CFGS[0]!);
          scene.op("write32", OFFSET.CR0, RUNNING);
          donateToVm(scene, l1);
          scene.op("command", COMMANDS.CFGI_STE_RANGE.opcode, scene.clientSid(), 31, 0);
        },
      ];
      random.pick(steps)();
    },
  },
  {
    id: "a14",
    title: "commands that the host may not use, or with fields that it may not set",
    weight: 6,
    generate: (scene) => {
      const { random } = scene;
      const opcode = random.oneIn(6) ? random.below(256) : random.pick(OPCODES);
      const first = opcode | (random.oneIn(2) ? 0 : random.next() & ~0xff);
      const second = random.oneIn(2) ? scene.sid() : random.next();
      const address = random.oneIn(2) ? scene.page() : scene.boundary();
      scene.op("command", first | 0, second | 0, (address & ~0xfff) | random.below(4096), Math.floor(address / 2 ** 32) | 0);
      if (random.oneIn(3)) scene.op("write32", OFFSET.CMDQ_PROD, random.next());
    },
  },
  {
    id: "a15",
    title: "widths, halves, tails and holes of the register space",
    weight: 5,
    generate: (scene) => {
      const { random } = scene;
      const offset = random.oneIn(2) ? random.pick(CONTROL) : random.oneIn(2) ? random.pick(OFFSETS) : random.below(REGISTER_SPACE / 8) * 8;
      const half = offset + (random.oneIn(3) ? 4 : 0);
      const aligned = offset - (offset % 8);
      switch (random.below(4)) {
        case 0:
          scene.op("read32", half % REGISTER_SPACE);
          break;
        case 1:
          scene.op("read64", aligned);
          break;
        case 2:
          scene.op("write32", half % REGISTER_SPACE, random.oneIn(2) ? random.next() : scene.boundary() % 2 ** 32);
          break;
        default:
          scene.op("write64", aligned, random.next(), random.oneIn(2) ? 0 : random.next());
      }
    },
  },
  {
    id: "a17",
    title: "commands that stop the hardware's queue",
    weight: 4,
    generate: (scene) => {
      const { random } = scene;
      scene.op("command", random.oneIn(2) ? 0xff : OPCODES[random.below(OPCODES.length)]! | (1 << 10), random.next() | 0, random.next() | 0, random.next() | 0);
      if (random.oneIn(2)) donateToVm(scene);
      scene.op("write32", OFFSET.GERRORN, random.below(2));
      scene.op("read32", OFFSET.CMDQ_CONS);
      if (random.oneIn(2)) scene.op("write32", OFFSET.CR0, RUNNING);
      scene.op("dma", scene.clientSid(), scene.arena() - (scene.arena() % PAGE_SIZE), 1, -1);
    },
  },
];
