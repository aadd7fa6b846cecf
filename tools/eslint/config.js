import { defineConfig, globalIgnores } from "eslint/config";
import tseslint from "typescript-eslint";
import { BOUNDARY_RULES } from "./boundary-rules.js";

export default defineConfig(
  globalIgnores(["**/dist/", "**/.turbo/", "**/coverage/", "**/.stryker-tmp/"]),
  {
    files: ["packages/*/{src,test,bench}/**/*.ts", "tools/**/*.ts"],
    extends: [tseslint.configs.strictTypeChecked, tseslint.configs.stylisticTypeChecked],
    languageOptions: { parserOptions: { projectService: true } },
    rules: {
      // isolatedDeclarations wants annotations on exports; the stylistic preset removes them.
      "@typescript-eslint/no-inferrable-types": "off",
      "@typescript-eslint/no-import-type-side-effects": "error",
      "@typescript-eslint/restrict-template-expressions": ["error", { allowNumber: true }],
      // Bounded typed-array reads on hot paths: the assertion costs nothing, a run-time check does.
      "@typescript-eslint/no-non-null-assertion": "off",
      // Registers, contracts and hardware callbacks have members that deliberately do nothing.
      "@typescript-eslint/no-empty-function": "off",
      "@typescript-eslint/prefer-for-of": "off",
      ...BOUNDARY_RULES,
    },
  },
);
