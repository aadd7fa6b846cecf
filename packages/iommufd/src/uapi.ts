import { isZero } from "@smmuv3/iommu-core";
import { UAPI_ERRNO } from "./errno.ts";

/** Widths in bytes of the members of a structure, in order. */
type Members = Readonly<Record<string, 2 | 4 | 8>>;

/**
 * Every request that this understands, by its name without `IOMMU_`: the number of its ioctl (type `;`); its structure, that of
 * `linux/iommufd.h`, behind the 32-bit `size` that it begins with; and the last member that a caller's structure must reach.
 */
export const REQUESTS = {
  DESTROY: { nr: 0x80, members: { id: 4 }, least: "id" },
  IOAS_ALLOC: { nr: 0x81, members: { flags: 4, out_ioas_id: 4 }, least: "out_ioas_id" },
  IOAS_ALLOW_IOVAS: { nr: 0x82, members: { ioas_id: 4, num_iovas: 4, reserved: 4, allowed_iovas: 8 }, least: "allowed_iovas" },
  IOAS_COPY: { nr: 0x83, members: { flags: 4, dst_ioas_id: 4, src_ioas_id: 4, length: 8, dst_iova: 8, src_iova: 8 }, least: "src_iova" },
  IOAS_IOVA_RANGES: {
    nr: 0x84,
    members: {
      ioas_id: 4, num_iovas: 4, reserved: 4, allowed_iovas: 8, out_iova_alignment: 8,
    },
    least: "out_iova_alignment",
  },
  IOAS_MAP: { nr: 0x85, members: { flags: 4, ioas_id: 4, reserved: 4, user_va: 8, length: 8, iova: 8 }, least: "iova" },
  IOAS_UNMAP: { nr: 0x86, members: { ioas_id: 4, iova: 8, length: 8 }, least: "length" },
  HWPT_ALLOC: {
    nr: 0x89,
    members: {
      flags: 4, dev_id: 4, pt_id: 4, out_hwpt_id: 4, reserved: 4, data_type: 4, data_len: 4, data_uptr: 8, fault_id: 4,
      reserved2: 4,
    },
    least: "reserved",
  },
  GET_HW_INFO: {
    nr: 0x8a,
    members: {
      flags: 4, dev_id: 4, data_len: 4, data_uptr: 8, data_type: 4, max_pasid_log2: 4, out_capabilities: 8,
    },
    least: "max_pasid_log2",
  },
  HWPT_SET_DIRTY_TRACKING: { nr: 0x8b, members: { flags: 4, hwpt_id: 4, reserved: 4 }, least: "reserved" },
  HWPT_GET_DIRTY_BITMAP: {
    nr: 0x8c,
    members: {
      hwpt_id: 4, flags: 4, reserved: 4, iova: 8, length: 8, page_size: 8, data: 8,
    },
    least: "data",
  },
  HWPT_INVALIDATE: {
    nr: 0x8d,
    members: {
      hwpt_id: 4, data_uptr: 8, data_type: 4, entry_len: 4, entry_num: 4, reserved: 4,
    },
    least: "reserved",
  },
  FAULT_QUEUE_ALLOC: { nr: 0x8e, members: { flags: 4, out_fault_id: 4, out_fault_fd: 4 }, least: "out_fault_fd" },
  VIOMMU_ALLOC: {
    nr: 0x90,
    members: {
      flags: 4, type: 4, dev_id: 4, hwpt_id: 4, out_viommu_id: 4, data_len: 4, reserved: 4, data_uptr: 8,
    },
    least: "out_viommu_id",
  },
  VDEVICE_ALLOC: { nr: 0x91, members: { viommu_id: 4, dev_id: 4, out_vdevice_id: 4, virt_id: 8 }, least: "virt_id" },
  VEVENTQ_ALLOC: {
    nr: 0x93,
    members: {
      flags: 4, viommu_id: 4, type: 4, veventq_depth: 4, out_veventq_id: 4, out_veventq_fd: 4, reserved: 4,
    },
    least: "reserved",
  },
  HW_QUEUE_ALLOC: {
    nr: 0x94,
    members: {
      flags: 4, viommu_id: 4, type: 4, index: 4, out_hw_queue_id: 4, nesting_parent_iova: 8, length: 8,
    },
    least: "length",
  },
} as const;

export type RequestName = keyof typeof REQUESTS;
/** The members of a request by name; addresses as numbers, of which those from 2^53 on are approximate. */
export type RequestArgs<N extends RequestName> = Record<keyof (typeof REQUESTS)[N]["members"] & string, number>;

export const IOAS_MAP_FLAG = { fixedIova: 1, writeable: 2, readable: 4 } as const;
export const HWPT_FLAG = { nestParent: 1, dirtyTracking: 2, faultIdValid: 4, pasid: 8 } as const;
export const HW_INFO_FLAG = { inputType: 1 } as const;
/** Bits of GET_HW_INFO's `out_capabilities`. */
export const HW_CAP = { dirtyTracking: 1, pasidExec: 2, pasidPriv: 4 } as const;
export const SET_DIRTY_FLAG = { enable: 1 } as const;
export const GET_DIRTY_FLAG = { noClear: 1 } as const;
/** Flags of a vEVENTQ record: events were lost here. */
export const VEVENTQ_FLAG = { lostEvents: 1 } as const;
/** Flags of a page request in a fault queue. */
export const PGFAULT_FLAG = { pasidValid: 1, lastPage: 2 } as const;
/** Codes of an answer to it. */
export const PAGE_RESPONSE_CODE = { success: 0, invalid: 1 } as const;

const SIZE_BYTES = 4;
const U32 = 2 ** 32;
/** ULONG_MAX, as nearly as a number can be. */
const U64 = 2 ** 64;

/** Offset of each member, naturally aligned, behind `size`; and of the end. */
function offsets(members: Members): { at: Record<string, number>; end: number } {
  const at: Record<string, number> = {};
  let end = SIZE_BYTES;
  for (const [name, width] of Object.entries(members)) {
    end = Math.ceil(end / width) * width;
    at[name] = end;
    end += width;
  }
  return { at, end };
}

/** Bytes of a request's whole structure. */
export function requestBytes(name: RequestName): number {
  return offsets(REQUESTS[name].members).end;
}

/** The request of an ioctl number. */
export function requestOf(nr: number): RequestName | undefined {
  return (Object.keys(REQUESTS) as RequestName[]).find((name) => REQUESTS[name].nr === nr);
}

/** The structure of a request, with `size`; members that are not given are 0. */
export function encodeRequest(name: RequestName, args: Readonly<Record<string, number>>): Uint8Array {
  const { members } = REQUESTS[name];
  const { at, end } = offsets(members);
  const bytes = new Uint8Array(end);
  new DataView(bytes.buffer).setUint32(0, end, true);
  writeMembers(bytes, members, at, args);
  return bytes;
}

/** Stores members into a structure, as far as it reaches. */
export function storeRequest(name: RequestName, bytes: Uint8Array, args: Readonly<Record<string, number>>): void {
  const { members } = REQUESTS[name];
  writeMembers(bytes, members, offsets(members).at, args);
}

function writeMembers(
  bytes: Uint8Array, members: Members, at: Record<string, number>, args: Readonly<Record<string, number>>,
): void {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  for (const [name, width] of Object.entries(members)) {
    const offset = at[name]!;
    const value = args[name] ?? 0;
    if (offset + width > bytes.length) continue;
    if (width === 2) view.setUint16(offset, value, true);
    else view.setUint32(offset, value < U64 ? value % U32 : U32 - 1, true);
    if (width === 8) view.setUint32(offset + 4, value < U64 ? Math.floor(value / U32) : U32 - 1, true);
  }
}

/**
 * The members of a caller's structure; those behind its end are 0. -EINVAL when it is too short, -E2BIG when it is longer than
 * what is known here and the rest is not zero.
 */
export function decodeRequest(name: RequestName, bytes: Uint8Array): Record<string, number> | number {
  const members: Members = REQUESTS[name].members;
  const { least } = REQUESTS[name];
  const { at, end } = offsets(members);
  if (bytes.length < SIZE_BYTES) return -UAPI_ERRNO.EFAULT;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const size = view.getUint32(0, true);
  if (size < at[least]! + members[least]!) return -UAPI_ERRNO.EINVAL;
  if (size > bytes.length) return -UAPI_ERRNO.EFAULT;
  if (!isZero(bytes, end, Math.max(end, size))) return -UAPI_ERRNO.E2BIG;
  const args: Record<string, number> = {};
  for (const [member, width] of Object.entries(members)) {
    const offset = at[member]!;
    if (offset + width > size) args[member] = 0;
    else if (width === 2) args[member] = view.getUint16(offset, true);
    else args[member] = view.getUint32(offset, true) + (width === 8 ? view.getUint32(offset + 4, true) * U32 : 0);
  }
  return args;
}
