import { UAPI_ERRNO } from "./errno.ts";

/** An open file that events are read from. Results are bytes, or a negative errno. */
export interface EventFile {
  /** As many whole records as fit into `count` bytes. */
  read(count: number): Uint8Array | number;
  /** Answers. The bytes that were taken. */
  write(bytes: Uint8Array): number;
  /** Something can be read (EPOLLIN). */
  readonly readable: boolean;
  /** The last reference goes away. */
  release(): void;
}

const FIRST_FD = 3;

/** File descriptors that requests gave out. */
export class FileTable {
  readonly #files = new Map<number, EventFile>();

  open(file: EventFile): number {
    let fd = FIRST_FD;
    while (this.#files.has(fd)) fd++;
    this.#files.set(fd, file);
    return fd;
  }

  get(fd: number): EventFile | undefined {
    return this.#files.get(fd);
  }

  /** 0 or -EBADF. */
  close(fd: number): number {
    const file = this.#files.get(fd);
    if (file === undefined) return -UAPI_ERRNO.EBADF;
    this.#files.delete(fd);
    file.release();
    return 0;
  }

  /** Closes all. */
  clear(): void {
    for (const fd of [...this.#files.keys()]) this.close(fd);
  }
}
