export { pkvmIommuDriver, streamOwner } from "./driver.ts";
export type { PkvmIommuOptions } from "./driver.ts";
