// Every error of every request.
import { describe, expect, test } from "vitest";
import { encodeRequest, HWPT_FLAG, REQUESTS, requestBytes, UAPI_ERRNO } from "../src/index.ts";
import type { RequestName } from "../src/index.ts";
import { PAGE, QUEUE_TYPE, Rig, USER, VIOMMU_TYPE } from "./rig.ts";

const E = UAPI_ERRNO;
const NAMES = Object.keys(REQUESTS) as RequestName[];
const MAP = 7;
const HUGE = 2 ** 64;

describe("structures", () => {
  test("sizes of the ABI", () => {
    const sizes = Object.fromEntries(NAMES.map((name) => [name, requestBytes(name)]));
    expect(sizes).toEqual({
      DESTROY: 8, IOAS_ALLOC: 12, IOAS_ALLOW_IOVAS: 24, IOAS_COPY: 40, IOAS_IOVA_RANGES: 32, IOAS_MAP: 40, IOAS_UNMAP: 24,
      HWPT_ALLOC: 48, GET_HW_INFO: 40, HWPT_SET_DIRTY_TRACKING: 16, HWPT_GET_DIRTY_BITMAP: 48, HWPT_INVALIDATE: 32,
      FAULT_QUEUE_ALLOC: 16, VIOMMU_ALLOC: 40, VDEVICE_ALLOC: 24, VEVENTQ_ALLOC: 32, HW_QUEUE_ALLOC: 40,
    });
  });

  test("an ioctl that is not known: -ENOTTY", () => {
    expect(new Rig().fd.ioctl(0x7f, new Uint8Array(64))).toBe(-E.ENOTTY);
  });

  test.each(NAMES)("%s: short -EINVAL, long -E2BIG unless zero, not there -EFAULT", (name) => {
    const { fd } = new Rig();
    const { nr } = REQUESTS[name];
    const short = encodeRequest(name, {});
    new DataView(short.buffer).setUint32(0, 4, true);
    expect(fd.ioctl(nr, short)).toBe(-E.EINVAL);
    const long = new Uint8Array(requestBytes(name) + 8);
    long.set(encodeRequest(name, {}));
    new DataView(long.buffer).setUint32(0, long.length, true);
    const zero = fd.ioctl(nr, long.slice());
    long[long.length - 1] = 1;
    expect(fd.ioctl(nr, long)).toBe(-E.E2BIG);
    expect([-E.E2BIG, -E.EFAULT]).not.toContain(zero);
    expect(fd.ioctl(nr, long.slice(0, 8 + (long.length % 2)))).toBe(long.length > 9 ? -E.EFAULT : zero);
    expect(fd.ioctl(nr, new Uint8Array(2))).toBe(-E.EFAULT);
  });

  test("results are stored in the structure", () => {
    const { fd } = new Rig();
    const structure = encodeRequest("IOAS_ALLOC", {});
    expect(fd.ioctl(REQUESTS.IOAS_ALLOC.nr, structure)).toBe(0);
    expect(new DataView(structure.buffer).getUint32(8, true)).toBe(1);
  });
});

type Row = readonly [what: string, name: RequestName, args: Readonly<Record<string, number>>, status: number];

/** Ids: 1 device, 2 address space, 3 nest parent, 4 vIOMMU, 5 vdevice (number 8), 6 device behind another IOMMU, 7 fault queue. */
function rig(): Rig {
  const made = new Rig();
  const { dev, viommu } = made.viommu();
  made.make("VDEVICE_ALLOC", { viommu_id: viommu, dev_id: dev, virt_id: 8 }, "out_vdevice_id");
  made.bind(2);
  made.make("FAULT_QUEUE_ALLOC", {}, "out_fault_id");
  made.make("IOAS_MAP", { ioas_id: 2, flags: MAP, iova: 0x10_0000, user_va: USER, length: 16 * PAGE }, "iova");
  made.make("IOAS_MAP", { ioas_id: 2, flags: MAP, iova: 0x20_0000, user_va: USER + (8 << 20), length: 2 * PAGE }, "iova");
  return made;
}
const map = { ioas_id: 2, flags: MAP, iova: 0x100_0000, user_va: USER, length: PAGE };
const nested = { dev_id: 1, pt_id: 4, data_type: 2, data_len: 8, data_uptr: USER };
const invalidate = { hwpt_id: 4, data_type: 1, entry_len: 8, entry_num: 2, data_uptr: USER };
const viommu = { type: VIOMMU_TYPE, dev_id: 1, hwpt_id: 3 };
const queue = { viommu_id: 4, type: QUEUE_TYPE, index: 0, nesting_parent_iova: 0x10_0000, length: PAGE };
const dirty = { hwpt_id: 3, iova: 0, length: 16 * PAGE, page_size: PAGE, data: USER };

const ROWS: readonly Row[] = [
  ["no such object", "DESTROY", { id: 99 }, -E.ENOENT],
  ["a device", "DESTROY", { id: 1 }, -E.EBUSY],
  ["an address space with page tables", "DESTROY", { id: 2 }, -E.EBUSY],
  ["a page table with a vIOMMU", "DESTROY", { id: 3 }, -E.EBUSY],
  ["a vIOMMU with a vdevice", "DESTROY", { id: 4 }, -E.EBUSY],
  ["a fault queue with its file open", "DESTROY", { id: 7 }, -E.EBUSY],
  ["flags", "IOAS_ALLOC", { flags: 1 }, -E.EOPNOTSUPP],
  ["flags", "IOAS_MAP", { ...map, flags: 15 }, -E.EOPNOTSUPP],
  ["reserved", "IOAS_MAP", { ...map, reserved: 1 }, -E.EOPNOTSUPP],
  ["no rights", "IOAS_MAP", { ...map, flags: 1 }, -E.EINVAL],
  ["no such space", "IOAS_MAP", { ...map, ioas_id: 3 }, -E.ENOENT],
  ["length 0", "IOAS_MAP", { ...map, length: 0 }, -E.EINVAL],
  ["length not whole pages", "IOAS_MAP", { ...map, length: 100 }, -E.EINVAL],
  ["IOVA not aligned", "IOAS_MAP", { ...map, iova: 0x100_0800 }, -E.EINVAL],
  ["overflow of the IOVA", "IOAS_MAP", { ...map, iova: HUGE }, -E.EOVERFLOW],
  ["overflow of the length", "IOAS_MAP", { ...map, length: HUGE }, -E.EOVERFLOW],
  ["something is there", "IOAS_MAP", { ...map, iova: 0x10_1000 }, -E.EEXIST],
  ["above the aperture", "IOAS_MAP", { ...map, iova: 2 ** 40 }, -E.EINVAL],
  ["no such memory", "IOAS_MAP", { ...map, user_va: 0x1000 }, -E.EFAULT],
  ["memory that cannot be written", "IOAS_MAP", { ...map, user_va: USER + (16 << 20) }, -E.EFAULT],
  ["memory that is only read", "IOAS_MAP", { ...map, flags: 5, user_va: USER + (16 << 20) }, 0],
  ["no room", "IOAS_MAP", { ...map, flags: 6, length: 2 ** 41 }, -E.ENOSPC],
  ["nothing there", "IOAS_UNMAP", { ioas_id: 2, iova: 0x80_0000, length: PAGE }, -E.ENOENT],
  ["part of a mapping", "IOAS_UNMAP", { ioas_id: 2, iova: 0x10_0000, length: PAGE }, -E.ENOENT],
  ["length 0", "IOAS_UNMAP", { ioas_id: 2, iova: 0x10_0000 }, -E.EINVAL],
  ["overflow", "IOAS_UNMAP", { ioas_id: 2, iova: HUGE, length: PAGE }, -E.EOVERFLOW],
  ["no such space", "IOAS_UNMAP", { ioas_id: 1, iova: 0, length: PAGE }, -E.ENOENT],
  ["no such space", "IOAS_COPY", { flags: MAP, src_ioas_id: 2, dst_ioas_id: 99, length: PAGE }, -E.ENOENT],
  ["a hole", "IOAS_COPY", { flags: MAP, src_ioas_id: 2, dst_ioas_id: 2, src_iova: 0, length: PAGE }, -E.ENOENT],
  ["flags", "IOAS_COPY", { flags: 8 }, -E.EOPNOTSUPP],
  ["overflow", "IOAS_COPY", { flags: MAP, src_ioas_id: 2, dst_ioas_id: 2, length: HUGE }, -E.EOVERFLOW],
  ["over itself", "IOAS_COPY", { flags: MAP, src_ioas_id: 2, dst_ioas_id: 2, src_iova: 0x10_0000, dst_iova: 0x10_0000, length: PAGE }, -E.EEXIST],
  ["no room for the answer", "IOAS_IOVA_RANGES", { ioas_id: 2 }, -E.EMSGSIZE],
  ["no such space", "IOAS_IOVA_RANGES", { ioas_id: 9 }, -E.ENOENT],
  ["reserved", "IOAS_IOVA_RANGES", { ioas_id: 2, reserved: 1 }, -E.EOPNOTSUPP],
  ["reserved", "IOAS_ALLOW_IOVAS", { ioas_id: 2, reserved: 1 }, -E.EOPNOTSUPP],
  ["no such space", "IOAS_ALLOW_IOVAS", { ioas_id: 9 }, -E.ENOENT],
  ["flags", "HWPT_ALLOC", { dev_id: 1, pt_id: 2, flags: 16 }, -E.EOPNOTSUPP],
  ["reserved", "HWPT_ALLOC", { dev_id: 1, pt_id: 2, reserved: 1 }, -E.EOPNOTSUPP],
  ["data without a type", "HWPT_ALLOC", { dev_id: 1, pt_id: 2, data_len: 8 }, -E.EINVAL],
  ["a type without data", "HWPT_ALLOC", { dev_id: 1, pt_id: 2, data_type: 2 }, -E.EINVAL],
  ["data for a paging one", "HWPT_ALLOC", { ...nested, pt_id: 2 }, -E.EOPNOTSUPP],
  ["no such device", "HWPT_ALLOC", { dev_id: 9, pt_id: 2 }, -E.ENOENT],
  ["no such parent", "HWPT_ALLOC", { dev_id: 1, pt_id: 99 }, -E.ENOENT],
  ["a parent of another kind", "HWPT_ALLOC", { dev_id: 1, pt_id: 1 }, -E.EINVAL],
  ["nested without a vIOMMU", "HWPT_ALLOC", { ...nested, pt_id: 3 }, -E.EOPNOTSUPP],
  ["no such fault queue", "HWPT_ALLOC", { dev_id: 1, pt_id: 2, flags: HWPT_FLAG.faultIdValid, fault_id: 2 }, -E.ENOENT],
  ["a nest parent with faults", "HWPT_ALLOC", { dev_id: 1, pt_id: 2, flags: 5, fault_id: 7 }, -E.EOPNOTSUPP],
  ["nested", "HWPT_ALLOC", nested, 0],
  ["nested with faults", "HWPT_ALLOC", { ...nested, flags: 4, fault_id: 7 }, 0],
  ["nested with flags", "HWPT_ALLOC", { ...nested, flags: 1 }, -E.EOPNOTSUPP],
  ["nested without data", "HWPT_ALLOC", { ...nested, data_type: 0, data_len: 0, data_uptr: 0 }, -E.EOPNOTSUPP],
  ["nested for another IOMMU", "HWPT_ALLOC", { ...nested, dev_id: 6 }, -E.EINVAL],
  ["nested data of another type", "HWPT_ALLOC", { ...nested, data_type: 3 }, -E.EINVAL],
  ["nested data that is short", "HWPT_ALLOC", { ...nested, data_len: 4 }, -E.EINVAL],
  ["nested data that is not there", "HWPT_ALLOC", { ...nested, data_uptr: 0 }, -E.EFAULT],
  ["flags", "GET_HW_INFO", { dev_id: 1, flags: 2 }, -E.EOPNOTSUPP],
  ["reserved", "GET_HW_INFO", { dev_id: 1, max_pasid_log2: 0x100 }, -E.EOPNOTSUPP],
  ["no such device", "GET_HW_INFO", { dev_id: 2 }, -E.ENOENT],
  ["a type that is not known", "GET_HW_INFO", { dev_id: 1, flags: 1, data_type: 55 }, -E.EOPNOTSUPP],
  ["memory that is not there", "GET_HW_INFO", { dev_id: 1, data_len: 12 }, -E.EFAULT],
  ["flags", "HWPT_SET_DIRTY_TRACKING", { hwpt_id: 3, flags: 2 }, -E.EOPNOTSUPP],
  ["reserved", "HWPT_SET_DIRTY_TRACKING", { hwpt_id: 3, reserved: 1 }, -E.EOPNOTSUPP],
  ["no such page table", "HWPT_SET_DIRTY_TRACKING", { hwpt_id: 2 }, -E.ENOENT],
  ["not made for it", "HWPT_SET_DIRTY_TRACKING", { hwpt_id: 3, flags: 1 }, -E.EOPNOTSUPP],
  ["flags", "HWPT_GET_DIRTY_BITMAP", { ...dirty, flags: 2 }, -E.EOPNOTSUPP],
  ["page size", "HWPT_GET_DIRTY_BITMAP", { ...dirty, page_size: 100 }, -E.EINVAL],
  ["no such page table", "HWPT_GET_DIRTY_BITMAP", { ...dirty, hwpt_id: 2 }, -E.ENOENT],
  ["overflow", "HWPT_GET_DIRTY_BITMAP", { ...dirty, iova: HUGE }, -E.EOVERFLOW],
  ["not made for it", "HWPT_GET_DIRTY_BITMAP", dirty, -E.EOPNOTSUPP],
  ["reserved", "HWPT_INVALIDATE", { ...invalidate, reserved: 1 }, -E.EOPNOTSUPP],
  ["no such object", "HWPT_INVALIDATE", { ...invalidate, hwpt_id: 99 }, -E.ENOENT],
  ["of a paging one", "HWPT_INVALIDATE", { ...invalidate, hwpt_id: 3 }, -E.EINVAL],
  ["entries of no length", "HWPT_INVALIDATE", { ...invalidate, entry_len: 0 }, -E.EINVAL],
  ["entries nowhere", "HWPT_INVALIDATE", { ...invalidate, data_uptr: 0 }, -E.EINVAL],
  ["entries that are not there", "HWPT_INVALIDATE", { ...invalidate, data_uptr: 0x1000 }, -E.EFAULT],
  ["another type", "HWPT_INVALIDATE", { ...invalidate, data_type: 2 }, -E.EINVAL],
  ["short entries", "HWPT_INVALIDATE", { ...invalidate, entry_len: 4 }, -E.EINVAL],
  ["nothing to do", "HWPT_INVALIDATE", { ...invalidate, entry_num: 0 }, 0],
  ["flags", "FAULT_QUEUE_ALLOC", { flags: 1 }, -E.EOPNOTSUPP],
  ["N2 flags", "VIOMMU_ALLOC", { ...viommu, flags: 1 }, -E.EOPNOTSUPP],
  ["N2 type 0", "VIOMMU_ALLOC", { ...viommu, type: 0 }, -E.EOPNOTSUPP],
  ["N2 a type that the driver does not have", "VIOMMU_ALLOC", { ...viommu, type: 8 }, -E.EOPNOTSUPP],
  ["N2 no such device", "VIOMMU_ALLOC", { ...viommu, dev_id: 9 }, -E.ENOENT],
  ["N2 no such page table", "VIOMMU_ALLOC", { ...viommu, hwpt_id: 2 }, -E.ENOENT],
  ["N6 no such vIOMMU", "VDEVICE_ALLOC", { viommu_id: 3, dev_id: 1 }, -E.ENOENT],
  ["N6 no such device", "VDEVICE_ALLOC", { viommu_id: 4, dev_id: 9 }, -E.ENOENT],
  ["N6 behind another IOMMU", "VDEVICE_ALLOC", { viommu_id: 4, dev_id: 6 }, -E.EINVAL],
  ["N6 the device has one", "VDEVICE_ALLOC", { viommu_id: 4, dev_id: 1, virt_id: 9 }, -E.EEXIST],
  ["N10 flags", "VEVENTQ_ALLOC", { viommu_id: 4, type: 1, veventq_depth: 1, flags: 1 }, -E.EOPNOTSUPP],
  ["N10 type 0", "VEVENTQ_ALLOC", { viommu_id: 4, veventq_depth: 1 }, -E.EOPNOTSUPP],
  ["N10 depth 0", "VEVENTQ_ALLOC", { viommu_id: 4, type: 1 }, -E.EINVAL],
  ["N10 no such vIOMMU", "VEVENTQ_ALLOC", { viommu_id: 3, type: 1, veventq_depth: 1 }, -E.ENOENT],
  ["T5 flags", "HW_QUEUE_ALLOC", { ...queue, flags: 1 }, -E.EOPNOTSUPP],
  ["T5 type 0", "HW_QUEUE_ALLOC", { ...queue, type: 0 }, -E.EOPNOTSUPP],
  ["T5 another type", "HW_QUEUE_ALLOC", { ...queue, type: 9 }, -E.EOPNOTSUPP],
  ["T5 length 0", "HW_QUEUE_ALLOC", { ...queue, length: 0 }, -E.EINVAL],
  ["T5 overflow", "HW_QUEUE_ALLOC", { ...queue, nesting_parent_iova: HUGE }, -E.EOVERFLOW],
  ["T5 no such vIOMMU", "HW_QUEUE_ALLOC", { ...queue, viommu_id: 3 }, -E.ENOENT],
  ["T5 not mapped", "HW_QUEUE_ALLOC", { ...queue, nesting_parent_iova: 0x80_0000 }, -E.ENOENT],
  ["T5 not contiguous", "HW_QUEUE_ALLOC", { ...queue, nesting_parent_iova: 0x20_0000, length: 2 * PAGE }, -E.EFAULT],
  ["T5 the driver's own", "HW_QUEUE_ALLOC", { ...queue, index: 7 }, -E.EINVAL],
];

describe.each(NAMES.filter((name) => ROWS.some((row) => row[1] === name)))("%s", (name) => {
  test.each(ROWS.filter((row) => row[1] === name))("%s", (_what, _name, args, status) => {
    const { fd } = rig();
    const before = fd.objects.size;
    expect(fd.call(name, args).status).toBe(status);
    if (status < 0) expect(fd.objects.size).toBe(before);
  });
});

test("N2 every gate of a vIOMMU that needs another rig", () => {
  const plain = new Rig({ nested: false });
  const dev = plain.bind(0);
  const parent = plain.hwpt(dev, plain.ioas(), 1);
  expect(plain.fd.call("VIOMMU_ALLOC", { type: VIOMMU_TYPE, dev_id: dev, hwpt_id: parent }).status).toBe(-E.EOPNOTSUPP);
  const other = new Rig();
  const device = other.bind(0);
  const table = other.hwpt(device, other.ioas());
  expect(other.fd.call("VIOMMU_ALLOC", { type: VIOMMU_TYPE, dev_id: device, hwpt_id: table }).status).toBe(-E.EINVAL);
});
