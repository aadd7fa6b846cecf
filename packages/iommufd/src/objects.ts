import { UAPI_ERRNO } from "./errno.ts";

/** Kinds of objects that user space names by an id. */
export type ObjectKind =
  | "device" | "ioas" | "hwpt-paging" | "hwpt-nested" | "fault" | "viommu" | "vdevice" | "veventq" | "hw-queue";

/** Something with an id. It is destroyed while nobody uses it. */
export abstract class IommufdObject {
  abstract readonly kind: ObjectKind;
  /** 0 before it is in a table. */
  id: number = 0;
  /** Other objects, attached devices and open files that need it. */
  users: number = 0;

  /** Undoes its creation. `users` is 0. */
  abstract destroy(): void;
}

/** The objects of one file. Ids are the lowest that are free, from 1 on. */
export class ObjectTable {
  readonly #objects = new Map<number, IommufdObject | undefined>();

  /** Gives `object` an id. */
  add<T extends IommufdObject>(object: T): T {
    let id = 1;
    while (this.#objects.has(id)) id++;
    object.id = id;
    this.#objects.set(id, object);
    return object;
  }

  /** All objects, oldest id first. */
  list(): IommufdObject[] {
    return [...this.#objects.values()].filter((object) => object !== undefined);
  }

  find(id: number): IommufdObject | undefined {
    return this.#objects.get(id);
  }

  /** The object with that id, when it is of that class. */
  get<T extends IommufdObject>(id: number, type: new (...args: never[]) => T): T | undefined {
    const object = this.#objects.get(id);
    return object instanceof type ? object : undefined;
  }

  /** 0; -ENOENT; -EBUSY while it has users. */
  destroy(id: number): number {
    const object = this.#objects.get(id);
    if (object === undefined) return -UAPI_ERRNO.ENOENT;
    if (object.users > 0) return -UAPI_ERRNO.EBUSY;
    object.destroy();
    this.#objects.delete(id);
    return 0;
  }

  /** Takes away what its owner has gone from under; its id is not given out again, since user space may still name it. */
  bury(object: IommufdObject): void {
    object.destroy();
    this.#objects.set(object.id, undefined);
  }

  /** Destroys everything, users before what they use. Throws when that is not possible, which is a mistake of a kind of object. */
  clear(): void {
    for (let left = this.list(); left.length > 0; left = this.list()) {
      const free = left.filter((object) => object.users === 0);
      if (free.length === 0) throw new Error(`iommufd: ${left.map(({ kind }) => kind).join(", ")} use each other`);
      for (const object of free) this.destroy(object.id);
    }
    this.#objects.clear();
  }
}
