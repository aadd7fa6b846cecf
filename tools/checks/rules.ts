// All rules of `pnpm boundaries` that turbo does not check itself. Each takes the root and returns what breaks it.
import { checkBundleLevels, checkIdenticalDriver } from "./rules-bundle.ts";
import { checkArchitectureTable, checkExports, checkTags } from "./rules-manifest.ts";
import { checkFileSize, checkIgnores, checkRelativeImports, checkSourceImports } from "./rules-source.ts";
import type { Finding } from "./workspace.ts";

export type Rule = (root: string) => readonly Finding[];

export const RULES: Readonly<Record<string, Rule>> = {
  "boundary/tags": checkTags,
  "boundary/architecture-table": checkArchitectureTable,
  "boundary/exports": checkExports,
  "boundary/relative-import": checkRelativeImports,
  "boundary/ignore": checkIgnores,
  "boundary/source-import": checkSourceImports,
  "boundary/file-size": checkFileSize,
  "boundary/bundle-levels": checkBundleLevels,
  "boundary/identical-driver": checkIdenticalDriver,
};
