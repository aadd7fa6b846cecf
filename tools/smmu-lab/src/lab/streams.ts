import { streamId } from "@smmuv3/dma-workload";

/** StreamIDs of the machine: the SMMU has 16 bits of them, as many as one PCI segment has RequesterIDs. */
const STREAM_IDS = 1 << 16;

/** A device of the trace, as a PCI function of the machine. */
export interface Stream {
  /** As the trace names it. */
  readonly device: string;
  readonly streamId: number;
  /** Name on the machine: the PCI function whose RequesterID is {@link streamId}. */
  readonly node: string;
}

function requesterId(device: string): number | undefined {
  try {
    return streamId(device);
  } catch (error) {
    if (error instanceof RangeError) return undefined;
    throw error;
  }
}

/** `0000:bb:dd.f`; the inverse of `streamId`. */
function pciName(id: number): string {
  const hex = (value: number): string => value.toString(16).padStart(2, "0");
  return `0000:${hex(id >> 8)}:${hex((id >> 3) & 31)}.${id & 7}`;
}

/**
 * StreamIDs of `devices`, in their order. A PCI function has its RequesterID. A device that is not on PCI
 * (`4000000.ethernet`), and a function whose RequesterID a device of another segment has already, gets the next free number
 * above the highest RequesterID, going on from 0 at the end. Throws RangeError for more devices than there are StreamIDs.
 */
export function assignStreams(devices: readonly string[]): readonly Stream[] {
  if (devices.length > STREAM_IDS) {
    throw new RangeError(`the trace names ${devices.length} devices; an SMMU with 16 StreamID bits has ${STREAM_IDS} streams`);
  }
  const taken = new Map<number, string>();
  for (const device of devices) {
    const id = requesterId(device);
    if (id !== undefined && !taken.has(id)) taken.set(id, device);
  }
  let next = Math.max(0, ...taken.keys());
  return devices.map((device) => {
    let id = requesterId(device);
    if (id === undefined || taken.get(id) !== device) {
      while (taken.has(next)) next = (next + 1) % STREAM_IDS;
      taken.set(next, device);
      id = next;
    }
    return { device, streamId: id, node: pciName(id) };
  });
}
