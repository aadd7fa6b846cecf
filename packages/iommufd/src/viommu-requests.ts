import { Viommu } from "@smmuv3/iommu-core";
import type { HwQueue, UserDataOut } from "@smmuv3/iommu-core";
import { unsupported } from "./context.ts";
import type { Context } from "./context.ts";
import { UAPI_ERRNO } from "./errno.ts";
import { HwptPaging } from "./hwpt.ts";
import type { RequestArgs } from "./uapi.ts";
import { Veventq } from "./veventq.ts";
import { HwQueueObject, VdeviceObject, ViommuObject } from "./viommu.ts";

const { EEXIST, EINVAL, ENOENT, EOPNOTSUPP, EOVERFLOW } = UAPI_ERRNO;
const ULONG_MAX = 2 ** 64;
const MAX_DATA = 1 << 16;

/** The data of a request with what the driver writes back. */
function outData(ctx: Context, type: number, address: number, length: number): UserDataOut | number {
  const data = ctx.userData(type, address, Math.min(length, MAX_DATA));
  if (typeof data === "number") return data;
  return {
    ...data,
    writeBack(at, words) {
      const bytes = new Uint8Array(words.slice().buffer);
      ctx.user.write(address + at, bytes.subarray(0, Math.max(0, length - at)));
    },
  };
}

export function viommuAlloc(ctx: Context, args: RequestArgs<"VIOMMU_ALLOC">): number {
  const wraps = args.type === 0;
  const status = unsupported(args.flags, 0, args.reserved);
  if (status < 0) return status;
  if (wraps && ctx.options.defaultViommu !== true) return -EOPNOTSUPP;
  const device = ctx.device(args.dev_id);
  if (device === undefined) return -ENOENT;
  const { ops, dev, instance } = device;
  if (!wraps && (ops.viommuInit === undefined || (ops.getViommuSize?.(dev, args.type) ?? 0) === 0)) return -EOPNOTSUPP;
  const hwpt = ctx.objects.get(args.hwpt_id, HwptPaging);
  if (hwpt === undefined) return -ENOENT;
  if (!hwpt.nestParent) return -EINVAL;
  const data = args.data_len === 0 ? undefined : outData(ctx, args.type, args.data_uptr, args.data_len);
  if (typeof data === "number") return data;
  const object = new ViommuObject(new Viommu(args.type, instance, hwpt.domain, ctx.services), hwpt);
  const init = wraps ? 0 : ctx.services.initialise(object, () => ops.viommuInit!(object.viommu, data));
  if (init < 0) {
    hwpt.users--;
    return init;
  }
  args.out_viommu_id = ctx.objects.add(object).id;
  return 0;
}

export function vdeviceAlloc(ctx: Context, args: RequestArgs<"VDEVICE_ALLOC">): number {
  if (args.virt_id >= ULONG_MAX) return -EINVAL;
  const viommu = ctx.objects.get(args.viommu_id, ViommuObject);
  const device = ctx.device(args.dev_id);
  if (viommu === undefined || device === undefined) return -ENOENT;
  if (viommu.viommu.instance !== device.instance) return -EINVAL;
  if (device.vdevice !== undefined || viommu.vdevices.has(args.virt_id)) return -EEXIST;
  const object = new VdeviceObject(viommu, device, args.virt_id);
  const status = viommu.viommu.ops.vdeviceInit?.(object.vdevice) ?? 0;
  if (status < 0) {
    object.release();
    return status;
  }
  args.out_vdevice_id = ctx.objects.add(object).id;
  return 0;
}

export function veventqAlloc(ctx: Context, args: RequestArgs<"VEVENTQ_ALLOC">): number {
  const status = unsupported(args.flags, 0, args.reserved);
  if (status < 0) return status;
  if (args.type === 0) return -EOPNOTSUPP;
  if (args.veventq_depth === 0) return -EINVAL;
  const viommu = ctx.objects.get(args.viommu_id, ViommuObject);
  if (viommu === undefined) return -ENOENT;
  if (viommu.veventqs.has(args.type)) return -EEXIST;
  const queue = ctx.objects.add(new Veventq(viommu, args.type, args.veventq_depth));
  queue.users++;
  args.out_veventq_id = queue.id;
  args.out_veventq_fd = ctx.files.open(queue);
  return 0;
}

export function hwQueueAlloc(ctx: Context, args: RequestArgs<"HW_QUEUE_ALLOC">): number {
  const { type, index, length, nesting_parent_iova: iova } = args;
  const status = unsupported(args.flags, 0);
  if (status < 0) return status;
  if (type === 0) return -EOPNOTSUPP;
  if (length === 0) return -EINVAL;
  if (iova + length > ULONG_MAX) return -EOVERFLOW;
  const object = ctx.objects.get(args.viommu_id, ViommuObject);
  if (object === undefined) return -ENOENT;
  const { ops } = object.viommu;
  if (ops.hwQueueInit === undefined || ops.hasHwQueue?.(object.viommu, type) !== true) return -EOPNOTSUPP;
  const pa = object.hwpt.ioas.pin(iova, length);
  if (pa < 0) return pa;
  const queue: HwQueue = { viommu: object.viommu, type, index, pa, length, drvdata: undefined };
  const created = new HwQueueObject(object, queue, iova);
  const init = ops.hwQueueInit(queue);
  if (init < 0) {
    created.release();
    return init;
  }
  args.out_hw_queue_id = ctx.objects.add(created).id;
  return 0;
}
