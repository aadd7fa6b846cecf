import { defineConfig } from "vitest/config";
import type { ViteUserConfig } from "vitest/config";

/** The package's tests but for that of its README, which looks for files outside of the copy that mutants are tested in. */
const config: ViteUserConfig = defineConfig({ test: { exclude: ["**/readme.test.ts", "**/node_modules/**"], testTimeout: 120_000, hookTimeout: 120_000 } });

export default config;
