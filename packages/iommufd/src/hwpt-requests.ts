import { DirtyBitmap, pasidLimit } from "@smmuv3/iommu-core";
import type { UserDataArray } from "@smmuv3/iommu-core";
import { unsupported } from "./context.ts";
import type { Context } from "./context.ts";
import type { IommufdDevice } from "./device.ts";
import { UAPI_ERRNO } from "./errno.ts";
import { FaultQueue } from "./fault.ts";
import { HwptNested, HwptPaging } from "./hwpt.ts";
import { Ioas } from "./ioas.ts";
import { GET_DIRTY_FLAG, HW_CAP, HW_INFO_FLAG, HWPT_FLAG, SET_DIRTY_FLAG } from "./uapi.ts";
import type { RequestArgs } from "./uapi.ts";
import { ViommuObject } from "./viommu.ts";

const { EINVAL, ENOENT, EOPNOTSUPP } = UAPI_ERRNO;
const { nestParent, dirtyTracking, faultIdValid, pasid } = HWPT_FLAG;
/** Longest data that a request brings. */
const MAX_DATA = 1 << 16;
const MAX_ENTRIES = 1 << 16;
const ULONG_MAX = 2 ** 64;

/** A page table over `ioas` for `device`; `flags` of HWPT_FLAG. A negative errno when there is none. */
export function makePaging(
  ctx: Context, ioas: Ioas, device: IommufdDevice, flags: number, auto: boolean, fault?: FaultQueue,
): HwptPaging | number {
  if ((flags & faultIdValid) !== 0 && (flags & nestParent) !== 0) return -EOPNOTSUPP;
  const domain = ctx.core.allocPaging(device.dev, flags & ~faultIdValid);
  if (typeof domain === "number") return domain;
  const fail = (status: number): number => {
    ctx.core.freeDomain(domain);
    return status;
  };
  if (device.enforcesCoherency && domain.ops.enforceCacheCoherency?.(domain) === false) return fail(-EINVAL);
  const status = ioas.addDomain(domain);
  if (status < 0) return fail(status);
  return ctx.objects.add(
    new HwptPaging(ctx.core, domain, ioas, {
      fault, auto, pasid: (flags & pasid) !== 0, nestParent: (flags & nestParent) !== 0,
    }),
  );
}

function makeNested(
  ctx: Context, viommu: ViommuObject, device: IommufdDevice, args: RequestArgs<"HWPT_ALLOC">, fault: FaultQueue | undefined,
): HwptNested | number {
  if ((args.flags & ~(faultIdValid | pasid)) !== 0 || args.data_len === 0) return -EOPNOTSUPP;
  const { ops } = viommu.viommu;
  if (ops.allocDomainNested === undefined) return -EOPNOTSUPP;
  if (device.instance !== viommu.viommu.instance) return -EINVAL;
  const data = ctx.userData(args.data_type, args.data_uptr, Math.min(args.data_len, MAX_DATA));
  if (typeof data === "number") return data;
  const domain = ops.allocDomainNested(viommu.viommu, args.flags & ~faultIdValid, data);
  if (typeof domain === "number") return domain;
  return ctx.objects.add(new HwptNested(ctx.core, domain, viommu, fault));
}

export function hwptAlloc(ctx: Context, args: RequestArgs<"HWPT_ALLOC">): number {
  const status = unsupported(args.flags, nestParent | dirtyTracking | faultIdValid | pasid, args.reserved, args.reserved2);
  if (status < 0) return status;
  const empty = args.data_len === 0;
  if (args.data_type === 0 ? !empty || args.data_uptr !== 0 : empty) return -EINVAL;
  const device = ctx.device(args.dev_id);
  const below = ctx.objects.find(args.pt_id);
  if (device === undefined || below === undefined) return -ENOENT;
  const fault = (args.flags & faultIdValid) === 0 ? undefined : ctx.objects.get(args.fault_id, FaultQueue);
  if (fault === undefined && (args.flags & faultIdValid) !== 0) return -ENOENT;
  let hwpt: HwptPaging | HwptNested | number = -EINVAL;
  // No driver has page tables of its own types, or nested ones without a vIOMMU.
  if (below instanceof Ioas) hwpt = empty ? makePaging(ctx, below, device, args.flags, false, fault) : -EOPNOTSUPP;
  else if (below instanceof HwptPaging) hwpt = -EOPNOTSUPP;
  else if (below instanceof ViommuObject) hwpt = makeNested(ctx, below, device, args, fault);
  if (typeof hwpt === "number") return hwpt;
  args.out_hwpt_id = hwpt.id;
  return 0;
}

export function faultQueueAlloc(ctx: Context, args: RequestArgs<"FAULT_QUEUE_ALLOC">): number {
  const status = unsupported(args.flags, 0);
  if (status < 0) return status;
  const fault = ctx.objects.add(new FaultQueue((dev) => ctx.idOf(dev)));
  fault.users++;
  args.out_fault_id = fault.id;
  args.out_fault_fd = ctx.files.open(fault);
  return 0;
}

const PASID_SHIFT = 8;

export function getHwInfo(ctx: Context, args: RequestArgs<"GET_HW_INFO">): number {
  const status = unsupported(args.flags, HW_INFO_FLAG.inputType, args.max_pasid_log2 >>> PASID_SHIFT);
  if (status < 0) return status;
  const device = ctx.device(args.dev_id);
  if (device === undefined) return -ENOENT;
  const type = (args.flags & HW_INFO_FLAG.inputType) === 0 ? 0 : args.data_type;
  const { ops, dev } = device;
  if (ops.hwInfo === undefined && type !== 0) return -EOPNOTSUPP;
  const info = ops.hwInfo?.(dev, type) ?? { type: 0, words: new Int32Array(0) };
  if (typeof info === "number") return info;
  const bytes = new Uint8Array(info.words.slice().buffer);
  const out = new Uint8Array(args.data_len);
  out.set(bytes.subarray(0, args.data_len));
  const written = ctx.user.write(args.data_uptr, out);
  if (written < 0) return written;
  args.data_len = bytes.length;
  args.data_type = info.type;
  args.max_pasid_log2 = Math.floor(Math.log2(Math.max(pasidLimit(dev), 1)));
  args.out_capabilities = ops.capable?.(dev, "dirty-tracking") === true ? HW_CAP.dirtyTracking : 0;
  return 0;
}

export function hwptSetDirtyTracking(ctx: Context, args: RequestArgs<"HWPT_SET_DIRTY_TRACKING">): number {
  const status = unsupported(args.flags, SET_DIRTY_FLAG.enable, args.reserved);
  if (status < 0) return status;
  const hwpt = ctx.objects.get(args.hwpt_id, HwptPaging);
  if (hwpt === undefined) return -ENOENT;
  const enable = (args.flags & SET_DIRTY_FLAG.enable) !== 0;
  // A new mapping may count as written to.
  const cleared = enable && hwpt.domain.tracksDirty ? hwpt.ioas.clearDirty(hwpt.domain) : 0;
  return cleared < 0 ? cleared : ctx.core.setDirtyTracking(hwpt.domain, enable);
}

export function hwptGetDirtyBitmap(ctx: Context, args: RequestArgs<"HWPT_GET_DIRTY_BITMAP">): number {
  const status = unsupported(args.flags, GET_DIRTY_FLAG.noClear, args.reserved);
  if (status < 0) return status;
  const hwpt = ctx.objects.get(args.hwpt_id, HwptPaging);
  if (hwpt === undefined) return -ENOENT;
  const { iova, length, page_size: granule } = args;
  const pages = length / granule;
  const least = hwpt.domain.pageSizes[0] ?? 0;
  const power = granule > 0 && Number.isInteger(Math.log2(granule));
  if (iova + length >= ULONG_MAX) return -UAPI_ERRNO.EOVERFLOW;
  if (!power || granule < least || !Number.isInteger(pages) || pages < 1 || iova % granule !== 0) return -EINVAL;
  const bitmap = new DirtyBitmap(iova, length, granule);
  const read = ctx.core.readAndClearDirty(hwpt.domain, bitmap, (args.flags & GET_DIRTY_FLAG.noClear) !== 0);
  if (read < 0) return read;
  return ctx.user.write(args.data, new Uint8Array(bitmap.words.slice().buffer, 0, Math.ceil(pages / 8)));
}

export function hwptInvalidate(ctx: Context, args: RequestArgs<"HWPT_INVALIDATE">): number {
  const { data_type: type, data_uptr: address, entry_len: entryBytes, entry_num: count } = args;
  args.entry_num = 0;
  const status = unsupported(0, 0, args.reserved);
  if (status < 0) return status;
  if (count > 0 && (address === 0 || entryBytes === 0)) return -EINVAL;
  const object = ctx.objects.find(args.hwpt_id);
  if (object === undefined) return -ENOENT;
  // Nested page tables are invalidated by their vIOMMU.
  if (object instanceof HwptNested) return -EOPNOTSUPP;
  if (!(object instanceof ViommuObject)) return -EINVAL;
  const { viommu } = object;
  if (viommu.ops.cacheInvalidate === undefined) return -EOPNOTSUPP;
  if (count > MAX_ENTRIES || entryBytes > MAX_DATA) return -EINVAL;
  const bytes = ctx.user.read(address, count * entryBytes);
  if (typeof bytes === "number") return bytes;
  const array: UserDataArray = { type, entryBytes, count, bytes, done: 0 };
  const result = viommu.ops.cacheInvalidate(viommu, array);
  args.entry_num = array.done;
  return result;
}
