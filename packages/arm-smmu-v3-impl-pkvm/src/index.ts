export { createPkvmImpl } from "./impl.ts";
export type { PkvmImplOptions } from "./impl.ts";
export { PkvmBackend } from "./backend.ts";
