import type { MachineSpec, PortForward } from '../../driver.ts'
import type { QmpClient } from '../qmp.ts'

/** Objects for `-netdev` and `-device`. */
export type NetworkDevices = { netdevs: object[]; devices: object[] }

/** How machines reach each other and are reached. `user` needs no privilege; a bridge is the other way to do it. */
export interface Network {
  /** Decides on which host ports the machine will be reachable. Throws AddressInUseError, InvalidSpecError. */
  plan(spec: MachineSpec): Promise<PortForward[]>
  /** The machine's two cards. Pure. Throws InvalidSpecError. */
  devices(spec: MachineSpec, ports: PortForward[]): NetworkDevices
  /** Makes guest ports of a running machine reachable on an address; all of them or, when it throws, none. Repeatable. */
  add(control: QmpClient, ip: string, guestPorts: number[]): Promise<PortForward[]>
  /** Takes them away again; those that are not there are no error. Connections that stand live on. */
  remove(control: QmpClient, ip: string, ports: PortForward[]): Promise<void>
}
