export { riscvIommuDriver } from "./driver.ts";
export { SvTable } from "./sv-table.ts";
export type { SvTableOptions } from "./sv-table.ts";
