// Every design when EL2 comes up, and when one step of that fails: the machine works, protected or not, and says which.
import { describe, expect, test } from "vitest";
import type { HypercallName } from "@smmuv3/pkvm-abi";
import { ERRNO } from "@smmuv3/platform";
import { DEVICES, dmaWorks, KERNELS, newBoard, refuse } from "./hyp-kernels.ts";

/** Where sysfs shows the IOMMU of a design, and the driver of that device. */
const REGISTERED: Readonly<Record<string, readonly [name: string, device: string, driver: string]>> = {
  "single-driver": ["smmu3.0x9050000", "devices/platform/smmuv3@9050000", "arm-smmu-v3"],
  "single-driver-paging": ["smmu3.0x9050000", "devices/platform/smmuv3@9050000", "arm-smmu-v3"],
  "three-driver": ["pkvm-iommu.0", "devices/platform/smmuv3@9050000/pkvm-iommu.0", "pkvm-iommu"],
  "three-driver-paging": ["pkvm-iommu.0", "devices/platform/smmuv3@9050000/pkvm-iommu.0", "pkvm-iommu"],
  "kvm-driver": ["smmu3.0x9050000", "devices/platform/smmuv3@9050000", "kvm-arm-smmu-v3"],
  "trap-emulate": [
    "smmu3.0x9050000",
    "devices/platform/smmuv3@9050000/protected_kvm.smmu_v3_emu.0",
    "arm-smmu-v3.aux",
  ],
};

const STEPS: readonly (readonly [string, HypercallName, number])[] = [
  ["EL2 has no memory for itself", "__pkvm_init", ERRNO.ENOMEM],
  ["EL2 has another ABI", "__pkvm_init", ERRNO.EINVAL],
  ["EL2 does not take the SMMU", "__pkvm_iommu_handoff", ERRNO.ENODEV],
  ["the SMMU does not answer EL2", "__pkvm_iommu_handoff", ERRNO.ETIMEDOUT],
  ["the host cannot be deprivileged", "__pkvm_prot_finalize", ERRNO.EINVAL],
];

describe.each(Object.keys(KERNELS))("%s", (name) => {
  const { bootKernel, startHypervisor, options } = KERNELS[name]!;

  test("comes up protected, each client deferred once at most", () => {
    const board = newBoard();
    startHypervisor(board.machine.hyp, board.firmware);
    const port = bootKernel(board.machine.host, board.firmware, options);
    const { status } = port;
    expect([status.protectedMode, status.iommuAtEl2, status.warnings]).toEqual([true, true, []]);
    expect(status.iommus.map((one) => [one.name, one.device, one.driver])).toEqual([REGISTERED[name]]);
    expect(port.devices).toEqual(DEVICES);
    expect(status.deferrals).toBeLessThanOrEqual(DEVICES.length);
    expect(status.translation).toBe(options?.paging === true || name === "trap-emulate" ? "strict" : "identity");
    for (let device = 0; device < DEVICES.length; device++) expect(dmaWorks(board, port, device)).toBe(true);
    expect([board.machine.panics, board.machine.aborts, board.machine.errors]).toEqual([[], [], []]);
  });

  const unprotected = (prepare: (board: ReturnType<typeof newBoard>) => void, translation: string = "strict"): void => {
    const board = newBoard();
    prepare(board);
    const port = bootKernel(board.machine.host, board.firmware, options);
    const { status } = port;
    expect([status.protectedMode, status.iommuAtEl2]).toEqual([false, false]);
    expect(status.iommus.map(({ device, driver }) => [device, driver])).toEqual([
      ["devices/platform/smmuv3@9050000", "arm-smmu-v3"],
    ]);
    expect(port.devices).toEqual(DEVICES);
    expect(status.translation).toBe(translation);
    for (let device = 0; device < DEVICES.length; device++) expect(dmaWorks(board, port, device)).toBe(true);
    expect(port.vmCreate(1)).toBe(-ERRNO.ENOSYS);
    expect(status.warnings.some((text) => text.includes("the host is not protected"))).toBe(true);
    expect([board.machine.panics, board.machine.aborts, board.machine.errors]).toEqual([[], [], []]);
  };

  test("works without an EL2, on the stock driver", () => {
    unprotected(() => {});
  });

  test.each(STEPS)("works unprotected, on the stock driver, when %s", (_what, call, errno) => {
    // The one driver has handed over in its probe by then: it goes on asking EL2, which protects nobody.
    const kept = name === "single-driver" && call === "__pkvm_prot_finalize";
    unprotected((board) => {
      startHypervisor(board.machine.hyp, board.firmware);
      refuse(board, call, errno);
    }, kept ? "identity" : "strict");
  });
});
