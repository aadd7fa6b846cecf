import { GUEST_CALL } from "@smmuv3/pkvm-abi";
import { PAGE_SIZE } from "@smmuv3/platform";
import { PAGE } from "../ownership.ts";
import type { Scene } from "../scene.ts";
import type { AttackClass } from "./index.ts";

const VM_TABLE_PAGES = 4;
const MOST_VMS = 3;
const MOST_PAGES = 8;

/** A VM with tables, at an aligned run of the arena where there is one. */
export function createVm(scene: Scene): void {
  scene.op("__pkvm_init_vm", scene.arenaRun(VM_TABLE_PAGES), VM_TABLE_PAGES, 1 + scene.random.below(2));
}

/** A page to a VM, and the vCPU uses it. */
export function donateToVm(scene: Scene, pa: number = scene.free()): void {
  const handle = scene.vm()?.handle ?? 1;
  scene.op("__pkvm_host_donate_guest", handle, pa / PAGE_SIZE, scene.ipa(), 0);
  scene.op("__pkvm_vcpu_run", handle, 0);
}

/** Ends a VM and takes some of its pages back. */
export function endVm(scene: Scene): void {
  const handle = scene.vm()?.handle ?? 1;
  scene.op("__pkvm_teardown_vm", handle);
  reclaim(scene);
}

/** Takes back what waits for the host. */
export function reclaim(scene: Scene): void {
  const { ledger } = scene.world;
  for (let page = 0, left = 16; page < ledger.flags.length && left > 0; page++) {
    if ((ledger.flags[page]! & PAGE.reclaim) === 0) continue;
    left--;
    scene.op("__pkvm_host_reclaim_page", ledger.address(page) / PAGE_SIZE);
  }
}

const STEPS: readonly ((scene: Scene) => void)[] = [
  (scene) => {
    const { vms } = scene.world.ledger;
    const alive = [...vms.values()].filter((vm) => vm.alive).length;
    if (alive < MOST_VMS) createVm(scene);
    else endVm(scene);
  },
  (scene) => {
    const pages = scene.vm()?.pages.size ?? 0;
    if (pages < MOST_PAGES) donateToVm(scene);
    else endVm(scene);
  },
  (scene) => {
    donateToVm(scene);
  },
  (scene) => {
    scene.op("__pkvm_vcpu_run", scene.handle(), scene.random.below(2));
  },
  reclaim,
  lend,
  (scene) => {
    scene.op("__pkvm_iommu_set_state", 0, scene.clientSid(), 0, scene.random.below(2));
  },
  (scene) => {
    scene.op("dma", scene.clientSid(), scene.free(), scene.random.below(2), -1);
  },
  (scene) => {
    const pa = scene.free();
    scene.op("store32", pa, scene.random.next() | 0);
    scene.op("dma", scene.clientSid(), pa, 1, -1);
  },
  (scene) => {
    scene.op("__pkvm_host_share_hyp", scene.free() / PAGE_SIZE);
    scene.op("__pkvm_host_unshare_hyp", scene.shared() / PAGE_SIZE);
  },
  (scene) => {
    const pa = scene.free();
    scene.op("dma", scene.clientSid(), pa, 1, -1);
    donateToVm(scene, pa);
    scene.op("dma", scene.clientSid(), pa, scene.random.below(2), -1);
  },
];

/** The guest lets the host use one of its pages, a device does, and the guest takes it back. */
function lend(scene: Scene): void {
  const vm = scene.vm();
  const pages = [...(vm?.pages ?? [])];
  if (vm === undefined || pages.length === 0) return;
  const [page, ipa] = scene.random.pick(pages);
  const pa = scene.world.ledger.address(page);
  for (const call of [GUEST_CALL.memShare, GUEST_CALL.memUnshare]) {
    scene.op("guest", vm.handle, 0, call, ipa);
    scene.op("__pkvm_vcpu_run", vm.handle, 0);
    scene.op("dma", scene.clientSid(), pa, scene.random.below(2), -1);
    scene.op("load32", pa);
  }
}

/** VMs that come and go, pages that move, devices that work: what the attacks need to hit something. */
export const TRAFFIC: AttackClass = {
  id: "traffic",
  title: "VMs, donations and DMA as a host makes them",
  weight: 24,
  generate: (scene) => {
    scene.random.pick(STEPS)(scene);
  },
};
