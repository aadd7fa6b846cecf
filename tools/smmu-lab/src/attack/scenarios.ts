import { ABI_PROT, EVENT_QUEUE_OP, IOMMU_DOMAIN_TYPE, POOL } from "@smmuv3/pkvm-abi";
import { PAGE_SIZE } from "@smmuv3/platform";
import { COMMANDS, OFFSET } from "@smmuv3/smmu-v3-defs";
import { setUp } from "./grammar/emulation.ts";
import { drawClass } from "./grammar/index.ts";
import type { Concurrent, Op } from "./op.ts";
import type { Random } from "./random.ts";
import type { Scene } from "./scene.ts";

/** Operations of one CPU, as a scenario writes them. */
type Line = readonly [call: Op["call"], ...args: number[]];

/** What is set up before, and what the CPUs do then. */
interface Race {
  readonly before?: readonly Line[];
  readonly cpus: readonly (readonly Line[])[];
  /** What shows the damage. */
  readonly after?: readonly Line[];
}

/** A race between CPUs. */
export interface Scenario {
  readonly id: string;
  readonly title: string;
  readonly weight: number;
  /** Where it means anything; everywhere by default. */
  readonly only?: "paging" | "emulation";
  readonly make: (scene: Scene) => Race;
}

const RW = ABI_PROT.read | ABI_PROT.write;
const RUNNING = 0b1101;
const BYPASS = 1 | (4 << 1);
const HOST_S2 = 1 | (6 << 1);
const SHCFG_INCOMING = 1 << 12;
/** Longest list of operations of a CPU in a mixture. */
const SOUP_OPS = 2;
const VM_TABLE_PAGES = 4;
const BLOCK = 0x20_0000;
/** Device space in which there is nothing. */
const DEVICE_BLOCK = 0x0c00_0000;

const pfn = (pa: number): number => pa / PAGE_SIZE;
const vm = (scene: Scene): number => scene.vm()?.handle ?? 1;
const donate = (scene: Scene, pa: number, handle: number = vm(scene)): Line => ["__pkvm_host_donate_guest", handle, pfn(pa), scene.ipa(), 0];
const map = (id: number, iova: number, pa: number, count: number = 1): Line => ["__pkvm_iommu_map_pages", id, iova, pa, PAGE_SIZE, count, RW];
const unmap = (id: number, iova: number, count: number = 1): Line => ["__pkvm_iommu_unmap_pages", id, iova, PAGE_SIZE, count];
const dma = (sid: number, iova: number, write: number): Line => ["dma", sid, iova, write, -1];
const setState = (sid: number, state: number): Line => ["__pkvm_iommu_set_state", 0, sid, 0, state];

/** A domain of the host's; the line that makes it where there is none. */
function domain(scene: Scene): { readonly id: number; readonly before: Line[] } {
  const ids = [...scene.world.ledger.domains.keys()];
  if (ids.length > 0) return { id: scene.random.pick(ids), before: [] };
  const id = scene.newDomain();
  return {
    id,
    before: [["__pkvm_iommu_alloc_domain", 0, id, scene.random.pick(Object.values(IOMMU_DOMAIN_TYPE))], setState(scene.clientSid(), id)],
  };
}

/** Races that have been found in such code, or that its protocol is there for. */
export const SCENARIOS: readonly Scenario[] = [
  {
    id: "donate-dma",
    title: "a page given away while CPU and devices use it",
    weight: 4,
    make: (scene) => {
      const pa = scene.free();
      const sid = scene.clientSid();
      return {
        before: [setState(sid, 1), dma(sid, pa, 1)],
        cpus: [[donate(scene, pa), ["__pkvm_vcpu_run", vm(scene), 0]], [dma(sid, pa, 1), dma(sid, pa, 0), dma(sid, pa, 1)], [["store32", pa, 1], ["store32", pa + 8, 2]]],
      };
    },
  },
  {
    id: "double-donate",
    title: "one page to two owners",
    weight: 4,
    make: (scene) => {
      const pa = scene.free();
      const other = scene.random.pick<Line>([donate(scene, pa), ["__pkvm_host_donate_hyp", pfn(pa)], ["__pkvm_topup_hyp", POOL.iommu, pfn(pa), 0]]);
      return { cpus: [[donate(scene, pa)], [other], [["__pkvm_host_share_hyp", pfn(pa)], ["__pkvm_host_unshare_hyp", pfn(pa)]]] };
    },
  },
  {
    id: "map-donate",
    title: "a page mapped and given away at once",
    weight: 5,
    only: "paging",
    make: (scene) => {
      const { id, before } = domain(scene);
      const pa = scene.free();
      const iova = scene.iova();
      return { before, cpus: [[map(id, iova, pa), unmap(id, iova)], [donate(scene, pa)], [dma(scene.clientSid(), iova, 1)]] };
    },
  },
  {
    id: "unmap-donate",
    title: "a page unmapped and given away at once, with a warm TLB",
    weight: 10,
    only: "paging",
    make: (scene) => {
      const { id, before } = domain(scene);
      const pa = scene.free();
      const iova = scene.iova();
      const sid = scene.clientSid();
      return {
        before: [...before, setState(sid, id), map(id, iova, pa), dma(sid, iova, 1)],
        cpus: [[unmap(id, iova)], [donate(scene, pa)], [dma(sid, iova, 1), dma(sid, iova, 0), dma(sid, iova, 1)]],
      };
    },
  },
  {
    id: "blocks",
    title: "a block mapped over a table that another CPU maps into",
    weight: 10,
    only: "paging",
    make: (scene) => {
      const { id, before } = domain(scene);
      const iova = scene.random.below(0x100) * BLOCK;
      const pa = scene.free();
      return {
        before: [...before, setState(scene.clientSid(), id), map(id, iova, pa), unmap(id, iova)],
        cpus: [
          [["__pkvm_iommu_map_pages", id, iova, DEVICE_BLOCK, BLOCK, 1, RW | ABI_PROT.mmio]],
          [map(id, iova + PAGE_SIZE, pa)],
          [map(id, iova + BLOCK, scene.free()), map(id, iova + PAGE_SIZE * 2, scene.free())],
        ],
      };
    },
  },
  {
    id: "map-unmap",
    title: "tables against leaves in one domain",
    weight: 8,
    only: "paging",
    make: (scene) => {
      const { id, before } = domain(scene);
      const iova = scene.iova();
      const [a, b] = [scene.free(), scene.free()];
      return {
        before: [...before, map(id, iova, a)],
        cpus: [[unmap(id, iova), map(id, iova, b)], [map(id, iova + PAGE_SIZE, b), unmap(id, iova + PAGE_SIZE)], [["__pkvm_iommu_unmap_pages", id, iova - (iova % 0x20_0000), 0x20_0000, 1]]],
      };
    },
  },
  {
    id: "domain-life",
    title: "a domain freed while it is attached and mapped",
    weight: 4,
    only: "paging",
    make: (scene) => {
      const { id, before } = domain(scene);
      const sid = scene.clientSid();
      const iova = scene.iova();
      const pa = scene.free();
      return {
        before,
        cpus: [
          [setState(sid, 0), ["__pkvm_iommu_free_domain", id]],
          [scene.random.oneIn(2) ? setState(sid, id) : map(id, iova, pa)],
          [scene.random.oneIn(2) ? dma(sid, iova, 1) : ["__pkvm_iommu_alloc_domain", 0, id, IOMMU_DOMAIN_TYPE.s2]],
        ],
      };
    },
  },
  {
    id: "states",
    title: "two CPUs set one stream, or two that share a table",
    weight: 4,
    make: (scene) => {
      const sid = scene.random.oneIn(2) ? scene.clientSid() : scene.random.below(0x100) << 8;
      return { cpus: [[setState(sid, 1), setState(sid, 0)], [setState(scene.random.oneIn(2) ? sid : sid + 1, 1)], [dma(sid, scene.free(), 1)]] };
    },
  },
  {
    id: "vm-life",
    title: "a VM ends while its vCPU runs and pages come",
    weight: 4,
    make: (scene) => {
      const handle = vm(scene);
      const page = Math.max(scene.vmPage(), 0);
      return {
        before: scene.vm() === undefined ? [["__pkvm_init_vm", scene.arenaRun(VM_TABLE_PAGES), VM_TABLE_PAGES, 2]] : [],
        cpus: [
          [["__pkvm_teardown_vm", handle], ["__pkvm_host_reclaim_page", pfn(page)]],
          [["__pkvm_vcpu_run", handle, 0], ["__pkvm_vcpu_run", handle, 1]],
          [donate(scene, scene.free(), handle)],
        ],
      };
    },
  },
  {
    id: "vm-pages",
    title: "pages of one VM, whose tables grow",
    weight: 3,
    make: (scene) => {
      const handle = vm(scene);
      const ipa = 0x1_0000_0000 + scene.random.below(0x100) * 0x20_0000;
      const give = (at: number): Line => ["__pkvm_host_donate_guest", handle, pfn(scene.free()), at, 0];
      return {
        before: [["__pkvm_vcpu_topup", handle, 0, pfn(scene.freeBlock(VM_TABLE_PAGES)), VM_TABLE_PAGES]],
        cpus: [[give(ipa)], [give(ipa + PAGE_SIZE * scene.random.below(2))], [scene.random.oneIn(2) ? give(ipa + 0x20_0000) : ["__pkvm_vcpu_run", handle, 0]]],
        after: [["__pkvm_vcpu_run", handle, 0]],
      };
    },
  },
  {
    id: "reclaim",
    title: "one page taken back twice",
    weight: 2,
    make: (scene) => {
      const page = Math.max(scene.vmPage(), 0);
      const call: Line = ["__pkvm_host_reclaim_page", pfn(page)];
      return { before: [["__pkvm_teardown_vm", vm(scene)]], cpus: [[call], [call, donate(scene, page)], [["load32", page]]] };
    },
  },
  {
    id: "list",
    title: "a list that changes while EL2 reads it",
    weight: 4,
    only: "paging",
    make: (scene) => {
      const { id, before } = domain(scene);
      const list = scene.free();
      const target = scene.taken();
      return {
        before: [
          ...before, ["store32", list, scene.free() | 0], ["store32", list + 4, 0], ["store32", list + 8, PAGE_SIZE], ["store32", list + 12, 1],
          ["__pkvm_host_share_hyp", pfn(list)],
        ],
        cpus: [
          [["__pkvm_iommu_map_sg", id, scene.iova(), list, 1, RW]],
          [["store32", list, target | 0], ["store32", list + 12, 2]],
          [["__pkvm_host_unshare_hyp", pfn(list)], donate(scene, list)],
        ],
      };
    },
  },
  {
    id: "pools",
    title: "memory given to a pool and taken back while it is used",
    weight: 3,
    make: (scene) => {
      const { id, before } = domain(scene);
      const pa = scene.free();
      return {
        before,
        cpus: [
          [["__pkvm_topup_hyp", POOL.iommu, pfn(pa), 0], ["__pkvm_hyp_reclaim_pool", POOL.iommu]],
          [map(id, scene.random.below(0x1000) * 0x20_0000, scene.free())],
          [["__pkvm_hyp_reclaim_pool", POOL.iommu]],
        ],
      };
    },
  },
  {
    id: "events",
    title: "an event queue attached and its memory given away",
    weight: 3,
    make: (scene) => {
      const pa = scene.free();
      const attach: Line = ["__pkvm_iommu_event_queue", 0, EVENT_QUEUE_OP.attach, pa + 7];
      return {
        before: [["__pkvm_host_share_hyp", pfn(pa)]],
        cpus: [[attach], [["__pkvm_host_unshare_hyp", pfn(pa)], donate(scene, pa)], [["__pkvm_iommu_event_queue", 0, EVENT_QUEUE_OP.consume, 0]]],
      };
    },
  },
  {
    id: "assign",
    title: "a device given to a VM while the host sets its stream",
    weight: 2,
    only: "paging",
    make: (scene) => {
      const sid = scene.clientSid();
      return { cpus: [[["__pkvm_device_assign", vm(scene), 0, sid]], [setState(sid, 1)], [dma(sid, scene.free(), 1), ["__pkvm_teardown_vm", vm(scene)]]] };
    },
  },
  {
    id: "power",
    title: "the SMMU switched off while it is used",
    weight: 2,
    only: "paging",
    make: (scene) => {
      const pa = scene.free();
      return { cpus: [[["__pkvm_host_hvc_pd", 0, 0], ["__pkvm_host_hvc_pd", 0, 1]], [donate(scene, pa)], [setState(scene.clientSid(), 1), dma(scene.clientSid(), pa, 1)]] };
    },
  },
  {
    id: "ring",
    title: "two CPUs ring one queue whose commands change",
    weight: 10,
    only: "emulation",
    make: (scene) => {
      const sid = scene.clientSid();
      const ste = (word0: number, word2: number): Line => ["ste", sid, word0, 0, word2, SHCFG_INCOMING, scene.random.next() | 0, scene.random.next() | 0, scene.taken() | 0];
      const cfgi = (): Line => ["command", COMMANDS.CFGI_STE.opcode, scene.random.oneIn(2) ? sid : scene.clientSid(), 1, 0];
      return {
        before: scene.random.oneIn(4) ? [] : [...linesOf(scene, setUpEmulation), ["ste", sid, BYPASS, 0, 1 << 28, SHCFG_INCOMING]],
        cpus: [
          [cfgi()],
          [scene.random.oneIn(2) ? cfgi() : ["command", COMMANDS.TLBI_NH_ALL.opcode, 0, 0, 0], cfgi()],
          scene.random.oneIn(2) ? [] : [ste(scene.random.oneIn(2) ? BYPASS : HOST_S2, 1 << 28)],
        ],
      };
    },
  },
  {
    id: "enable",
    title: "queues and tables enabled while their memory is given away",
    weight: 4,
    only: "emulation",
    make: (scene) => {
      const pa = scene.free();
      const name = scene.random.pick(["CMDQ_BASE", "STRTAB_BASE", "EVENTQ_BASE"] as const);
      return {
        before: [["write32", OFFSET.CR0, 0], ["write64", OFFSET[name], pa | (name === "STRTAB_BASE" ? 0 : 7), 0]],
        cpus: [[["write32", OFFSET.CR0, RUNNING], ["write32", OFFSET.CR0, 0]], [donate(scene, pa)], [dma(0x123, pa, 1), ["write32", OFFSET.CR0, RUNNING]]],
      };
    },
  },
  {
    id: "trap-donate",
    title: "traps against donations: who takes which lock first",
    weight: 3,
    only: "emulation",
    make: (scene) => ({
      cpus: [
        [["write32", OFFSET.CR0, RUNNING & ~1], ["write32", OFFSET.CR0, RUNNING]],
        [donate(scene, scene.free())],
        [["command", COMMANDS.CFGI_STE_RANGE.opcode, 0, 31, 0]],
      ],
    }),
  },
  { id: "soup", title: "operations of the attack classes, spread over the CPUs", weight: 10, make: soup },
];

/** What a generator of operations does, as lines of a scenario. */
function linesOf(scene: Scene, generate: (scene: Scene) => void): Line[] {
  scene.begin("traffic");
  generate(scene);
  return scene.ops.map(({ call, args }): Line => [call, ...args]);
}

function setUpEmulation(scene: Scene): void {
  if (scene.world.target.name === "trap-emulate") setUp(scene, true);
}

/** Operations of two or three classes, one for each CPU. */
function soup(scene: Scene): Race {
  const { random } = scene;
  const cpus = Array.from({ length: 2 + random.below(2) }, () => {
    const attack = drawClass(random);
    scene.begin(attack.id);
    attack.generate(scene);
    // A frame of a raw call is not known to those who look for an order of the calls.
    const ops = scene.ops.filter(({ call }) => call !== "hvc");
    const first = random.below(Math.max(1, ops.length - SOUP_OPS));
    return ops.slice(first, first + SOUP_OPS).map(({ call, args }): Line => [call, ...args]);
  });
  return { cpus: cpus.filter((ops) => ops.length > 0) };
}

/** True for a scenario that means something to a target. */
function fits({ only }: Scenario, target: string): boolean {
  return only === undefined || (only === "paging" ? target.endsWith("-paging") : target === "trap-emulate");
}

function op(name: string, [call, ...args]: Line): Op {
  return { class: name, call, args };
}

/** A scenario by weight: what comes before, and the race. The choices are open. */
export function drawScenario(random: Random, scene: Scene): { readonly before: readonly Op[]; readonly race: Concurrent; readonly after: readonly Op[] } {
  const list = SCENARIOS.filter((one) => fits(one, scene.world.target.name));
  let at = random.below(list.reduce((sum, { weight }) => sum + weight, 0));
  const scenario = list.find(({ weight }) => (at -= weight) < 0)!;
  const { before = [], cpus, after = [] } = scenario.make(scene);
  const { id } = scenario;
  return {
    before: before.map((line) => op(id, line)),
    after: after.map((line) => op(id, line)),
    race: { class: id, call: "concurrent", cpus: cpus.map((lines) => lines.map((line) => op(id, line))), choices: [] },
  };
}
