import { abiHash, EVENT_QUEUE_OP, functionId, GUEST_CALL, HOST_DOMAINS, HYPERCALLS, POOL, PVIOMMU_OP, TOPUP_MAX_ORDER } from "@smmuv3/pkvm-abi";
import type { HypercallName } from "@smmuv3/pkvm-abi";
import { PAGE_SIZE } from "@smmuv3/platform";
import { OFFSET, REGISTER_SPACE } from "@smmuv3/smmu-v3-defs";
import { BOOT_SID } from "../hardware.ts";
import type { Scene } from "../scene.ts";
import { createVm, donateToVm, reclaim } from "./traffic.ts";
import type { AttackClass } from "./index.ts";

const NAMES = Object.keys(HYPERCALLS) as HypercallName[];
const IDS = NAMES.map(functionId);
const EVENT_LOG2 = 7;
const DOMAIN_EDGES: readonly number[] = [0, 1, 2, HOST_DOMAINS - 1, HOST_DOMAINS, HOST_DOMAINS + 1, HOST_DOMAINS * 2 - 1, HOST_DOMAINS * 2, 2 ** 32];

/** An argument by its name: the pool that fits, or something else. */
function argument(scene: Scene, name: string): number {
  const { random } = scene;
  if (random.oneIn(10)) return scene.boundary();
  switch (name) {
    case "pfn":
      return scene.pfn();
    case "mem_base":
    case "paddr":
    case "pool_base":
    case "handoff_pa":
    case "sg_pa":
      return scene.page();
    case "handle":
      return scene.handle();
    case "ipa":
      return scene.ipa();
    case "sid":
    case "vsid":
      return scene.sid();
    case "domain":
      return scene.domain();
    case "iommu":
    case "device":
      return scene.iommu();
    case "pasid":
      return scene.pasid();
    case "iova":
      return scene.iova();
    case "pgsize":
      return random.pick([PAGE_SIZE, PAGE_SIZE, 0x20_0000, 0x4000_0000, 0, 1, 0x1000_0000_0000]);
    case "state":
      return random.oneIn(2) ? random.below(2) : scene.domain();
    case "abi_hash":
      return abiHash();
    case "pool":
      return random.below(4);
    case "order":
      return random.below(TOPUP_MAX_ORDER + 3);
    case "value":
      return scene.shared() + random.below(10);
    default:
      return random.oneIn(4) ? scene.boundary() : random.below(9);
  }
}

function anyCall(scene: Scene): void {
  const name = scene.random.pick(NAMES);
  scene.op(name, ...HYPERCALLS[name].args.map((arg) => argument(scene, arg)));
}

/** A frame whose high words, unused registers and function id are not what they should be. */
function rawCall(scene: Scene): void {
  const { random } = scene;
  const words = Array.from({ length: 14 }, () => (random.oneIn(2) ? 0 : random.oneIn(2) ? random.next() : scene.boundary() % 2 ** 32));
  words[0] = random.oneIn(4) ? random.next() : random.pick(IDS);
  scene.op("hvc", ...words);
}

function attachEvents(scene: Scene, pa: number): void {
  scene.op("__pkvm_iommu_event_queue", scene.iommu(), EVENT_QUEUE_OP.attach, pa + (scene.random.oneIn(4) ? scene.random.below(24) : EVENT_LOG2));
}

const GUEST_PVIOMMU = 1;
const GUEST_VSID = 5;

/** A device for a new VM, whose guest maps for it; the host tries to keep it. */
function assign(scene: Scene): void {
  const { random } = scene;
  const handle = scene.nextHandle();
  const sid = random.oneIn(4) ? BOOT_SID : scene.clientSid();
  const pa = scene.free();
  const [ipa, iova] = [scene.ipa(), scene.iova()];
  const guest = (op: number, ...args: number[]): void => {
    scene.op("guest", handle, 0, GUEST_CALL.pviommuOp, op, ...args);
    scene.op("__pkvm_vcpu_run", handle, 0);
  };
  createVm(scene);
  scene.op("__pkvm_iommu_set_state", 0, sid, 0, 1);
  scene.op("dma", sid, pa, 1, -1);
  scene.op("__pkvm_device_assign", handle, 0, sid);
  scene.op("dma", sid, pa, 1, -1);
  scene.op("__pkvm_pviommu_attach", handle, GUEST_PVIOMMU);
  scene.op("__pkvm_pviommu_add_vsid", handle, GUEST_PVIOMMU, 0, sid, GUEST_VSID);
  scene.op("__pkvm_host_donate_guest", handle, pa / PAGE_SIZE, ipa, 0);
  if (random.oneIn(3)) scene.op("__pkvm_pviommu_finalise", handle);
  guest(PVIOMMU_OP.allocDomain);
  for (const domain of [HOST_DOMAINS, HOST_DOMAINS + 1]) {
    guest(PVIOMMU_OP.attachDev, GUEST_PVIOMMU, GUEST_VSID, 0, domain, 0);
    guest(PVIOMMU_OP.mapPages, domain, iova, ipa, PAGE_SIZE, 3);
  }
  scene.op("dma", sid, iova, 1, -1);
  scene.op("__pkvm_iommu_set_state", 0, sid, 0, random.below(2));
  scene.op("__pkvm_iommu_map_pages", HOST_DOMAINS, iova + PAGE_SIZE, scene.free(), PAGE_SIZE, 1, 3);
  scene.op("dma", sid, random.oneIn(2) ? iova : scene.free(), 1, -1);
  if (random.oneIn(2)) scene.op("__pkvm_teardown_vm", handle);
  reclaim(scene);
  scene.op("dma", sid, iova, 1, -1);
}

/** Attacks on hypercalls that every design has, and on the registers. */
export const HYPERCALL_CLASSES: readonly AttackClass[] = [
  {
    id: "a5",
    title: "ids out of range, reserved, of others, or freed",
    weight: 8,
    generate: (scene) => {
      if (scene.random.oneIn(4)) {
        scene.op("__pkvm_iommu_alloc_domain", 0, scene.random.pick(DOMAIN_EDGES), 1 + scene.random.below(2));
        return;
      }
      const name = scene.random.pick([
        "__pkvm_iommu_set_state", "__pkvm_iommu_alloc_domain", "__pkvm_iommu_free_domain", "__pkvm_iommu_unmap_pages", "__pkvm_vcpu_run", "__pkvm_teardown_vm",
        "__pkvm_device_assign", "__pkvm_pviommu_attach", "__pkvm_pviommu_add_vsid", "__pkvm_pviommu_finalise", "__pkvm_iommu_iova_to_phys",
      ] as const satisfies readonly HypercallName[]);
      scene.op(name, ...HYPERCALLS[name].args.map((arg) => argument(scene, arg)));
    },
  },
  {
    id: "a6",
    title: "top-ups with pages that are not the host's, orders and counts that overflow",
    weight: 5,
    generate: (scene) => {
      const { random } = scene;
      const pool = random.oneIn(4) ? scene.boundary() : random.pick(Object.values(POOL));
      const steps: readonly (() => void)[] = [
        () => {
          scene.op("__pkvm_topup_hyp", pool, scene.pfn(), random.below(TOPUP_MAX_ORDER + 3));
        },
        () => {
          scene.op("__pkvm_topup_hyp", pool, scene.free() / PAGE_SIZE, 0);
          scene.op("__pkvm_hyp_reclaim_pool", pool);
        },
        () => {
          scene.op("__pkvm_vcpu_topup", scene.handle(), random.below(3), scene.pfn(), random.oneIn(3) ? scene.boundary() : random.below(4));
        },
        () => {
          const pfn = scene.pfn();
          scene.op("__pkvm_host_donate_hyp", pfn);
          scene.op("__pkvm_hyp_donate_host", random.oneIn(2) ? pfn : scene.pfn());
        },
        () => {
          scene.op("__pkvm_host_reclaim_page", scene.pfn());
          scene.op("__pkvm_hyp_reclaim_pool", pool);
        },
      ];
      random.pick(steps)();
    },
  },
  {
    id: "a18",
    title: "the SMMU's registers by the CPU, and the stream that firmware left running",
    weight: 5,
    generate: (scene) => {
      const { random } = scene;
      const offset = random.pick(Object.values(OFFSET));
      const page = scene.world.hardware.smmuBase / PAGE_SIZE + random.below(REGISTER_SPACE / PAGE_SIZE);
      const steps: readonly (() => void)[] = [
        () => {
          scene.op("read32", offset);
        },
        () => {
          scene.op("write32", offset, random.next());
        },
        () => {
          scene.op(random.pick(["__pkvm_host_share_hyp", "__pkvm_host_donate_hyp", "__pkvm_hyp_donate_host", "__pkvm_host_reclaim_page"] as const), page);
        },
        () => {
          scene.op("__pkvm_host_donate_guest", scene.handle(), page, scene.ipa(), 0);
        },
        () => {
          scene.op("dma", BOOT_SID, random.oneIn(2) ? scene.free() : scene.taken(), random.below(2), -1);
        },
        () => {
          scene.op("dma", scene.clientSid(), scene.world.hardware.smmuBase + random.below(REGISTER_SPACE / 4) * 4, random.below(2), -1);
        },
        () => {
          scene.op("__pkvm_iommu_set_state", 0, BOOT_SID, 0, random.below(2));
        },
      ];
      random.pick(steps)();
    },
  },
  {
    id: "a19",
    title: "the power of the SMMU switched while it is used",
    weight: 3,
    generate: (scene) => {
      const { random } = scene;
      scene.op("__pkvm_host_hvc_pd", scene.iommu(), random.oneIn(4) ? scene.boundary() : 0);
      const pa = scene.free();
      if (random.oneIn(2)) donateToVm(scene, pa);
      if (random.oneIn(2)) scene.op("__pkvm_iommu_set_state", 0, scene.sid(), 0, random.below(3));
      scene.op("__pkvm_host_hvc_pd", 0, 1);
      scene.op("dma", scene.clientSid(), pa, 1, -1);
    },
  },
  {
    id: "a20",
    title: "calls of boot after boot",
    weight: 2,
    generate: (scene) => {
      const { random } = scene;
      const steps: readonly (() => void)[] = [
        () => {
          scene.op("__pkvm_init", abiHash(), scene.free(), random.below(64));
        },
        () => {
          scene.op("__pkvm_iommu_handoff", scene.free());
        },
        () => {
          scene.op("__pkvm_prot_finalize");
        },
      ];
      random.pick(steps)();
    },
  },
  {
    id: "a21",
    title: "any call with any argument: what makes EL2 panic",
    weight: 12,
    generate: (scene) => {
      if (scene.random.oneIn(5)) rawCall(scene);
      else anyCall(scene);
    },
  },
  {
    id: "a22",
    title: "streams of no device, of another one, or of a VM",
    weight: 5,
    generate: (scene) => {
      const { random } = scene;
      if (random.oneIn(10)) {
        assign(scene);
        return;
      }
      const sid = scene.sid();
      const pa = random.oneIn(3) ? scene.taken() : scene.free();
      if (random.oneIn(3)) scene.op("__pkvm_iommu_set_state", 0, sid, random.oneIn(4) ? scene.pasid() : 0, random.oneIn(2) ? scene.domain() : random.below(2));
      if (random.oneIn(4)) scene.op("__pkvm_device_assign", scene.handle(), 0, sid);
      scene.op("dma", sid, pa + 4 * random.below(1024), random.below(2), random.oneIn(3) ? scene.pasid() : -1);
    },
  },
  {
    id: "a8",
    title: "queues and tables in memory that is not the host's",
    weight: 7,
    generate: (scene) => {
      const { random } = scene;
      const target = random.oneIn(3) ? scene.taken() : Math.max(scene.vmPage(), scene.world.ledger.memory.base);
      const registers = ["EVENTQ_BASE", "PRIQ_BASE", "CMDQ_BASE", "STRTAB_BASE"] as const;
      const steps: readonly (() => void)[] = [
        () => {
          attachEvents(scene, target);
        },
        () => {
          const pa = scene.free();
          scene.op("__pkvm_host_share_hyp", pa / PAGE_SIZE);
          attachEvents(scene, pa);
          scene.op("__pkvm_host_unshare_hyp", pa / PAGE_SIZE);
          donateToVm(scene, pa);
        },
        () => {
          scene.op("write32", OFFSET.CR0, 0);
          scene.op("write64", OFFSET[random.pick(registers)], target | random.below(8), Math.floor(target / 2 ** 32));
          scene.op("write32", OFFSET.CR0, 0b1101);
          scene.op("dma", scene.sid(), scene.taken(), 1, -1);
        },
        () => {
          const pa = scene.free();
          scene.op("write32", OFFSET.CR0, random.oneIn(2) ? 0b1001 : 0);
          scene.op("write64", OFFSET[random.pick(registers)], pa | 7, Math.floor(pa / 2 ** 32));
          scene.op("write32", OFFSET.CR0, 0b1101);
          donateToVm(scene, pa);
          scene.op("dma", 0x123, scene.taken(), 1, -1);
        },
        () => {
          scene.op("pri", scene.clientSid(), scene.free());
        },
        () => {
          const pa = scene.pinned();
          scene.op("__pkvm_host_unshare_hyp", pa / PAGE_SIZE);
          donateToVm(scene, pa);
        },
      ];
      random.pick(steps)();
    },
  },
  {
    id: "a9",
    title: "message-signalled interrupts to memory that is not the host's",
    weight: 4,
    generate: (scene) => {
      const { random } = scene;
      const target = Math.max(scene.vmPage(), scene.world.ledger.memory.base) + random.pick([0, 0x400, 0x800]);
      const register = random.pick(["GERROR_IRQ_CFG0", "EVENTQ_IRQ_CFG0", "PRIQ_IRQ_CFG0"] as const);
      if (random.oneIn(2)) {
        scene.op("write32", OFFSET.IRQ_CTRL, 0);
        scene.op("write64", OFFSET[register], target | 0, Math.floor(target / 2 ** 32));
        scene.op("write32", OFFSET.IRQ_CTRL, 7);
        scene.op("dma", 0x123, scene.taken(), 1, -1);
      } else {
        // CMD_SYNC, CS = IRQ: MSIData in word 1, MSIAddress in words 2 and 3.
        scene.op("command", 0x46 | (1 << 12), random.next() | 0, target | 0, Math.floor(target / 2 ** 32));
      }
    },
  },
  {
    id: "a10",
    title: "translated requests (ATS)",
    weight: 4,
    generate: (scene) => {
      const { random } = scene;
      const sid = random.oneIn(2) ? scene.clientSid() : scene.sid();
      if (random.oneIn(2)) {
        const eats = 1 + random.below(3);
        scene.op("ste", sid, 1 | (random.pick([4, 5]) << 1), 0, (1 << 12) | 0, 0);
        scene.op("ste", sid, 1 | (4 << 1), 0, eats << 28, 1 << 12);
        scene.op("command", 3, sid, 1, 0);
      }
      scene.op("write32", OFFSET.CR0, 0b1101);
      scene.op("ats", sid, random.oneIn(4) ? scene.free() : scene.taken(), random.below(2));
    },
  },
  {
    id: "a7",
    title: "lists and guest requests that EL2 reads from memory of others",
    weight: 3,
    generate: (scene) => {
      const { random } = scene;
      const list = scene.shared();
      const entries = 1 + random.below(3);
      for (let i = 0; i < entries; i++) {
        const at = list + i * 16;
        const pa = scene.page();
        scene.op("store32", at, pa | 0);
        scene.op("store32", at + 4, Math.floor(pa / 2 ** 32));
        scene.op("store32", at + 8, random.oneIn(4) ? scene.boundary() | 0 : PAGE_SIZE);
        scene.op("store32", at + 12, random.oneIn(4) ? scene.boundary() | 0 : 1 + random.below(3));
      }
      scene.op("__pkvm_iommu_map_sg", scene.domain(), scene.iova(), list + (random.oneIn(8) ? random.below(4096) : 0), random.oneIn(6) ? scene.boundary() : entries, 3);
      const call = random.pick(Object.values(GUEST_CALL));
      const handle = scene.vm()?.handle ?? 1;
      if (random.oneIn(3)) {
        const first = call === GUEST_CALL.pviommuOp ? random.pick(Object.values(PVIOMMU_OP)) : scene.ipa();
        scene.op("guest", handle, 0, call, first, random.below(3), scene.sid(), scene.pasid(), scene.ipa(), random.below(64));
        scene.op("__pkvm_vcpu_run", handle, 0);
      }
    },
  },
];
