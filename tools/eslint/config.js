import { defineConfig, globalIgnores } from "eslint/config";
import tseslint from "typescript-eslint";

const NON_LITERAL_IMPORT = {
  selector: "ImportExpression[source.type!='Literal']",
  message: "boundary: a non-literal import() hides a dependency; name the package in the text.",
};
const CREATE_REQUIRE = {
  selector: "ImportSpecifier[imported.name='createRequire'], MemberExpression[property.name='createRequire']",
  message: "boundary: createRequire goes around the dependency check.",
};
// A constant table is built with its content; a collection that starts empty, or a static field, is there to change.
const OF_MODULE = ["Program > VariableDeclaration", "Program > ExportNamedDeclaration > VariableDeclaration"];
const GLOBAL_STATE = {
  selector: [
    "Identifier[name='globalThis']",
    "PropertyDefinition[static=true][readonly=false]",
    ...OF_MODULE.map((declaration) => `${declaration}[kind='let']`),
    ...OF_MODULE.map((declaration) => {
      return `${declaration} > VariableDeclarator > NewExpression[callee.name=/^(Weak)?(Map|Set)$/][arguments.length=0]`;
    }),
  ].join(", "),
  message: "boundary: global state joins worlds behind the package graph; pass it as an argument.",
};

export default defineConfig(
  globalIgnores(["**/dist/", "**/.turbo/", "**/coverage/"]),
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
      "no-restricted-syntax": ["error", NON_LITERAL_IMPORT, CREATE_REQUIRE, GLOBAL_STATE],
    },
  },
);
