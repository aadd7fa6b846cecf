import { errnoName, FRAME_WORDS, PAGE_SIZE } from "@smmuv3/platform";
import type { GuestCpu } from "@smmuv3/machine";
import { frameArg, GUEST_CALL, PVIOMMU_OP, setFrame } from "@smmuv3/pkvm-abi";
import { absent, notApplicable, works } from "../feature.ts";
import type { Feature } from "../feature.ts";

const VM_BASE = 0x8000_0000;
const PVIOMMU = 5;
const VSID = 9;
const IOVA = 0x70_0000;
const READ_WRITE = 3;

function operate(guest: GuestCpu, op: keyof typeof PVIOMMU_OP, ...args: readonly number[]): number {
  const frame = new Int32Array(FRAME_WORDS);
  [GUEST_CALL.pviommuOp, PVIOMMU_OP[op], ...args].forEach((value, at) => { setFrame(frame, at, value); });
  guest.hvc(frame);
  return frame[0] === 0 ? frameArg(frame, 1) : -1;
}

export const passthrough: Feature = {
  id: "passthrough",
  title: "a device for a protected VM",
  arguments: [],
  probe(lab) {
    if (!lab.hyp) return notApplicable("no protected VMs");
    const rig = lab.bootWhole();
    if ("verdict" in rig) return rig;
    const { port, board } = rig;
    const { pkvm } = port;
    if (pkvm === undefined) return absent("the host is not deprivileged");
    const [host, page] = [rig.page(), rig.page()];
    const dma = rig.map(0, host);
    if (!rig.reaches(0, dma, host)) return absent("not the host's device before");
    const handle = port.vmCreate(1);
    const given = handle < 0 ? handle : port.vmDonate(handle, page, VM_BASE);
    if (given < 0) return absent(`no VM: ${errnoName(given)}`);
    const { streamId } = rig.master(0);
    const status = pkvm.attachPviommu(handle, PVIOMMU) || pkvm.addVsid(handle, PVIOMMU, 0, streamId, VSID) || pkvm.assignDevice(handle, 0, streamId);
    if (status < 0) return absent(`EL2 does not give devices to VMs: ${errnoName(status)}`);
    if (!rig.refused(0, dma)) return absent("the host's mapping answers while the device changes hands");
    let mapped = 0;
    board.machine.setGuestProgram(handle, 0, (guest) => {
      const domain = operate(guest, "allocDomain");
      operate(guest, "attachDev", PVIOMMU, VSID, 0, domain, 0);
      mapped = operate(guest, "mapPages", domain, IOVA, VM_BASE, PAGE_SIZE, READ_WRITE);
    });
    // EL2 may ask for memory between two runs.
    for (let run = 0; run < 4 && mapped !== PAGE_SIZE; run++) port.vmRun(handle, 0);
    if (mapped !== PAGE_SIZE) return absent("the guest cannot map");
    if (!rig.reaches(0, IOVA, page)) return absent("the device does not reach the guest's page");
    if (!rig.refused(0, dma) || !rig.refused(0, host)) return absent("the device still reaches the host");
    return works("blocked while it changes hands; then it reaches what its guest mapped, and nothing of the host");
  },
};
