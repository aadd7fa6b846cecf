import { ERRNO } from "@smmuv3/platform";

/** Error numbers of this interface: those of drivers, and what only system calls return. */
export const UAPI_ERRNO: typeof ERRNO & {
  readonly ENOTTY: 25; readonly EOVERFLOW: 75; readonly EMSGSIZE: 90; readonly EADDRINUSE: 98;
} = { ...ERRNO, ENOTTY: 25, EOVERFLOW: 75, EMSGSIZE: 90, EADDRINUSE: 98 };
