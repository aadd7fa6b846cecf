// Kernels of the designs in which EL2 owns the SMMU, on a board of their own.
import { bootKernel as kvmDriver } from "@smmuv3/arch-kvm-driver/el1";
import { startHypervisor as kvmDriverHyp } from "@smmuv3/arch-kvm-driver/el2";
import { bootKernel as singleDriver } from "@smmuv3/arch-single-driver/el1";
import { startHypervisor as singleDriverHyp } from "@smmuv3/arch-single-driver/el2";
import { startHypervisor as singleDriverPaging } from "@smmuv3/arch-single-driver/el2-paging";
import { bootKernel as threeDriver } from "@smmuv3/arch-three-driver/el1";
import { startHypervisor as threeDriverHyp } from "@smmuv3/arch-three-driver/el2";
import { startHypervisor as threeDriverPaging } from "@smmuv3/arch-three-driver/el2-paging";
import { bootKernel as trapEmulate } from "@smmuv3/arch-trap-emulate/el1";
import { startHypervisor as trapEmulateHyp } from "@smmuv3/arch-trap-emulate/el2";
import { DMA_DIRECTION } from "@smmuv3/arch-common";
import type { BootKernel, BootOptions, HostPort, StartHypervisor } from "@smmuv3/arch-common";
import { frameArg, hypercallName, setFrame } from "@smmuv3/pkvm-abi";
import type { HypercallName } from "@smmuv3/pkvm-abi";
import { PAGE_SIZE, TRANSLATION } from "@smmuv3/platform";
import { createBoard } from "@smmuv3/smmu-lab";
import type { Board } from "@smmuv3/smmu-lab";

export interface Design {
  readonly bootKernel: BootKernel;
  readonly startHypervisor: StartHypervisor;
  readonly options?: BootOptions;
}

const paging = { options: { paging: true } } as const;

/** Designs, and their variants with paging. */
export const KERNELS: Readonly<Record<string, Design>> = {
  "single-driver": { bootKernel: singleDriver, startHypervisor: singleDriverHyp },
  "single-driver-paging": { bootKernel: singleDriver, startHypervisor: singleDriverPaging, ...paging },
  "three-driver": { bootKernel: threeDriver, startHypervisor: threeDriverHyp },
  "three-driver-paging": { bootKernel: threeDriver, startHypervisor: threeDriverPaging, ...paging },
  "kvm-driver": { bootKernel: kvmDriver, startHypervisor: kvmDriverHyp },
  "trap-emulate": { bootKernel: trapEmulate, startHypervisor: trapEmulateHyp },
};

export const DEVICES = ["0000:00:01.0", "0000:00:02.0", "0000:00:03.0"] as const;

/** A board with three DMA clients. */
export function newBoard(): Board {
  return createBoard({ devices: DEVICES, profile: "lazy", ramBytes: 64 << 20 });
}

/** Has EL2 refuse hypercalls `name` with `errno`: what it does by itself when such a step fails. */
export function refuse(board: Board, name: HypercallName, errno: number, from: number = 0): void {
  const { host } = board.machine;
  const hvc = host.hvc.bind(host);
  let seen = 0;
  host.hvc = (frame) => {
    if (hypercallName(frame[0]!) !== name || seen++ < from || frameArg(frame, 0) === 0) {
      hvc(frame);
      return;
    }
    frame.fill(0);
    setFrame(frame, 1, -errno);
  };
}

/** Maps a page for a device and has the device write it and read it: true when the CPU sees it. */
export function dmaWorks(board: Board, port: HostPort, device: number): boolean {
  const pa = port.allocPages(PAGE_SIZE);
  const dma = port.dmaMap(device, pa, PAGE_SIZE, DMA_DIRECTION.bidirectional);
  const master = board.masters.get(DEVICES[device]!)!;
  const word = Int32Array.of(0x600d_0000 | device);
  const works = dma >= 0 && master.write(dma, word) === TRANSLATION.ok && port.load32(pa) === word[0];
  if (dma >= 0) port.dmaUnmap(device, dma, PAGE_SIZE, DMA_DIRECTION.bidirectional);
  return works;
}
