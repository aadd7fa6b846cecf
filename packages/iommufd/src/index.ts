export type { IommufdOptions } from "./context.ts";
export { UAPI_ERRNO } from "./errno.ts";
export type { EventFile } from "./files.ts";
export { Iommufd } from "./iommufd.ts";
export type { CallResult } from "./iommufd.ts";
export {
  encodeRequest, GET_DIRTY_FLAG, HW_CAP, HW_INFO_FLAG, HWPT_FLAG, IOAS_MAP_FLAG, PAGE_RESPONSE_CODE, PGFAULT_FLAG, requestBytes,
  REQUESTS, SET_DIRTY_FLAG, VEVENTQ_FLAG,
} from "./uapi.ts";
export type { RequestArgs, RequestName } from "./uapi.ts";
export { UserMemory } from "./user-memory.ts";
