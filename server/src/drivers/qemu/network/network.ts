import type { MachineSpec, PortForward } from '../../driver.ts'
import type { QmpClient } from '../qmp.ts'

/** Objects for `-netdev` and `-device`. */
export type NetworkDevices = { netdevs: object[]; devices: object[] }

/** A forwarded port; `inner_port` is that of the namespace of the machines, if they run in one. */
export type Forward = PortForward & { inner_port?: number }

/** The forwards of all running machines. `complete`: false if the state of a machine could not be read. */
export type RunningForwards = { running: { ip: string; ports: Forward[] }[]; complete: boolean }

/** A network implementation. `user` needs no privileges; a bridge would be an alternative. */
export interface Network {
  /** Chooses the host ports of a machine. Throws AddressInUseError, InvalidSpecError. */
  plan(spec: MachineSpec): Promise<Forward[]>
  /** The two network devices of a machine. Pure. Throws InvalidSpecError. */
  devices(spec: MachineSpec, ports: Forward[]): NetworkDevices
  /** Forwards ports of an IP address to a running machine: all of them or, if it throws, none. Can be repeated. */
  add(control: QmpClient, ip: string, guestPorts: number[]): Promise<Forward[]>
  /** Removes forwards; absent ones are no error. Existing connections stay open. */
  remove(control: QmpClient, ip: string, ports: Forward[]): Promise<void>
  /** Brings what is forwarded outside of QEMU in line with the forwards of all running machines. Throws TransientError. */
  reconcile(read: () => Promise<RunningForwards>): Promise<void>
}
