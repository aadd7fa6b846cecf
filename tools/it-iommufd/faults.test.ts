// Page requests and dirty pages of virtual machines.
import { ERRNO, TRANSLATION } from "@smmuv3/platform";
import { HWPT_FLAG, PAGE_RESPONSE_CODE } from "@smmuv3/iommufd";
import { expect } from "vitest";
import { GUEST_VA, GuestTables, IPA, MAP, PAGE, RW, stage2 } from "./fixture.ts";
import { row } from "./rows.ts";

const { ok, abort, stalled } = TRANSLATION;
const IOVA = 0x12_3456_7000;
const BUFFER: number = IPA + (20 << 20);
const VSID = 0x21;

row("a nested page table with a fault queue: the stalled transaction waits for the machine's answer", (make) => {
  const host = make({ clients: [{ sids: [8], properties: { "dma-can-stall": true } }] });
  const { dev, viommu } = stage2(host);
  host.make("VDEVICE_ALLOC", { viommu_id: viommu, dev_id: dev, virt_id: VSID }, "out_vdevice_id");
  const guest = new GuestTables(host, 5, true);
  const queue = host.fd.call("FAULT_QUEUE_ALLOC");
  const file = host.fd.file(queue.out_fault_fd)!;
  const data = { data_type: 2, data_len: 16, data_uptr: host.words(guest.vste()) };
  const flags = { flags: HWPT_FLAG.faultIdValid, fault_id: queue.out_fault_id };
  const hwpt = host.make("HWPT_ALLOC", { dev_id: dev, pt_id: viommu, ...data, ...flags }, "out_hwpt_id");
  expect(host.fd.attach(dev, hwpt)).toBe(hwpt);
  const outcomes: number[] = [];
  host.smmu.onResume = (_, outcome) => outcomes.push(outcome);
  const ask = (iova: number): Int32Array => {
    expect(host.write(8, iova, 1)).toBe(stalled);
    host.settle();
    const bytes = file.read(40) as Uint8Array;
    return new Int32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4);
  };
  const answer = (cookie: number, code: number): void => {
    file.write(new Uint8Array(Int32Array.of(cookie, code).buffer));
  };
  const request = ask(IOVA + 8);
  expect([request[1], request[4], request[6], request[7]]).toEqual([dev, 2, (IOVA + 8) | 0, 0x12]);
  guest.pgtable.mapPages(IOVA, BUFFER, PAGE, 1, RW);
  answer(request[9]!, PAGE_RESPONSE_CODE.success);
  expect(outcomes).toEqual([ok]);
  expect(host.write(8, IOVA + 8, 0x77)).toBe(ok);
  expect(host.machine.memory.load32(guest.pa(BUFFER) + 8)).toBe(0x77);
  answer(ask(IOVA + PAGE)[9]!, PAGE_RESPONSE_CODE.invalid);
  // What nobody has answered ends with the attachment.
  ask(IOVA + 2 * PAGE);
  expect(host.fd.detach(dev)).toBe(0);
  expect([outcomes, host.smmu.stalled]).toEqual([[ok, abort, abort], []]);
  expect(host.iommu.faults.count).toBe(0);
});

row("dirty pages of a machine whose device has the memory as it is", (make) => {
  const host = make();
  const dev = host.bind(0);
  const ioas = host.make("IOAS_ALLOC", {}, "out_ioas_id");
  host.make("IOAS_MAP", { ioas_id: ioas, flags: MAP, iova: IPA, user_va: GUEST_VA, length: 32 * PAGE }, "iova");
  const hwpt = host.make("HWPT_ALLOC", { dev_id: dev, pt_id: ioas, flags: HWPT_FLAG.dirtyTracking }, "out_hwpt_id");
  expect(host.fd.attach(dev, hwpt)).toBe(hwpt);
  expect(host.fd.call("HWPT_SET_DIRTY_TRACKING", { hwpt_id: hwpt, flags: 1 }).status).toBe(0);
  const read = (flags: number = 0): readonly [number, number] => {
    const data = host.words([0]);
    const call = { hwpt_id: hwpt, iova: IPA, length: 32 * PAGE, page_size: PAGE, data, flags };
    return [host.fd.call("HWPT_GET_DIRTY_BITMAP", call).status, host.result(1)[0]!];
  };
  expect(read()).toEqual([0, 0]);
  for (const page of [3, 17]) expect(host.write(8, IPA + page * PAGE, 1)).toBe(ok);
  expect(read(1)).toEqual([0, (1 << 3) | (1 << 17)]);
  expect(read()).toEqual([0, (1 << 3) | (1 << 17)]);
  expect(read()).toEqual([0, 0]);
  expect(host.write(8, IPA + 3 * PAGE, 2)).toBe(ok);
  expect(read()).toEqual([0, 1 << 3]);
  const beyond = { hwpt_id: hwpt, iova: IPA + 64 * PAGE, length: 32 * PAGE, page_size: PAGE, data: host.words([0]) };
  expect(host.fd.call("HWPT_GET_DIRTY_BITMAP", beyond).status).toBe(-ERRNO.EINVAL);
});
