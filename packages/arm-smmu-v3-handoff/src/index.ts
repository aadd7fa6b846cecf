export { EventChannel } from "./event-channel.ts";
export type { RecordSink } from "./event-channel.ts";
export { SmmuHandoff, translationLimits } from "./handoff.ts";
export type { ClaimedSmmu, SmmuHandoffOptions, TranslationLimits } from "./handoff.ts";
export { attachEventQueue, takeGlobalErrors } from "./hyp-events.ts";
export type { EventRefusal } from "./hyp-events.ts";
export { giveToHyp } from "./offer.ts";
export type { SmmuOffer } from "./offer.ts";
