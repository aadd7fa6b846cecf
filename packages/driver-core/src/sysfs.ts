interface Directory {
  readonly kind: "directory";
  readonly entries: Map<string, Entry>;
}
interface Attribute {
  readonly kind: "attribute";
  readonly show: () => string;
}
interface Link {
  readonly kind: "link";
  readonly target: string;
}
type Entry = Directory | Attribute | Link;

/** Links that one look-up may follow. */
const MAX_LINKS = 8;

function split(path: string): string[] {
  return path.split("/").filter((part) => part !== "");
}

/** The sysfs tree: directories, attributes and links by path (`class/iommu/smmu3.0x9050000`), without `/sys`. */
export class Sysfs {
  readonly #root: Directory = { kind: "directory", entries: new Map() };

  /** Makes a directory and those above it; existing ones stay. */
  mkdir(path: string): void {
    this.#directory(split(path));
  }

  /** Makes an attribute whose value `show` computes at each read. */
  attribute(path: string, show: () => string): void {
    this.#put(path, { kind: "attribute", show });
  }

  /** Makes a link at `path` to the absolute `target`. */
  link(path: string, target: string): void {
    this.#put(path, { kind: "link", target });
  }

  /** Removes an entry with all below it (a link itself, not its target); a missing path is ignored. */
  remove(path: string): void {
    const parts = split(path);
    const name = parts.pop();
    const parent = this.#find(parts.join("/"), 0);
    if (name !== undefined && parent?.kind === "directory") parent.entries.delete(name);
  }

  /** True when `path` resolves. */
  exists(path: string): boolean {
    return this.#find(path, 0) !== undefined;
  }

  /** Names in a directory in order of creation, links followed; empty when there is no such directory. */
  list(path: string): string[] {
    const entry = this.#find(path, 0);
    return entry?.kind === "directory" ? [...entry.entries.keys()] : [];
  }

  /** Value of an attribute, or `undefined`. */
  read(path: string): string | undefined {
    const entry = this.#find(path, 0);
    return entry?.kind === "attribute" ? entry.show() : undefined;
  }

  /** Target of the link at `path`, or `undefined`. */
  readlink(path: string): string | undefined {
    const parts = split(path);
    const name = parts.pop() ?? "";
    const parent = this.#find(parts.join("/"), 0);
    const entry = parent?.kind === "directory" ? parent.entries.get(name) : undefined;
    return entry?.kind === "link" ? entry.target : undefined;
  }

  #put(path: string, entry: Entry): void {
    const parts = split(path);
    const name = parts.pop();
    if (name === undefined) throw new RangeError("Sysfs: path must not be empty");
    const { entries } = this.#directory(parts);
    if (entries.has(name)) throw new RangeError(`Sysfs: "${path}" exists`);
    entries.set(name, entry);
  }

  #directory(parts: readonly string[]): Directory {
    let at = this.#root;
    for (const part of parts) {
      let next = at.entries.get(part);
      if (next?.kind === "link") next = this.#find(next.target, 1);
      if (next === undefined) {
        next = { kind: "directory", entries: new Map() };
        at.entries.set(part, next);
      }
      if (next.kind !== "directory") throw new RangeError(`Sysfs: "${part}" of "${parts.join("/")}" is not a directory`);
      at = next;
    }
    return at;
  }

  #find(path: string, links: number): Entry | undefined {
    let at: Entry | undefined = this.#root;
    for (const part of split(path)) {
      if (at?.kind !== "directory") return undefined;
      at = at.entries.get(part);
      if (at?.kind === "link") at = links < MAX_LINKS ? this.#find(at.target, links + 1) : undefined;
    }
    return at;
  }
}
