export { createPkvmImpl } from "./impl.ts";
export { PkvmBackend } from "./backend.ts";
