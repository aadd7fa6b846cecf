// Interfaces of Tegra241's CMDQV for virtual machines, on the model of the block.
import { ERRNO, TRANSLATION } from "@smmuv3/platform";
import type { FirmwareNode, RegisterWindow } from "@smmuv3/platform";
import { HW_INFO_TEGRA241, HW_QUEUE_TEGRA241, VEVENTQ_TEGRA241, VIOMMU_TEGRA241 } from "@smmuv3/arm-smmu-v3";
import { atcInv, sync, tlbiNhAll, tlbiNhAsid } from "@smmuv3/arm-smmu-v3-common";
import { CMD_WORDS, SYNC_CS } from "@smmuv3/smmu-v3-defs";
import { Tegra241Cmdqv } from "@smmuv3/smmu-v3-model";
import { expect } from "vitest";
import { GuestTables, IPA, nested, PAGE, RW } from "./fixture.ts";
import type { Host } from "./fixture.ts";
import { row } from "./rows.ts";
import type { MakeHost } from "./rows.ts";
import { Core } from "./vmm.ts";

const { ok, abort } = TRANSLATION;
const { EBUSY, EEXIST, EINVAL, EIO, ENOENT, ENOSPC, EOPNOTSUPP } = ERRNO;
const BASE = 0xa00_0000;
const BYTES = 0x10_0000;
const IRQ = 90;
const IOVA = 0x12_3456_7000;
const BUFFER: number = IPA + (20 << 20);
const RING: number = IPA + (16 << 20);
const VSID = 0x21;
const PAGE_64K = 0x1_0000;
const [CONS, PROD, CONFIG, STATUS, GERROR] = [0, 4, 8, 0xc, 0x10];

const node: FirmwareNode = {
  name: "cmdqv", compatible: ["nvidia,tegra264-cmdqv"], reg: [{ base: BASE, size: BYTES }], interrupts: { cmdqv: IRQ }, iommus: [],
  properties: { phandle: 7 },
};

function hostOf(make: MakeHost): Host {
  return make({
    node: { properties: { "nvidia,cmdqv": 7 } },
    nodes: [node],
    clients: [{ sids: [8] }, { sids: [9, 10] }],
    before(machine, smmu) {
      machine.addDevice("cmdqv", BASE, BYTES, new Tegra241Cmdqv(smmu, { vintfs: 2, vcmdqs: 8, irq: machine.line(IRQ) }));
    },
  });
}

interface Ids {
  readonly host: Host;
  readonly dev: number;
  readonly core: Core;
  readonly parent: number;
  readonly viommu: number;
  readonly mmap: { readonly offset: number; readonly length: number };
}

function setup(make: MakeHost): Ids {
  const host = hostOf(make);
  const core = new Core(host);
  const dev = host.bind(0);
  const parent = core.newStage2(dev);
  const data = { data_len: 16, data_uptr: host.words([0, 0, 0, 0]) };
  const viommu = host.make("VIOMMU_ALLOC", { type: VIOMMU_TEGRA241, dev_id: dev, hwpt_id: parent, ...data }, "out_viommu_id");
  const [offset, , length] = host.result(4);
  return { host, dev, core, parent, viommu, mmap: { offset: offset!, length: length! } };
}

row("N1 hw_info of the block", (make) => {
  const host = hostOf(make);
  const call = { dev_id: host.bind(0), flags: 1, data_type: HW_INFO_TEGRA241, data_len: 8, data_uptr: host.words([-1, -1]) };
  const info = host.fd.call("GET_HW_INFO", call);
  expect([info.status, info.data_type, info.data_len]).toEqual([0, HW_INFO_TEGRA241, 8]);
  // Version 1, four queues and 16 StreamIDs each.
  expect([...host.result(2)]).toEqual([0, 1 | (2 << 8) | (4 << 16)]);
});

row("T5 user VINTF: data, one machine each, mmap of 64K", (make) => {
  const { host, dev, parent, viommu, mmap } = setup(make);
  expect(mmap.length).toBe(PAGE_64K);
  const again = { type: VIOMMU_TEGRA241, dev_id: dev, hwpt_id: parent };
  expect(host.fd.call("VIOMMU_ALLOC", again).status).toBe(-EINVAL);
  const data = { data_len: 16, data_uptr: host.words([0, 0, 0, 0]) };
  expect(host.fd.call("VIOMMU_ALLOC", { ...again, data_len: 8, data_uptr: data.data_uptr }).status).toBe(-EINVAL);
  expect(host.fd.call("VIOMMU_ALLOC", { ...again, ...data }).status).toBe(-ENOSPC);
  expect(host.fd.mmap(mmap.offset, PAGE)).toBe(-EINVAL);
  expect(host.fd.mmap(mmap.offset, PAGE_64K)).toBe(BASE + 0x5_0000);
  expect(host.fd.call("DESTROY", { id: viommu }).status).toBe(-EBUSY);
  host.fd.munmap(mmap.offset);
  expect(host.fd.call("DESTROY", { id: viommu }).status).toBe(0);
  // Free again.
  expect(host.fd.call("VIOMMU_ALLOC", { ...again, ...data }).status).toBe(0);
});

row("T5 vdevices: 20 bits, one stream; numbers are replaced while they exist", (make) => {
  const { host, dev, viommu } = setup(make);
  const alloc = (virt_id: number): number => host.fd.call("VDEVICE_ALLOC", { viommu_id: viommu, dev_id: dev, virt_id }).status;
  expect(alloc(2 ** 20)).toBe(-EINVAL);
  const match = (slot: number): number[] => [0x1140, 0x1180].map((at) => host.machine.host.ioremap(BASE, BYTES).read32(at + slot * 4));
  expect(alloc(VSID)).toBe(0);
  expect(match(0)).toEqual([(VSID << 1) | 1, 8]);
  expect(alloc(5)).toBe(-EEXIST);
  expect(host.fd.call("VDEVICE_ALLOC", { viommu_id: viommu, dev_id: host.bind(1), virt_id: 6 }).status).toBe(-EOPNOTSUPP);
  expect(host.fd.unbind(dev)).toBe(0);
  expect(match(0)).toEqual([0, 0]);
});

row("T5 hardware queues: index, order, size, alignment; descending destroy", (make) => {
  const { host, core, viommu } = setup(make);
  const alloc = (index: number, length: number = PAGE, at: number = RING, type: number = HW_QUEUE_TEGRA241): number => {
    const call = { viommu_id: viommu, type, index, nesting_parent_iova: at, length };
    const { status, out_hw_queue_id } = host.fd.call("HW_QUEUE_ALLOC", call);
    return status < 0 ? status : out_hw_queue_id;
  };
  expect([alloc(0, PAGE, RING, 2), alloc(4), alloc(1), alloc(0, 16), alloc(0, 48)]).toEqual([-EOPNOTSUPP, -EINVAL, -EIO, -EINVAL, -EINVAL]);
  expect([alloc(0, 2 * PAGE, RING + PAGE), alloc(0, 16 << 20, RING), alloc(0, PAGE, IPA - PAGE)]).toEqual([-EINVAL, -EINVAL, -ENOENT]);
  const ids = [0, 1, 2, 3].map((index) => alloc(index, 2 * PAGE, RING + index * 2 * PAGE));
  expect(ids.every((id) => id > 0)).toBe(true);
  expect(alloc(2)).toBe(-EEXIST);
  const destroy = (id: number): number => host.fd.call("DESTROY", { id }).status;
  expect(host.fd.call("IOAS_UNMAP", { ioas_id: core.ioas, length: 2 ** 64 }).status).toBe(-EBUSY);
  expect(ids.slice(0, 3).map(destroy)).toEqual([-EBUSY, -EBUSY, -EBUSY]);
  expect(destroy(viommu)).toBe(-EBUSY);
  expect(ids.toReversed().map(destroy)).toEqual([0, 0, 0, 0]);
  expect([destroy(viommu), host.fd.call("IOAS_UNMAP", { ioas_id: core.ioas, length: 2 ** 64 }).status]).toEqual([0, 0]);
});

row("T4, T5 a guest's queue works without the host; its error is the guest's event", (make) => {
  const { host, dev, viommu, mmap } = setup(make);
  host.make("VDEVICE_ALLOC", { viommu_id: viommu, dev_id: dev, virt_id: VSID }, "out_vdevice_id");
  const guest = new GuestTables(host);
  guest.pgtable.mapPages(IOVA, BUFFER, PAGE, 1, RW);
  host.fd.attach(dev, nested(host, dev, viommu, guest.vste()));
  const queue = { viommu_id: viommu, type: HW_QUEUE_TEGRA241, index: 0, nesting_parent_iova: RING, length: PAGE };
  expect(host.fd.call("HW_QUEUE_ALLOC", queue).status).toBe(0);
  const events = host.fd.call("VEVENTQ_ALLOC", { viommu_id: viommu, type: VEVENTQ_TEGRA241, veventq_depth: 4 });
  const file = host.fd.file(events.out_veventq_fd)!;

  const registers: RegisterWindow = host.machine.host.ioremap(host.fd.mmap(mmap.offset, PAGE_64K), PAGE_64K);
  registers.write32(CONFIG, 1);
  expect(registers.read32(STATUS)).toBe(1);
  let prod = 0;
  const issue = (...make: ((out: Int32Array) => void)[]): void => {
    for (const each of make) {
      const words = new Int32Array(CMD_WORDS);
      each(words);
      guest.memory.write(RING + (prod & 255) * 16, words);
      prod++;
    }
    registers.write32(PROD, prod);
  };
  const done = (out: Int32Array): void => {
    sync(out, 0, SYNC_CS.none);
  };
  expect(host.write(8, IOVA, 1)).toBe(ok);
  guest.pgtable.unmapPages(IOVA, PAGE, 1, null);
  const commands = host.trace(() => {
    // A VMID of its own making does not matter.
    issue((out) => {
      tlbiNhAsid(out, 0, 0x55, guest.asid);
    }, done);
  });
  expect([registers.read32(CONS), commands]).toEqual([2, []]);
  expect(host.write(8, IOVA, 2)).toBe(abort);
  // Neither a command that is not a guest's, nor a device that it does not have.
  for (const bad of [(out: Int32Array) => { tlbiNhAll(out, 0, 1); }, (out: Int32Array) => { atcInv(out, 0, 8, 0, 0, 0); }]) {
    issue(bad, done);
    host.settle();
    const bytes = file.read(1024) as Uint8Array;
    const words = new Int32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4);
    expect([...words.slice(2)]).toEqual([1, 0, 0, 0]);
    expect([(registers.read32(CONS) >>> 24) & 0x7f, registers.read32(GERROR) & 1]).toEqual([1, (registers.read32(0x14) & 1) ^ 1]);
    // It is not told again before it has acknowledged: a guest cannot keep the host busy.
    host.settle();
    expect(file.readable).toBe(false);
    guest.memory.write(RING + ((prod - 2) & 255) * 16, Int32Array.of(0x46, 0, 0, 0));
    registers.write32(0x14, registers.read32(GERROR));
    registers.write32(PROD, prod);
    expect(registers.read32(CONS) & 0xfffff).toBe(prod);
  }
  expect(host.kernel.log.lines("err").filter((line) => line.includes("CMDQ"))).toEqual([]);
});
