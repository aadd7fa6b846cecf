import { PROT } from "@smmuv3/iommu-core";
import { unsupported } from "./context.ts";
import type { Context } from "./context.ts";
import { UAPI_ERRNO } from "./errno.ts";
import { Ioas } from "./ioas.ts";
import type { IovaRange } from "./ioas.ts";
import { IOAS_MAP_FLAG } from "./uapi.ts";
import type { RequestArgs } from "./uapi.ts";

const { EINVAL, EMSGSIZE, ENOENT, EOVERFLOW } = UAPI_ERRNO;
const FLAGS = IOAS_MAP_FLAG.fixedIova | IOAS_MAP_FLAG.writeable | IOAS_MAP_FLAG.readable;
const ULONG_MAX = 2 ** 64;
/** `struct iommu_iova_range`. */
const RANGE_BYTES = 16;

function protOf(flags: number): { prot: number; write: boolean } {
  const write = (flags & IOAS_MAP_FLAG.writeable) !== 0;
  const prot = PROT.CACHE | (write ? PROT.WRITE : 0) | ((flags & IOAS_MAP_FLAG.readable) !== 0 ? PROT.READ : 0);
  return { prot, write };
}

function rangesOf(bytes: Uint8Array): IovaRange[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const at = (offset: number): number => view.getUint32(offset, true) + view.getUint32(offset + 4, true) * 2 ** 32;
  return Array.from({ length: bytes.length / RANGE_BYTES }, (_, i) => ({
    start: at(i * RANGE_BYTES), last: at(i * RANGE_BYTES + 8),
  }));
}

function bytesOf(ranges: readonly IovaRange[]): Uint8Array {
  const view = new DataView(new ArrayBuffer(ranges.length * RANGE_BYTES));
  for (const [i, range] of ranges.entries()) {
    for (const [j, value] of [range.start, range.last].entries()) {
      view.setUint32(i * RANGE_BYTES + j * 8, value % 2 ** 32, true);
      view.setUint32(i * RANGE_BYTES + j * 8 + 4, Math.floor(value / 2 ** 32), true);
    }
  }
  return new Uint8Array(view.buffer);
}

export function ioasAlloc(ctx: Context, args: RequestArgs<"IOAS_ALLOC">): number {
  const status = unsupported(args.flags, 0);
  if (status < 0) return status;
  args.out_ioas_id = ctx.objects.add(new Ioas(ctx.core)).id;
  return 0;
}

export function ioasAllowIovas(ctx: Context, args: RequestArgs<"IOAS_ALLOW_IOVAS">): number {
  const status = unsupported(0, 0, args.reserved);
  if (status < 0) return status;
  const ioas = ctx.objects.get(args.ioas_id, Ioas);
  if (ioas === undefined) return -ENOENT;
  const bytes = ctx.user.read(args.allowed_iovas, args.num_iovas * RANGE_BYTES);
  return typeof bytes === "number" ? bytes : ioas.allow(rangesOf(bytes));
}

export function ioasIovaRanges(ctx: Context, args: RequestArgs<"IOAS_IOVA_RANGES">): number {
  const status = unsupported(0, 0, args.reserved);
  if (status < 0) return status;
  const ioas = ctx.objects.get(args.ioas_id, Ioas);
  if (ioas === undefined) return -ENOENT;
  const ranges = ioas.ranges();
  const room = args.num_iovas;
  args.num_iovas = ranges.length;
  args.out_iova_alignment = ioas.alignment;
  const written = ctx.user.write(args.allowed_iovas, bytesOf(ranges.slice(0, room)));
  if (written < 0) return written;
  return room < ranges.length ? -EMSGSIZE : 0;
}

export function ioasMap(ctx: Context, args: RequestArgs<"IOAS_MAP">): number {
  const status = unsupported(args.flags, FLAGS, args.reserved);
  if (status < 0) return status;
  if (args.iova >= ULONG_MAX || args.length >= ULONG_MAX) return -EOVERFLOW;
  const rights = protOf(args.flags);
  if ((rights.prot & (PROT.READ | PROT.WRITE)) === 0) return -EINVAL;
  const ioas = ctx.objects.get(args.ioas_id, Ioas);
  if (ioas === undefined) return -ENOENT;
  const iova = (args.flags & IOAS_MAP_FLAG.fixedIova) === 0 ? undefined : args.iova;
  const place = ioas.map({ user: ctx.user, userVa: args.user_va, length: args.length, iova, ...rights });
  if (place < 0) return place;
  args.iova = place;
  return 0;
}

export function ioasCopy(ctx: Context, args: RequestArgs<"IOAS_COPY">): number {
  const status = unsupported(args.flags, FLAGS);
  if (status < 0) return status;
  if (args.length >= ULONG_MAX || args.dst_iova >= ULONG_MAX || args.src_iova >= ULONG_MAX) return -EOVERFLOW;
  const rights = protOf(args.flags);
  if ((rights.prot & (PROT.READ | PROT.WRITE)) === 0) return -EINVAL;
  const [source, target] = [args.src_ioas_id, args.dst_ioas_id].map((id) => ctx.objects.get(id, Ioas));
  if (source === undefined || target === undefined) return -ENOENT;
  if (args.length === 0) return -EINVAL;
  const parts = source.copyOf(args.src_iova, args.length);
  if (typeof parts === "number") return parts;
  if ((args.flags & IOAS_MAP_FLAG.fixedIova) === 0 && parts.length > 1) return -EINVAL;
  let next = (args.flags & IOAS_MAP_FLAG.fixedIova) === 0 ? undefined : args.dst_iova;
  const done: { at: number; length: number }[] = [];
  for (const part of parts) {
    const place = target.map({ ...part, iova: next, ...rights });
    if (place < 0) {
      for (const { at, length } of done) target.unmap(at, length);
      return place;
    }
    done.push({ at: place, length: part.length });
    next = place + part.length;
  }
  args.dst_iova = done[0]!.at;
  return 0;
}

export function ioasUnmap(ctx: Context, args: RequestArgs<"IOAS_UNMAP">): number {
  const ioas = ctx.objects.get(args.ioas_id, Ioas);
  if (ioas === undefined) return -ENOENT;
  if (args.iova >= ULONG_MAX || (args.length >= ULONG_MAX && args.iova !== 0)) return -EOVERFLOW;
  const bytes = ioas.unmap(args.iova, args.length);
  if (bytes < 0) return bytes;
  args.length = bytes;
  return 0;
}
