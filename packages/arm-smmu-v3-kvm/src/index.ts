export { decodeRecord } from "./events.ts";
export type { SmmuEvent } from "./events.ts";
export { createSmmuKvm } from "./kvm.ts";
export type { SmmuKvm, SmmuKvmOptions } from "./kvm.ts";
