// Ways around the package graph that no import shows. `pnpm boundaries` runs these alone, `pnpm lint` with all others.
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

export const BOUNDARY_RULES = { "no-restricted-syntax": ["error", NON_LITERAL_IMPORT, CREATE_REQUIRE, GLOBAL_STATE] };
