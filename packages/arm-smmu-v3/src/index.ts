export { ArmSmmuV3, registerArmSmmuV3 } from "./driver.ts";
export type { ArmSmmuV3Options } from "./driver.ts";
export { SmmuDomain } from "./domain.ts";
export type { DomainHost } from "./domain.ts";
export type { Backend, ImplOps } from "./impl.ts";
export { NativeBackend } from "./native.ts";
export { Master, SmmuDevice } from "./smmu.ts";
