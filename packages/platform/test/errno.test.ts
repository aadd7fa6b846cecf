import { describe, expect, test, vi } from "vitest";
import { ERRNO, Errno, errnoName, isErrno, orThrow } from "../src/index.ts";
import type { ErrnoCode } from "../src/index.ts";

describe("Errno", () => {
  test.each(Object.entries(ERRNO) as [ErrnoCode, number][])("%s by name, number and status", (code, errno) => {
    for (const argument of [code, errno, -errno]) {
      const error = new Errno(argument, "text");
      expect(error).toMatchObject({ name: "Errno", code, errno, message: `${code}: text` });
    }
    expect(errnoName(errno)).toBe(code);
    expect(errnoName(-errno)).toBe(code);
  });

  test("numbers are Linux's and distinct", () => {
    expect(ERRNO).toMatchObject({ EPERM: 1, ENOENT: 2, ENOMEM: 12, EINVAL: 22, EOPNOTSUPP: 95, ETIMEDOUT: 110, EPROBE_DEFER: 517 });
    expect(new Set(Object.values(ERRNO)).size).toBe(Object.keys(ERRNO).length);
  });

  test("an unknown number keeps its value", () => {
    expect(errnoName(-4000)).toBe("errno 4000");
    expect(new Errno(-4000, "text")).toMatchObject({ code: "errno 4000", errno: 4000, message: "errno 4000: text" });
  });
});

describe("isErrno", () => {
  test("recognises the Errno of another copy of the module", async () => {
    vi.resetModules();
    const other = await import("../src/index.ts");
    const error = new other.Errno("EINVAL", "text");
    expect(other.Errno).not.toBe(Errno);
    expect(error instanceof Errno).toBe(false);
    expect(isErrno(error)).toBe(true);
    expect(other.isErrno(new Errno("EINVAL", "text"))).toBe(true);
  });

  test.each([
    [undefined], [null], ["EINVAL"], [22], [new Error("EINVAL")], [{ code: "EINVAL", errno: 22 }], [{ brand: "other" }], [() => 0],
  ])("refuses %s", (value) => {
    expect(isErrno(value)).toBe(false);
  });
});

describe("orThrow", () => {
  test.each([0, 1, 4096])("%d is a result", (status) => {
    expect(orThrow(status, "map")).toBe(status);
  });

  test("a negative status is an Errno", () => {
    expect(() => orThrow(-ERRNO.ENOMEM, "map")).toThrow(new Errno("ENOMEM", "map"));
    try {
      orThrow(-ERRNO.ENOMEM, "map");
    } catch (error) {
      expect(isErrno(error) && error.code).toBe("ENOMEM");
    }
  });
});
