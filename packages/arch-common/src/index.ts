export { DMA_CLIENT, HostKernel } from "./host-kernel.ts";
export { Pkvm } from "./pkvm.ts";
export type { HandoffDriver, PkvmOptions } from "./pkvm.ts";
export { DMA_DIRECTION } from "./port.ts";
export type { AttachTarget, DeviceInfo, FaultInfo, InstanceInfo, KernelPort } from "./kernel-port.ts";
export type { Architecture } from "./architecture.ts";
export type { BootKernel, BootOptions, BootStatus, HostPort, PkvmPort, StartHypervisor, Translation } from "./port.ts";
