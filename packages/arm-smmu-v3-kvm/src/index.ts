export { createSmmuKvm } from "./kvm.ts";
export type { SmmuKvm, SmmuKvmOptions } from "./kvm.ts";
