import { defineConfig, globalIgnores } from "eslint/config";
import tseslint from "typescript-eslint";
import { BOUNDARY_RULES } from "./boundary-rules.js";

export default defineConfig(globalIgnores(["**/dist/", "**/.turbo/", "**/coverage/"]), {
  files: ["packages/*/{src,test,bench}/**/*.ts", "tools/**/*.ts"],
  languageOptions: { parser: tseslint.parser },
  // Comments that switch off rules of the full configuration mean nothing here.
  linterOptions: { reportUnusedDisableDirectives: "off" },
  plugins: { "@typescript-eslint": tseslint.plugin },
  rules: BOUNDARY_RULES,
});
