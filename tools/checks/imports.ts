// Every way a module's text can name another module, types included.
import ts from "typescript";

export interface Import {
  readonly kind: "import" | "export" | "import()" | "import type" | "import =" | "reference path" | "reference types";
  /** Undefined where the text does not say: `import(expression)`. */
  readonly specifier: string | undefined;
  /** From 1. */
  readonly line: number;
}

export function parse(fileName: string, text: string): ts.SourceFile {
  return ts.createSourceFile(fileName, text, ts.ScriptTarget.ESNext, true);
}

function literal(node: ts.Node | undefined): string | undefined {
  return node !== undefined && ts.isStringLiteralLike(node) ? node.text : undefined;
}

function importOf(node: ts.Node): Omit<Import, "line"> | undefined {
  if (ts.isImportDeclaration(node)) return { kind: "import", specifier: literal(node.moduleSpecifier) };
  if (ts.isExportDeclaration(node) && node.moduleSpecifier !== undefined) {
    return { kind: "export", specifier: literal(node.moduleSpecifier) };
  }
  if (ts.isCallExpression(node) && node.expression.kind === ts.SyntaxKind.ImportKeyword) {
    return { kind: "import()", specifier: literal(node.arguments[0]) };
  }
  if (ts.isImportTypeNode(node)) {
    const argument = node.argument;
    return { kind: "import type", specifier: ts.isLiteralTypeNode(argument) ? literal(argument.literal) : undefined };
  }
  if (ts.isExternalModuleReference(node)) return { kind: "import =", specifier: literal(node.expression) };
  return undefined;
}

/** All imports of `text`, in no particular order. */
export function listImports(fileName: string, text: string): readonly Import[] {
  const source = parse(fileName, text);
  const found: Import[] = [];
  const lineAt = (position: number): number => source.getLineAndCharacterOfPosition(position).line + 1;
  for (const { fileName: specifier, pos } of source.referencedFiles) {
    found.push({ kind: "reference path", specifier, line: lineAt(pos) });
  }
  for (const { fileName: specifier, pos } of source.typeReferenceDirectives) {
    found.push({ kind: "reference types", specifier, line: lineAt(pos) });
  }
  const visit = (node: ts.Node): void => {
    const one = importOf(node);
    if (one !== undefined) found.push({ ...one, line: lineAt(node.getStart(source)) });
    ts.forEachChild(node, visit);
  };
  visit(source);
  return found;
}
