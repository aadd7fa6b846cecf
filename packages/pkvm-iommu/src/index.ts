export { pkvmIommuDriver } from "./driver.ts";
export type { PkvmIommuOptions } from "./driver.ts";
