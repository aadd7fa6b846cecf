export { SmmuHandoff } from "./handoff.ts";
export type { ClaimedSmmu, SmmuHandoffOptions } from "./handoff.ts";
