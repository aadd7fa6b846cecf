// What objects do, and in which order they go.
import { PROT } from "@smmuv3/iommu-core";
import type { IommuDomain } from "@smmuv3/iommu-core";
import { describe, expect, test } from "vitest";
import { HWPT_FLAG, UAPI_ERRNO } from "../src/index.ts";
import { Veventq } from "../src/veventq.ts";
import type { ViommuObject } from "../src/viommu.ts";
import { PAGE, QUEUE_TYPE, RAM, Rig, TableDomain, USER, VIOMMU_TYPE } from "./rig.ts";

const E = UAPI_ERRNO;
const MAP = 7;
const PA: number = RAM.base + (8 << 20);

function words(bytes: Uint8Array | number | undefined): number[] {
  if (!(bytes instanceof Uint8Array)) throw new Error(`read: ${bytes}`);
  return [...new Int32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4)];
}

describe("address spaces", () => {
  test("what is mapped before a page table is made, is in it; and pages are kept while it is", () => {
    const rig = new Rig();
    const dev = rig.bind(0);
    const ioas = rig.ioas();
    rig.make("IOAS_MAP", { ioas_id: ioas, flags: MAP, iova: 0x10_0000, user_va: USER + PAGE, length: 2 * PAGE }, "iova");
    expect(rig.user.pinned).toBe(0);
    const hwpt = rig.hwpt(dev, ioas);
    const table = rig.drivers[0]!.domains[0]!;
    expect([...table.table]).toEqual([[0x10_0000, PA + PAGE], [0x10_1000, PA + 2 * PAGE]]);
    expect(rig.user.pinned).toBe(2);
    const next = rig.make("IOAS_MAP", { ioas_id: ioas, flags: 6, user_va: USER, length: 4 * PAGE }, "iova");
    expect(next).toBe(4 * PAGE);
    expect(table.table.size).toBe(6);
    expect(rig.make("IOAS_UNMAP", { ioas_id: ioas, iova: next, length: 4 * PAGE }, "length")).toBe(4 * PAGE);
    expect(rig.fd.call("DESTROY", { id: hwpt }).status).toBe(0);
    expect([table.freed, table.table.size, rig.user.pinned]).toEqual([true, 0, 0]);
    expect(rig.make("IOAS_UNMAP", { ioas_id: ioas, length: 2 ** 64 }, "length")).toBe(2 * PAGE);
    expect(rig.make("IOAS_UNMAP", { ioas_id: ioas, length: 2 ** 64 }, "length")).toBe(0);
  });

  test("a page table that cannot be filled is not made; a map that fails is nowhere", () => {
    const rig = new Rig();
    const dev = rig.bind(0);
    const ioas = rig.ioas();
    const map = { ioas_id: ioas, flags: MAP, iova: 0x10_0000, user_va: USER, length: 8 * PAGE };
    rig.make("IOAS_MAP", map, "iova");
    rig.drivers[0]!.failAfter = 3;
    expect(rig.fd.call("HWPT_ALLOC", { dev_id: dev, pt_id: ioas }).status).toBe(-E.ENOMEM);
    expect([rig.drivers[0]!.domains[0]!.table.size, rig.user.pinned]).toEqual([0, 0]);
    rig.drivers[0]!.failAfter = Infinity;
    rig.hwpt(dev, ioas);
    rig.hwpt(dev, ioas);
    rig.drivers[0]!.failAfter = 5;
    expect(rig.fd.call("IOAS_MAP", { ...map, iova: 0x20_0000, length: 4 * PAGE }).status).toBe(-E.ENOMEM);
    expect(rig.drivers[0]!.domains.slice(1).map(({ table }) => table.size)).toEqual([8, 8]);
    expect(rig.user.pinned).toBe(8);
  });

  test("a page table that cannot take everything is not made, and leaves nothing", () => {
    const rig = new Rig();
    const dev = rig.bind(0);
    const ioas = rig.ioas();
    for (const iova of [0x10_0000, 0x20_0000]) {
      rig.make("IOAS_MAP", { ioas_id: ioas, flags: MAP, iova, user_va: USER, length: 4 * PAGE }, "iova");
    }
    rig.drivers[0]!.failAfter = 6;
    expect(rig.fd.call("HWPT_ALLOC", { dev_id: dev, pt_id: ioas }).status).toBe(-E.ENOMEM);
    const [domain] = rig.drivers[0]!.domains;
    expect([domain!.table.size, domain!.freed, rig.user.pinned]).toEqual([0, true, 0]);
    const ranges = rig.fd.call("IOAS_IOVA_RANGES", { ioas_id: ioas, num_iovas: 2, allowed_iovas: USER });
    expect([ranges.status, ranges.num_iovas]).toEqual([0, 1]);
    expect(words(rig.user.read(USER, 16))).toEqual([0, 0, -1, 0x1f_ffff]);
  });

  test("a copy that fails in its second part is nowhere; free places are not larger than they are", () => {
    const rig = new Rig();
    const [a, b] = [rig.ioas(), rig.ioas()];
    for (const iova of [0x10_0000, 0x10_1000]) {
      rig.make("IOAS_MAP", { ioas_id: a, flags: MAP, iova, user_va: USER + iova, length: PAGE }, "iova");
    }
    rig.make("IOAS_MAP", { ioas_id: b, flags: MAP, iova: 0x50_1000, user_va: USER, length: PAGE }, "iova");
    const copy = { src_ioas_id: a, dst_ioas_id: b, src_iova: 0x10_0000, dst_iova: 0x50_0000, length: 2 * PAGE, flags: MAP };
    expect(rig.fd.call("IOAS_COPY", copy).status).toBe(-E.EEXIST);
    expect(rig.fd.call("IOAS_UNMAP", { ioas_id: b, iova: 0x50_0000, length: PAGE }).status).toBe(-E.ENOENT);
    const allowed_iovas = rig.words(0x50_0000, 0, 0x50_1fff, 0);
    expect(rig.fd.call("IOAS_ALLOW_IOVAS", { ioas_id: b, num_iovas: 1, allowed_iovas }).status).toBe(0);
    const place = (length: number): number => {
      const result = rig.fd.call("IOAS_MAP", { ioas_id: b, flags: 6, user_va: USER, length });
      return result.status < 0 ? result.status : result.iova;
    };
    expect([place(2 * PAGE), place(PAGE), place(PAGE)]).toEqual([-E.ENOSPC, 0x50_0000, -E.ENOSPC]);
  });

  test("copies share memory; ranges exclude what devices and page tables cannot use", () => {
    const rig = new Rig();
    rig.drivers[0]!.resv.push({ start: 0x800_0000, length: 0x10_0000, prot: PROT.READ, type: "sw-msi" });
    const dev = rig.bind(0);
    const [a, b] = [rig.ioas(), rig.ioas()];
    rig.make("IOAS_MAP", { ioas_id: a, flags: MAP, iova: 0x10_0000, user_va: USER, length: 4 * PAGE }, "iova");
    const copy = { src_ioas_id: a, dst_ioas_id: b, src_iova: 0x10_1000, dst_iova: 0x50_0000, length: 2 * PAGE, flags: MAP };
    expect(rig.make("IOAS_COPY", copy, "dst_iova")).toBe(0x50_0000);
    rig.hwpt(dev, b);
    expect(rig.drivers[0]!.domains[0]!.table.get(0x50_0000)).toBe(PA + PAGE);
    const hwpt = rig.hwpt(dev, a);
    expect(rig.fd.attach(dev, hwpt)).toBe(hwpt);
    const ranges = rig.fd.call("IOAS_IOVA_RANGES", { ioas_id: a, num_iovas: 4, allowed_iovas: USER + (2 << 20) });
    expect([ranges.status, ranges.num_iovas, ranges.out_iova_alignment]).toEqual([0, 2, PAGE]);
    const stored = rig.user.read(USER + (2 << 20), 32);
    expect(words(stored)).toEqual([0, 0, 0x7ff_ffff, 0, 0x810_0000, 0, -1, 0xff]);
    expect(rig.fd.call("IOAS_MAP", { ioas_id: a, flags: MAP, iova: 0x800_0000, user_va: USER, length: PAGE }).status).toBe(-E.EINVAL);
    // Only there, from now on.
    const allow = (...range: number[]): number =>
      rig.fd.call("IOAS_ALLOW_IOVAS", { ioas_id: a, num_iovas: range.length / 4, allowed_iovas: rig.words(...range) }).status;
    expect(allow(0x900_0000, 0, 0x900_ffff, 0)).toBe(0);
    expect(rig.make("IOAS_MAP", { ioas_id: a, flags: 6, user_va: USER, length: PAGE }, "iova")).toBe(0x900_0000);
    expect(allow(0x800_0000, 0, 0x800_ffff, 0)).toBe(-E.EADDRINUSE);
    expect(allow(2, 0, 1, 0)).toBe(-E.EINVAL);
    expect(rig.fd.detach(dev)).toBe(0);
    expect(rig.fd.call("IOAS_IOVA_RANGES", { ioas_id: a, num_iovas: 1, allowed_iovas: USER }).status).toBe(0);
  });

  test("a device does not join where something is mapped in what it cannot use", () => {
    const rig = new Rig();
    const dev = rig.bind(0);
    const ioas = rig.ioas();
    const hwpt = rig.hwpt(dev, ioas);
    rig.make("IOAS_MAP", { ioas_id: ioas, flags: MAP, iova: 0x800_0000, user_va: USER, length: PAGE }, "iova");
    rig.drivers[0]!.resv.push({ start: 0x800_0000, length: 0x1000, prot: 0, type: "reserved" });
    expect(rig.fd.attach(dev, hwpt)).toBe(-E.EADDRINUSE);
  });
});

describe("devices", () => {
  test("binding blocks, attaching, replacing and detaching move, unbinding gives back", () => {
    const rig = new Rig();
    const at = (): IommuDomain | undefined => rig.drivers[0]!.attached.get("dev0");
    expect(at()!.type).toBe("identity");
    const dev = rig.bind(0);
    expect(at()!.type).toBe("blocked");
    expect(rig.fd.bind(rig.dev(0))).toBe(-E.EBUSY);
    const [a, b] = [rig.ioas(), rig.ioas()];
    const [x, y] = [rig.hwpt(dev, a), rig.hwpt(dev, b)];
    expect(rig.fd.replace(dev, x)).toBe(-E.EINVAL);
    expect(rig.fd.detach(dev)).toBe(-E.EINVAL);
    expect(rig.fd.attach(dev, 99)).toBe(-E.ENOENT);
    expect(rig.fd.attach(dev, dev)).toBe(-E.EINVAL);
    rig.drivers[0]!.attachStatus = -E.ENOMEM;
    expect(rig.fd.attach(dev, x)).toBe(-E.ENOMEM);
    rig.drivers[0]!.attachStatus = 0;
    expect(rig.fd.attach(dev, x)).toBe(x);
    expect(rig.fd.attach(dev, x)).toBe(-E.EINVAL);
    expect(rig.fd.unbind(dev)).toBe(-E.EBUSY);
    expect(rig.fd.call("DESTROY", { id: x }).status).toBe(-E.EBUSY);
    expect(rig.fd.replace(dev, y)).toBe(y);
    expect(at()).toBe(rig.drivers[0]!.domains[1]);
    expect(rig.fd.call("DESTROY", { id: x }).status).toBe(0);
    expect(rig.fd.detach(dev)).toBe(0);
    expect(at()!.type).toBe("blocked");
    expect(rig.fd.close()).toBe(-E.EBUSY);
    expect(rig.fd.unbind(dev)).toBe(0);
    expect(at()!.type).toBe("identity");
    expect(rig.fd.close()).toBe(0);
    expect(rig.drivers[0]!.domains.every(({ freed }) => freed)).toBe(true);
  });

  test("attaching to an address space finds or makes a page table, which goes with its last device", () => {
    const rig = new Rig();
    const devices = [rig.bind(0), rig.bind(1), rig.bind(2)];
    const ioas = rig.ioas();
    const tables = devices.map((dev) => rig.fd.attach(dev, ioas));
    expect(new Set(tables).size).toBe(1);
    expect(rig.fd.objects.get(tables[0]!)).toBe("hwpt-paging");
    for (const dev of devices) rig.fd.detach(dev);
    expect(rig.fd.objects.has(tables[0]!)).toBe(false);
  });

  test("a page table that was made for a device goes when the device moves on, or never came", () => {
    const rig = new Rig();
    const dev = rig.bind(0);
    const ioas = rig.ioas();
    const hwpt = rig.hwpt(dev, ioas);
    rig.drivers[0]!.attachStatus = -E.ENOMEM;
    const before = rig.fd.objects.size;
    expect(rig.fd.attach(dev, ioas)).toBe(-E.ENOMEM);
    expect(rig.fd.objects.size).toBe(before);
    rig.drivers[0]!.attachStatus = 0;
    const auto = rig.fd.attach(dev, ioas);
    expect(rig.fd.replace(dev, hwpt)).toBe(hwpt);
    expect(rig.fd.objects.has(auto)).toBe(false);
  });

  test("an attach that fails leaves the addresses of the device to others", () => {
    const rig = new Rig();
    const dev = rig.bind(0);
    const ioas = rig.ioas();
    const hwpt = rig.hwpt(dev, ioas);
    rig.drivers[0]!.resv.push({ start: 0x800_0000, length: 0x1000, prot: 0, type: "reserved" });
    rig.drivers[0]!.attachStatus = -E.ENOMEM;
    expect(rig.fd.attach(dev, hwpt)).toBe(-E.ENOMEM);
    const map = { ioas_id: ioas, flags: MAP, iova: 0x800_0000, user_va: USER, length: PAGE };
    expect(rig.fd.call("IOAS_MAP", map).status).toBe(0);
  });

  test.each([[true, 0], [false, -E.EINVAL]] as const)("coherency that a device needs: %s", (enforces, status) => {
    const rig = new Rig();
    rig.drivers[0]!.enforces = enforces;
    const dev = rig.bind(0);
    expect(rig.fd.call("HWPT_ALLOC", { dev_id: dev, pt_id: rig.ioas() }).status).toBe(status);
    expect(rig.drivers[0]!.domains[0]!.freed).toBe(status < 0);
  });

  test("not coherent: -EINVAL; no IOMMU: -ENODEV", () => {
    const rig = new Rig();
    rig.drivers[0]!.coherent = false;
    expect(rig.fd.bind(rig.dev(0))).toBe(-E.EINVAL);
    expect(rig.fd.bind(rig.kernel.core.findByNode("iommu0")!)).toBe(-E.ENODEV);
  });

  test("PASIDs want page tables that were made for them", () => {
    const rig = new Rig();
    const dev = rig.bind(0);
    const ioas = rig.ioas();
    const [plain, pasid] = [rig.hwpt(dev, ioas), rig.hwpt(dev, ioas, HWPT_FLAG.pasid)];
    expect(rig.fd.attach(dev, plain, 3)).toBe(-E.EINVAL);
    expect(rig.fd.attach(dev, ioas, 3)).toBe(-E.EINVAL);
    expect(rig.fd.attach(dev, pasid, 3)).toBe(pasid);
    expect(rig.drivers[0]!.attached.get("dev0.3")).toBe(rig.drivers[0]!.domains[1]);
    expect(rig.fd.attach(dev, plain)).toBe(-E.EINVAL);
    expect(rig.fd.attach(dev, pasid)).toBe(pasid);
    expect(rig.fd.detach(dev, 3)).toBe(0);
    expect(rig.fd.attach(dev, pasid, 16)).toBe(-E.EINVAL);
  });
});

describe("N1 hw_info", () => {
  test("whole, cut, and padded with zeros; capabilities", () => {
    const rig = new Rig();
    const dev = rig.bind(0);
    for (const [room, expected] of [[12, [1, 2, 3]], [8, [1, 2, -1]], [16, [1, 2, 3, 0]]] as const) {
      const data_uptr = rig.words(-1, -1, -1, -1);
      const info = rig.fd.call("GET_HW_INFO", { dev_id: dev, data_len: room, data_uptr });
      expect([info.status, info.data_len, info.data_type]).toEqual([0, 12, VIOMMU_TYPE]);
      expect([info.out_capabilities, info.max_pasid_log2]).toEqual([1, 4]);
      expect(words(rig.user.read(data_uptr, expected.length * 4))).toEqual(expected);
    }
    const plain = new Rig({ nested: false });
    plain.drivers[0]!.dirty = false;
    const info = plain.fd.call("GET_HW_INFO", { dev_id: plain.bind(0) });
    expect([info.status, info.data_len, info.data_type, info.out_capabilities]).toEqual([0, 0, 0, 0]);
  });
});

describe("dirty tracking", () => {
  test("N12 only where the IOMMU has it; the bit map is the domain's", () => {
    const rig = new Rig();
    const dev = rig.bind(0);
    const ioas = rig.ioas();
    rig.drivers[0]!.dirty = false;
    expect(rig.fd.call("HWPT_ALLOC", { dev_id: dev, pt_id: ioas, flags: HWPT_FLAG.dirtyTracking }).status).toBe(-E.EOPNOTSUPP);
    rig.drivers[0]!.dirty = true;
    const hwpt = rig.hwpt(dev, ioas, HWPT_FLAG.dirtyTracking);
    expect(rig.fd.call("HWPT_SET_DIRTY_TRACKING", { hwpt_id: hwpt, flags: 1 }).status).toBe(0);
    const data = rig.words(0, 0);
    const read = { hwpt_id: hwpt, iova: 0x10_0000, length: 16 * PAGE, page_size: PAGE, data };
    expect(rig.fd.call("HWPT_GET_DIRTY_BITMAP", read).status).toBe(0);
    expect(words(rig.user.read(data, 8))).toEqual([2, 0]);
  });
});

describe("page requests", () => {
  test("are read, answered by cookie, and end with the attachment", () => {
    const rig = new Rig();
    const dev = rig.bind(0);
    const queue = rig.fd.call("FAULT_QUEUE_ALLOC");
    const file = rig.fd.file(queue.out_fault_fd)!;
    const ioas = rig.ioas();
    const hwpt = rig.make("HWPT_ALLOC", { dev_id: dev, pt_id: ioas, flags: 4, fault_id: queue.out_fault_id }, "out_hwpt_id");
    rig.fd.attach(dev, hwpt);
    const ask = (grpid: number): number => rig.core.reportPageRequest(rig.dev(0), { grpid, addr: 0x5_0000_1000, perm: 2 });
    expect([ask(1), ask(2), ask(3)]).toEqual([0, 0, 0]);
    expect(file.readable).toBe(true);
    expect(words(file.read(79))).toEqual([2, dev, 0, 1, 2, 0, 0x1000, 5, 0, 0]);
    expect(words(file.read(40)).at(-1)).toBe(1);
    const answer = (...values: number[]): number => file.write(new Uint8Array(Int32Array.from(values).buffer));
    expect([answer(7, 0), answer(0, 2), answer(0)]).toEqual([-E.EINVAL, -E.EINVAL, -E.EINVAL]);
    expect(answer(1, 1)).toBe(8);
    expect(answer(0, 0)).toBe(8);
    expect(answer(0, 0)).toBe(-E.EINVAL);
    expect(rig.fd.detach(dev)).toBe(0);
    expect(rig.drivers[0]!.responses).toEqual(["dev0 2 invalid", "dev0 1 success", "dev0 3 invalid"]);
    expect(file.readable).toBe(false);
    expect(rig.fd.call("DESTROY", { id: hwpt }).status).toBe(0);
    expect(rig.fd.call("DESTROY", { id: queue.out_fault_id }).status).toBe(-E.EBUSY);
    expect([rig.fd.closeFile(queue.out_fault_fd), rig.fd.closeFile(queue.out_fault_fd)]).toEqual([0, -E.EBADF]);
    expect(rig.fd.call("DESTROY", { id: queue.out_fault_id }).status).toBe(0);
  });
});

test("page requests of a page table that is replaced are not the machine's any more", () => {
  const rig = new Rig();
  const dev = rig.bind(0);
  const queue = rig.fd.call("FAULT_QUEUE_ALLOC");
  const ioas = rig.ioas();
  const hwpt = rig.make("HWPT_ALLOC", { dev_id: dev, pt_id: ioas, flags: 4, fault_id: queue.out_fault_id }, "out_hwpt_id");
  rig.fd.attach(dev, hwpt);
  rig.core.reportPageRequest(rig.dev(0), { grpid: 1, addr: 0, perm: 1 });
  expect(rig.fd.file(queue.out_fault_fd)!.readable).toBe(true);
  rig.fd.replace(dev, rig.hwpt(dev, ioas));
  expect([rig.fd.file(queue.out_fault_fd)!.readable, rig.drivers[0]!.responses]).toEqual([false, ["dev0 1 invalid"]]);
});

describe("vIOMMUs", () => {
  test("N6 a number is one device's; a vdevice goes with its device, and its id is not used again", () => {
    const rig = new Rig();
    const { dev, viommu } = rig.viommu();
    const other = rig.bind(1);
    const alloc = (dev_id: number, virt_id: number): { status: number; out_vdevice_id: number } =>
      rig.fd.call("VDEVICE_ALLOC", { viommu_id: viommu, dev_id, virt_id });
    expect(alloc(dev, 99).status).toBe(-E.EINVAL);
    const vdevice = alloc(dev, 8);
    expect(vdevice.status).toBe(0);
    expect(alloc(other, 8).status).toBe(-E.EEXIST);
    expect(alloc(other, 9).status).toBe(0);
    const host = rig.drivers[0]!.viommus[0]!;
    expect(host.host.findDevice(host, 8)).toBe(rig.dev(0));
    expect([host.host.findVirtId(host, rig.dev(1)), host.host.findVirtId(host, rig.dev(2))]).toEqual([9, -E.ENOENT]);
    expect(rig.fd.unbind(dev)).toBe(0);
    expect(rig.drivers[0]!.log).toEqual(["vdevice 8 gone"]);
    expect(rig.fd.call("DESTROY", { id: vdevice.out_vdevice_id }).status).toBe(-E.ENOENT);
    const ids = Array.from({ length: 8 }, () => rig.ioas());
    expect(ids).not.toContain(vdevice.out_vdevice_id);
    // The number is free again.
    expect(alloc(rig.bind(0), 8).status).toBe(0);
  });

  test("the order of destruction: nested, vdevice, vIOMMU, parent, address space", () => {
    const rig = new Rig();
    const { dev, ioas, parent, viommu } = rig.viommu();
    const vdevice = rig.make("VDEVICE_ALLOC", { viommu_id: viommu, dev_id: dev, virt_id: 8 }, "out_vdevice_id");
    const data = { data_type: 2, data_len: 8, data_uptr: rig.words(1, 2) };
    const nested = rig.make("HWPT_ALLOC", { dev_id: dev, pt_id: viommu, ...data }, "out_hwpt_id");
    expect(rig.fd.attach(dev, nested)).toBe(nested);
    const destroy = (id: number): number => rig.fd.call("DESTROY", { id }).status;
    expect([nested, viommu, parent, ioas].map(destroy)).toEqual([-E.EBUSY, -E.EBUSY, -E.EBUSY, -E.EBUSY]);
    rig.fd.detach(dev);
    expect([viommu, parent, ioas].map(destroy)).toEqual([-E.EBUSY, -E.EBUSY, -E.EBUSY]);
    expect([nested, vdevice, viommu, parent, ioas].map(destroy)).toEqual([0, 0, 0, 0, 0]);
    expect(rig.drivers[0]!.log).toEqual(["vdevice 8 gone", "viommu gone"]);
  });

  test("invalidations tell how many were handled", () => {
    const rig = new Rig();
    const { viommu } = rig.viommu();
    const call = { hwpt_id: viommu, data_type: 1, entry_len: 12, entry_num: 3, data_uptr: rig.words(1, 1, 0, 2, 2, 0, 0, 0, 0) };
    const result = rig.fd.call("HWPT_INVALIDATE", call);
    expect([result.status, result.entry_num]).toEqual([-E.EIO, 2]);
    const long = rig.fd.call("HWPT_INVALIDATE", { ...call, data_uptr: rig.words(1, 1, 0, 2, 2, 9, 0, 0, 0) });
    expect([long.status, long.entry_num]).toEqual([-E.E2BIG, 1]);
  });

  test("a default vIOMMU wraps a page table, where that is wanted", () => {
    const rig = new Rig({ nested: false, defaultViommu: true });
    const dev = rig.bind(0);
    const parent = rig.hwpt(dev, rig.ioas(), 1);
    const viommu = rig.make("VIOMMU_ALLOC", { type: 0, dev_id: dev, hwpt_id: parent }, "out_viommu_id");
    rig.make("VDEVICE_ALLOC", { viommu_id: viommu, dev_id: dev, virt_id: 8 }, "out_vdevice_id");
    const none = [
      rig.fd.call("HWPT_ALLOC", { dev_id: dev, pt_id: viommu, data_type: 2, data_len: 8, data_uptr: USER }),
      rig.fd.call("HWPT_INVALIDATE", { hwpt_id: viommu, data_type: 1, entry_len: 8, entry_num: 1, data_uptr: USER }),
      rig.fd.call("HW_QUEUE_ALLOC", { viommu_id: viommu, type: 1, length: PAGE }),
    ];
    expect(none.map(({ status }) => status)).toEqual([-E.EOPNOTSUPP, -E.EOPNOTSUPP, -E.EOPNOTSUPP]);
  });

  test("N10 events: one queue per type, the loss is noted once, at the end, with its own number", () => {
    const rig = new Rig();
    const { viommu } = rig.viommu();
    const alloc = { viommu_id: viommu, type: 1, veventq_depth: 2 };
    const queue = rig.fd.call("VEVENTQ_ALLOC", alloc);
    expect(rig.fd.call("VEVENTQ_ALLOC", alloc).status).toBe(-E.EEXIST);
    expect(rig.fd.call("VEVENTQ_ALLOC", { ...alloc, type: 2 }).status).toBe(0);
    const file = rig.fd.file(queue.out_veventq_fd)!;
    const host = rig.drivers[0]!.viommus[0]!;
    const report = (value: number): number => host.host.reportEvent(host, 1, Int32Array.of(value, value));
    expect(host.host.reportEvent(host, 5, Int32Array.of(1))).toBe(-E.EOPNOTSUPP);
    for (let i = 0; i < 5; i++) expect(report(100 + i)).toBe(0);
    expect(words(file.read(16))).toEqual([0, 0, 100, 100]);
    expect(words(file.read(15))).toEqual([]);
    // Events 2, 3, 4 were lost; 5 takes the place of the note, and its number shows the gap.
    expect(report(105)).toBe(0);
    expect(words(file.read(100))).toEqual([0, 1, 101, 101, 0, 5, 105, 105]);
    for (let i = 0; i < 4; i++) report(200 + i);
    expect(words(file.read(100))).toEqual([0, 6, 200, 200, 0, 7, 201, 201, 1, 9]);
    // The note took no place.
    for (let i = 0; i < 3; i++) report(300 + i);
    expect(words(file.read(100))).toEqual([0, 10, 300, 300, 0, 11, 301, 301, 1, 12]);
    expect(file.readable).toBe(false);
    expect(file.write(new Uint8Array(8))).toBe(-E.EINVAL);
    rig.fd.closeFile(queue.out_veventq_fd);
    expect(rig.fd.call("DESTROY", { id: queue.out_veventq_id }).status).toBe(0);
    expect(report(1)).toBe(-E.EOPNOTSUPP);
  });

  test("N10 numbers of events wrap", () => {
    const { viommu } = new Rig().viommu();
    expect(viommu).toBeGreaterThan(0);
    const queue = new Veventq({ users: 0, veventqs: new Map() } as unknown as ViommuObject, 1, 4, 0x7fff_ffff);
    for (let i = 0; i < 2; i++) queue.report(Int32Array.of(i));
    expect(words(queue.read(100))).toEqual([0, 0x7fff_ffff, 0, 0, 0, 1]);
  });

  test("what a driver refuses uses nothing", () => {
    const rig = new Rig();
    const { dev, ioas, parent, viommu } = rig.viommu();
    rig.make("IOAS_MAP", { ioas_id: ioas, flags: MAP, iova: 0x10_0000, user_va: USER, length: PAGE }, "iova");
    const queue = { viommu_id: viommu, type: QUEUE_TYPE, index: 9, nesting_parent_iova: 0x10_0000, length: PAGE };
    expect(rig.fd.call("HW_QUEUE_ALLOC", queue).status).toBe(-E.EINVAL);
    expect(rig.fd.call("IOAS_UNMAP", { ioas_id: ioas, iova: 0x10_0000, length: PAGE }).status).toBe(0);
    rig.drivers[0]!.viommuStatus = -E.ENOSPC;
    expect(rig.fd.call("VIOMMU_ALLOC", { type: VIOMMU_TYPE, dev_id: dev, hwpt_id: parent }).status).toBe(-E.ENOSPC);
    expect([viommu, parent].map((id) => rig.fd.call("DESTROY", { id }).status)).toEqual([0, 0]);
  });

  test("T5 hardware queues keep what they read mapped, and go in the order that their driver wants", () => {
    const rig = new Rig();
    const { ioas, viommu } = rig.viommu();
    const map = { ioas_id: ioas, flags: MAP, iova: 0x10_0000, user_va: USER, length: 4 * PAGE };
    rig.make("IOAS_MAP", map, "iova");
    const queues = [0, 1].map((index) =>
      rig.make(
        "HW_QUEUE_ALLOC",
        { viommu_id: viommu, type: QUEUE_TYPE, index, nesting_parent_iova: 0x10_0000 + index * 2 * PAGE, length: 2 * PAGE },
        "out_hw_queue_id",
      ),
    );
    expect(rig.drivers[0]!.queues.map(({ pa }) => pa)).toEqual([PA, PA + 2 * PAGE]);
    const unmap = { ioas_id: ioas, iova: 0x10_0000, length: 4 * PAGE };
    expect(rig.fd.call("IOAS_UNMAP", unmap).status).toBe(-E.EBUSY);
    expect(rig.fd.call("DESTROY", { id: queues[0]! }).status).toBe(-E.EBUSY);
    expect(rig.fd.call("DESTROY", { id: queues[1]! }).status).toBe(0);
    expect(rig.fd.call("IOAS_UNMAP", unmap).status).toBe(-E.EBUSY);
    expect(rig.fd.call("DESTROY", { id: queues[0]! }).status).toBe(0);
    expect(rig.fd.call("IOAS_UNMAP", unmap).status).toBe(0);
    expect(rig.user.pinned).toBe(0);
  });

  test("device space of a vIOMMU is mapped whole, and keeps it", () => {
    const rig = new Rig();
    const { viommu } = rig.viommu();
    const host = rig.drivers[0]!.viommus[0]!;
    const offset = host.host.allocMmap(host, 0x900_0000, 0x1_0000);
    expect(rig.fd.mmap(offset + PAGE, 0x1_0000)).toBe(-E.ENXIO);
    expect(rig.fd.mmap(offset, PAGE)).toBe(-E.EINVAL);
    expect(rig.fd.mmap(offset, 0x1_0000)).toBe(0x900_0000);
    expect(rig.fd.call("DESTROY", { id: viommu }).status).toBe(-E.EBUSY);
    expect([rig.fd.munmap(offset), rig.fd.munmap(offset)]).toEqual([0, -E.EINVAL]);
    expect(rig.fd.call("DESTROY", { id: viommu }).status).toBe(0);
    host.host.freeMmap(host, offset);
    expect(rig.fd.mmap(offset, 0x1_0000)).toBe(-E.ENXIO);
  });

  test("closing the file destroys everything, users first", () => {
    const rig = new Rig();
    const { dev, viommu } = rig.viommu();
    rig.make("VDEVICE_ALLOC", { viommu_id: viommu, dev_id: dev, virt_id: 8 }, "out_vdevice_id");
    rig.make("VEVENTQ_ALLOC", { viommu_id: viommu, type: 1, veventq_depth: 4 }, "out_veventq_id");
    rig.fd.unbind(dev);
    expect(rig.fd.close()).toBe(0);
    expect(rig.fd.objects.size).toBe(0);
    expect(rig.drivers[0]!.domains.every((domain) => domain instanceof TableDomain && domain.freed)).toBe(true);
  });
});
