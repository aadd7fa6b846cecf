export { createKvmDriver } from "./driver.ts";
