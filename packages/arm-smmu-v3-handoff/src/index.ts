export { SmmuHandoff } from "./handoff.ts";
export type { ClaimedSmmu, SmmuHandoffOptions } from "./handoff.ts";
export { attachEventQueue, takeGlobalErrors } from "./hyp-events.ts";
export type { EventRefusal } from "./hyp-events.ts";
export { giveToHyp } from "./offer.ts";
export type { SmmuOffer } from "./offer.ts";
