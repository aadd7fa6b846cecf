import { ABI_PROT, IOMMU_DOMAIN_TYPE, POOL } from "@smmuv3/pkvm-abi";
import { PAGE_SIZE } from "@smmuv3/platform";
import type { Scene } from "../scene.ts";
import { donateToVm } from "./traffic.ts";
import type { AttackClass } from "./index.ts";

const RW = ABI_PROT.read | ABI_PROT.write;

/** A domain that a client uses, and the host gives EL2 the memory for it. */
function domain(scene: Scene): number {
  const { random } = scene;
  const { ledger } = scene.world;
  const ids = [...ledger.domains.keys()];
  if (ids.length > 0 && !random.oneIn(4)) {
    const id = random.pick(ids);
    if (random.oneIn(2)) scene.op("__pkvm_iommu_set_state", 0, scene.clientSid(), random.oneIn(4) ? scene.pasid() : 0, id);
    return id;
  }
  const id = scene.newDomain();
  scene.op("__pkvm_iommu_alloc_domain", 0, id, random.pick(Object.values(IOMMU_DOMAIN_TYPE)));
  scene.op("__pkvm_iommu_set_state", 0, scene.clientSid(), 0, id);
  return id;
}

/** Permissions that are none, too many, or not for memory. */
const ODD_PROT: readonly number[] = [0, 1, 2, 16 | RW, 63, 64 | RW, 2 ** 31, 2 ** 32 + RW];
const ODD = 12;

function map(scene: Scene, id: number, iova: number, pa: number, count: number = 1): void {
  const prot = scene.random.oneIn(ODD) ? scene.random.pick(ODD_PROT) : RW;
  scene.op("__pkvm_iommu_map_pages", id, iova, pa, PAGE_SIZE, count, prot);
}

function use(scene: Scene, iova: number): void {
  scene.op("dma", scene.clientSid(), iova, scene.random.below(2), -1);
}

/** Attacks on paravirtual paging. Where there is none, they are refused. */
export const PAGING_CLASSES: readonly AttackClass[] = [
  {
    id: "a1",
    title: "maps and unmaps that overlap: tables against leaves",
    weight: 6,
    generate: (scene) => {
      const { random } = scene;
      const id = domain(scene);
      const iova = scene.iova();
      map(scene, id, iova, scene.arenaRun(2), 1 + random.below(3));
      if (random.oneIn(2)) scene.op("__pkvm_iommu_map_pages", id, iova - (iova % 0x20_0000), scene.world.ledger.memory.base, 0x20_0000, 1, RW);
      use(scene, iova);
      scene.op("__pkvm_iommu_unmap_pages", id, iova, random.pick([PAGE_SIZE, PAGE_SIZE, 0x20_0000]), 1 + random.below(4));
      use(scene, iova);
    },
  },
  {
    id: "a2",
    title: "a page mapped for DMA is given away",
    weight: 6,
    generate: (scene) => {
      const { random } = scene;
      const id = domain(scene);
      const iova = scene.iova();
      const pa = scene.free();
      map(scene, id, iova, pa);
      use(scene, iova);
      if (random.oneIn(3)) scene.op("__pkvm_iommu_unmap_pages", id, iova, PAGE_SIZE, 1);
      if (random.oneIn(2)) donateToVm(scene, pa);
      else scene.op(random.pick(["__pkvm_host_donate_hyp", "__pkvm_host_share_hyp"] as const), pa / PAGE_SIZE);
      use(scene, iova);
      const old = scene.mapping();
      if (old !== undefined) scene.op("__pkvm_iommu_unmap_pages", old.domain, old.iova, PAGE_SIZE, 1);
    },
  },
  {
    id: "a3",
    title: "mapped twice, unmapped once, given away",
    weight: 4,
    generate: (scene) => {
      const id = domain(scene);
      const iova = scene.iova();
      const pa = scene.free();
      map(scene, id, iova, pa);
      map(scene, id, iova + PAGE_SIZE * 3, pa);
      use(scene, iova + PAGE_SIZE * 3);
      scene.op("__pkvm_iommu_unmap_pages", id, iova, PAGE_SIZE, 1);
      donateToVm(scene, pa);
      use(scene, iova + PAGE_SIZE * 3);
      scene.op("__pkvm_iommu_unmap_pages", id, iova + PAGE_SIZE * 3, PAGE_SIZE, 1);
    },
  },
  {
    id: "a4",
    title: "maps that are done in part; the rest is given away",
    weight: 4,
    generate: (scene) => {
      const { random } = scene;
      const id = domain(scene);
      const count = random.pick([2, 2, 4]);
      // Half of it is in the next table.
      const iova = scene.iova() + (random.oneIn(2) ? 0x20_0000 - (count / 2) * PAGE_SIZE : 0);
      const pa = scene.freeBlock(count);
      // What is mapped already, or not the host's, stops it on the way.
      if (random.oneIn(2)) map(scene, id, iova + PAGE_SIZE * (1 + random.below(count - 1)), scene.free());
      if (random.oneIn(4)) donateToVm(scene, pa + PAGE_SIZE);
      map(scene, id, iova, pa, count);
      donateToVm(scene, random.oneIn(2) ? pa : pa + (count - 1) * PAGE_SIZE);
      use(scene, iova);
      use(scene, iova + (count - 1) * PAGE_SIZE);
      scene.op("__pkvm_iommu_unmap_pages", id, iova, PAGE_SIZE, count);
    },
  },
  {
    id: "a16",
    title: "EL2's memory exhausted, and not given back",
    weight: 4,
    generate: (scene) => {
      const { random } = scene;
      const steps: readonly (() => void)[] = [
        () => {
          // Every level-1 span costs a table.
          const first = random.below(0x100);
          for (let i = 0; i < 4; i++) scene.op("__pkvm_iommu_set_state", 0, ((first + i) << 8) % 0x1_0000, 0, 1);
        },
        () => {
          const id = domain(scene);
          for (let i = 0; i < 4; i++) map(scene, id, random.below(0x1000) * 0x20_0000, scene.free());
        },
        () => {
          scene.op("__pkvm_iommu_alloc_domain", 0, 2 + random.below(60), random.pick(Object.values(IOMMU_DOMAIN_TYPE)));
        },
        () => {
          scene.op("__pkvm_iommu_free_domain", scene.domain());
          scene.op("__pkvm_hyp_reclaim_pool", POOL.iommu);
        },
        () => {
          scene.op("__pkvm_topup_hyp", random.pick([POOL.iommu, POOL.hyp]), scene.free() / PAGE_SIZE, 0);
        },
        () => {
          const sid = random.below(0x100) << 8;
          scene.op("ste", sid, 1 | (4 << 1), 0, 0, 1 << 12);
          scene.op("command", 3, sid, 1, 0);
        },
      ];
      random.pick(steps)();
    },
  },
];
