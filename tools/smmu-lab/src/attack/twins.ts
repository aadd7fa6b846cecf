import { parse } from "acorn";
import type { AnyNode, CallExpression, Function as FunctionNode, MemberExpression, MethodDefinition, Property } from "acorn";

/**
 * What the rewritten bundle needs at run time. A yield without a value is a point at which another CPU may go on, $hooks says that it is
 * at the edge of what a lock protects, and a yielded lock is what the CPU waits for.
 */
const PRELUDE = `
export const $hooks = { mine() { return true; }, lock() {}, unlock() {} };
const $POINTS = new Set(["load32", "store32", "load64", "store64", "fill", "read", "write", "read32", "write32", "read64", "write64",
  "barrier", "tlbiIpa", "tlbiAll", "setHostStage2", "relax", "runGuest"]);
function $w(f, g) { f.$g = g; return f; }
function* $m(o, k, g, a) {
  if (k === "lock" && "held" in o) return yield* $lock(o, a);
  if (k === "unlock" && "held" in o) return yield* $unlock(o, a);
  const t = o[g];
  if (t !== undefined) return yield* t.apply(o, a);
  const f = o[k];
  if (f !== undefined && f.$g !== undefined) return yield* f.$g.apply(o, a);
  if ($POINTS.has(k)) yield;
  return o[k](...a);
}
function* $lock(o, a) {
  yield $hooks;
  // What this CPU holds already is the lock's own business to report.
  while (o.held && !$hooks.mine(o)) yield o;
  $hooks.lock(o);
  return o.lock(...a);
}
function* $unlock(o, a) {
  $hooks.unlock(o);
  o.unlock(...a);
  yield $hooks;
}
function* $f(f, a) {
  return f.$g === undefined ? f(...a) : yield* f.$g(...a);
}
function* $p(f, o, a) {
  return f.$g === undefined ? f.apply(o, a) : yield* f.$g.apply(o, a);
}
function* $st(o, i, v) {
  yield;
  return (o[i] = v);
}
function* $rmw(o, i, v, f) {
  yield;
  const old = o[i];
  yield;
  return (o[i] = f(old, v));
}
`;

/** Objects and functions of the language: their calls are one step. */
const BUILTINS: ReadonlySet<string> = new Set([
  "Array", "ArrayBuffer", "Atomics", "BigInt", "Boolean", "Error", "Float64Array", "Int32Array", "JSON", "Map", "Math", "Number", "Object", "Promise",
  "RangeError", "Reflect", "Set", "String", "Symbol", "TypeError", "Uint8Array", "Uint16Array", "Uint32Array", "isNaN", "parseInt",
]);

/** Functions that work on copies in registers of the CPU: nobody else sees what they do. */
const LOCAL: ReadonlySet<string> = new Set([
  "getField", "setField", "getAddress", "setAddress", "extract", "place", "maskOf", "bits", "wordMask", "lo32", "hi32", "join", "alignUp", "hex",
  "frameArg", "setFrame", "frameResult", "hypercallName", "functionId",
]);

/** Arrays whose elements are physical memory. */
const RAM: ReadonlySet<string> = new Set(["words", "#words"]);

type Node = AnyNode & { readonly start: number; readonly end: number };

/** Text in the place of a node. */
interface Raw {
  readonly type: "Raw";
  readonly text: string;
}

/** Names that a function being rewritten needs for intermediate values. */
class Temporaries {
  #count = 0;

  next(): string {
    return `$t${this.#count++}`;
  }

  get declaration(): string {
    return this.#count === 0 ? "" : `let ${Array.from({ length: this.#count }, (_, i) => `$t${i}`).join(", ")};`;
  }
}

function isNode(value: unknown): value is Node {
  return typeof value === "object" && value !== null && "type" in value && typeof value.type === "string";
}

/** Children in the order of the text. */
function childrenOf(node: Node): Node[] {
  if (node.type === "ExportSpecifier") return [];
  if (node.type === "Property" && node.shorthand) return [node.value];
  const children = Object.entries(node).flatMap(([key, value]): unknown[] => (key === "type" ? [] : Array.isArray(value) ? value : [value]));
  return children.filter(isNode).sort((a, b) => a.start - b.start);
}

/** What may have a name. */
interface Named {
  readonly type: string;
  readonly name?: string;
}

function nameOf(node: Named): string | undefined {
  return node.type === "Identifier" ? node.name : node.type === "PrivateIdentifier" ? `#${node.name!}` : undefined;
}

class Rewriter {
  readonly #text: string;
  /** Functions declared at the top. */
  readonly #functions = new Set<string>();
  /** Private methods, whatever their class. */
  readonly #privateMethods = new Set<string>();
  /** The body being written is that of a twin: its intermediate values. Undefined: it runs in one piece. */
  #twin: Temporaries | undefined = undefined;

  constructor(text: string) {
    this.#text = text;
  }

  run(): string {
    const program = parse(this.#text, { ecmaVersion: "latest", sourceType: "module" });
    for (const statement of program.body) if (statement.type === "FunctionDeclaration") this.#functions.add(statement.id.name);
    this.#collect(program);
    return PRELUDE + this.#emit(program);
  }

  #collect(node: Node): void {
    if (node.type === "MethodDefinition" && node.kind === "method" && node.key.type === "PrivateIdentifier") this.#privateMethods.add(node.key.name);
    for (const child of childrenOf(node)) this.#collect(child);
  }

  /** The text of `node`, rewritten. */
  #emit(node: Node | Raw): string {
    switch (node.type) {
      case "Raw":
        return node.text;
      case "FunctionDeclaration":
        return this.#declaration(node);
      case "FunctionExpression":
      case "ArrowFunctionExpression":
        return this.#expression(node);
      case "MethodDefinition":
        return this.#method(node);
      case "PropertyDefinition":
      case "StaticBlock":
        return this.#within(undefined, () => this.#pieces(node));
      case "Property":
        return node.method ? this.#objectMethod(node) : this.#pieces(node);
      default:
        return this.#twin === undefined ? this.#pieces(node) : this.#step(node);
    }
  }

  /** In a twin: what may be interrupted. */
  #step(node: Node): string {
    switch (node.type) {
      case "ChainExpression":
        return this.#chain(node.expression);
      case "CallExpression":
        return this.#call(node);
      case "MemberExpression":
        return this.#isRam(node) ? `(yield, ${this.#member(node)})` : this.#member(node);
      case "AssignmentExpression":
        if (node.left.type !== "MemberExpression" || !this.#isRam(node.left)) return this.#pieces(node);
        return this.#store(node.left, node.operator, this.#emit(node.right));
      case "UpdateExpression":
        if (node.argument.type !== "MemberExpression" || !this.#isRam(node.argument)) return this.#pieces(node);
        return this.#store(node.argument, `${node.operator[0]}=`, "1");
      default:
        return this.#pieces(node);
    }
  }

  /** The text between the children as it is. */
  #pieces(node: Node): string {
    let out = "";
    let at = node.start;
    for (const child of childrenOf(node)) {
      out += this.#text.slice(at, child.start) + this.#emit(child);
      at = child.end;
    }
    return out + this.#text.slice(at, node.end);
  }

  #within(twin: Temporaries | undefined, emit: () => string): string {
    const outer = this.#twin;
    this.#twin = twin;
    const out = emit();
    this.#twin = outer;
    return out;
  }

  #isRam(node: MemberExpression): boolean {
    if (!node.computed) return false;
    const { object } = node;
    const name = object.type === "MemberExpression" && !object.computed ? nameOf(object.property) : nameOf(object);
    return name !== undefined && RAM.has(name);
  }

  #member(node: MemberExpression): string {
    const object = this.#emit(node.object);
    return node.computed ? `${object}[${this.#emit(node.property)}]` : `${object}.${nameOf(node.property)!}`;
  }

  #store(left: MemberExpression, operator: string, value: string): string {
    const array = this.#emit(left.object);
    const index = this.#emit(left.property);
    if (operator === "=") return `(yield* $st(${array}, ${index}, ${value}))`;
    return `(yield* $rmw(${array}, ${index}, ${value}, (a, b) => a ${operator.slice(0, -1)} b))`;
  }

  #canTwin(node: FunctionNode): boolean {
    return !node.async && !node.generator;
  }

  /** Parameters and body of a twin, from the opening bracket on. */
  #twinBody(node: FunctionNode): string {
    const parameters = this.#within(undefined, () => node.params.map((one) => this.#emit(one as Node)).join(", "));
    const temporaries = new Temporaries();
    const body = this.#within(temporaries, () =>
      node.body.type === "BlockStatement" ? this.#emit(node.body) : `{ return (${this.#emit(node.body)}); }`,
    );
    return `(${parameters}) {${temporaries.declaration}${body.slice(1)}`;
  }

  #plain(node: FunctionNode): string {
    return this.#within(undefined, () => this.#pieces(node as Node));
  }

  #declaration(node: FunctionNode): string {
    const plain = this.#plain(node);
    if (!this.#canTwin(node)) return plain;
    const name = node.id!.name;
    return `${plain}\nfunction* ${name}$g${this.#twinBody(node)}\n${name}.$g = ${name}$g;`;
  }

  #expression(node: FunctionNode): string {
    const plain = this.#plain(node);
    if (!this.#canTwin(node)) return plain;
    const bound = node.type === "ArrowFunctionExpression" ? ".bind(this)" : "";
    return `$w(${plain}, (function* ${this.#twinBody(node)})${bound})`;
  }

  #method(node: MethodDefinition): string {
    const { key, value, kind } = node;
    const plain = this.#text.slice(node.start, value.start) + this.#plain(value);
    const name = nameOf(key);
    if (kind !== "method" || node.computed || name === undefined || !this.#canTwin(value)) return plain;
    return `${plain}\n${node.static ? "static " : ""}*${name}$g${this.#twinBody(value)}`;
  }

  #objectMethod(node: Property): string {
    const value = node.value as FunctionNode;
    const plain = this.#text.slice(node.start, value.start) + this.#plain(value);
    const name = nameOf(node.key);
    return name === undefined || !this.#canTwin(value) ? plain : `${plain}, *${name}$g${this.#twinBody(value)}`;
  }

  #arguments(node: CallExpression): string {
    return node.arguments.map((one) => this.#emit(one as Node)).join(", ");
  }

  #call(node: CallExpression): string {
    const callee = node.callee as Node | Raw;
    const args = this.#arguments(node);
    if (callee.type === "Identifier") {
      if (LOCAL.has(callee.name)) return `${callee.name}(${args})`;
      if (this.#functions.has(callee.name)) return `(yield* ${callee.name}$g(${args}))`;
      return BUILTINS.has(callee.name) ? `${callee.name}(${args})` : `(yield* $f(${callee.name}, [${args}]))`;
    }
    if (callee.type !== "MemberExpression") return `(yield* $f(${this.#emit(callee)}, [${args}]))`;
    const object = callee.object as Node | Raw;
    if (object.type === "Identifier" && BUILTINS.has(object.name)) {
      const plain = `${this.#text.slice(callee.start, callee.end)}(${args})`;
      return object.name === "Atomics" ? `(yield, ${plain})` : plain;
    }
    const property = callee.property as Node;
    if (property.type === "PrivateIdentifier") {
      const on = this.#emit(object);
      return this.#privateMethods.has(property.name) ? `(yield* ${on}.#${property.name}$g(${args}))` : `(yield* $p(${on}.#${property.name}, ${on}, [${args}]))`;
    }
    if (object.type === "Super") return `(yield* super.${nameOf(property)}$g(${args}))`;
    if (callee.computed) return `(yield* $m(${this.#emit(object)}, ${this.#emit(property)}, "", [${args}]))`;
    const name = nameOf(property)!;
    return `(yield* $m(${this.#emit(object)}, "${name}", "${name}$g", [${args}]))`;
  }

  /** `a?.b(c).d`: the whole is undefined where `a` is, and what follows is not evaluated. */
  #chain(node: Node): string {
    const inner = this.#innermost(node);
    if (inner === undefined) return this.#emit(node);
    const temporary = this.#twin!.next();
    const raw: Raw = { type: "Raw", text: temporary };
    if (inner.type === "MemberExpression") {
      const rest = this.#replace(node, inner, { ...inner, object: raw, optional: false } as unknown as Node);
      return `((${temporary} = ${this.#emit(inner.object)}) == null ? void 0 : ${this.#chain(rest)})`;
    }
    const callee = inner.callee as Node;
    if (callee.type !== "MemberExpression") {
      const rest = this.#replace(node, inner, { ...inner, callee: raw, optional: false } as unknown as Node);
      return `((${temporary} = ${this.#emit(callee)}) == null ? void 0 : ${this.#chain(rest)})`;
    }
    const member = { ...callee, object: raw } as unknown as Node;
    const rest = this.#replace(node, inner, { ...inner, callee: member, optional: false } as unknown as Node);
    const name = nameOf(callee.property);
    return `(${temporary} = ${this.#emit(callee.object)}, ${temporary}.${name} == null ? void 0 : ${this.#chain(rest)})`;
  }

  /** The optional part of a chain that is evaluated first. */
  #innermost(node: Node | Raw): CallExpression | MemberExpression | undefined {
    if (node.type !== "CallExpression" && node.type !== "MemberExpression") return undefined;
    const below = this.#innermost((node.type === "CallExpression" ? node.callee : node.object));
    return below ?? (node.optional ? node : undefined);
  }

  #replace(node: Node, what: object, by: Node): Node {
    if (node === what) return by;
    if (node.type === "CallExpression") return { ...node, callee: this.#replace(node.callee, what, by) } as Node;
    if (node.type === "MemberExpression") return { ...node, object: this.#replace(node.object, what, by) } as Node;
    return node;
  }
}

/**
 * Rewrites a bundle so that its functions can run step by step: each gets a twin, a generator called `name$g` (a function value
 * carries it as `$g`) that does the same and yields before each access to memory, registers, TLB or a lock. Calls in a twin go to twins
 * where there are any; callbacks of the language's own functions, constructors and getters stay one step. The bundle's own functions
 * stay as they are.
 */
export function withTwins(text: string): string {
  return new Rewriter(text).run();
}
