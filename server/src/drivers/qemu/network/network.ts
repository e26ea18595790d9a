import type { MachineSpec, PortForward } from '../../driver.ts'
import type { QmpClient } from '../qmp.ts'

/** Objects for `-netdev` and `-device`. */
export type NetworkDevices = { netdevs: object[]; devices: object[] }

/** A network implementation. `user` needs no privileges; a bridge would be an alternative. */
export interface Network {
  /** Chooses the host ports of a machine. Throws AddressInUseError, InvalidSpecError. */
  plan(spec: MachineSpec): Promise<PortForward[]>
  /** The two network devices of a machine. Pure. Throws InvalidSpecError. */
  devices(spec: MachineSpec, ports: PortForward[]): NetworkDevices
  /** Forwards ports of an IP address to a running machine: all of them or, if it throws, none. Can be repeated. */
  add(control: QmpClient, ip: string, guestPorts: number[]): Promise<PortForward[]>
  /** Removes forwards; absent ones are no error. Existing connections stay open. */
  remove(control: QmpClient, ip: string, ports: PortForward[]): Promise<void>
}
