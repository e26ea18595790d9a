import type { Clock } from '../../lib/clock.ts'
import type { Log } from '../../lib/log.ts'
import type { Capacity, Hypervisor } from '../driver.ts'
import type { Egress } from './egress.ts'
import type { Network } from './network/network.ts'
import type { Output } from './output.ts'
import type { Scope } from './scope.ts'

export type QemuOptions = {
  /** Absolute, without symbolic links (it identifies processes). Machines are stored in `<data_dir>/instances`. */
  data_dir: string
  /** Absolute and short. Sockets are created in `<run_dir>/<instance ID>`. */
  run_dir: string
  /** Absolute. Contains one folder per image. */
  images_dir: string
  /** Lower-case letters, digits and `-`. Distinguishes the scopes of this installation. */
  installation_id: string
  /** The result of `proveAccelerator`. */
  accelerator: Hypervisor
  qemu_binary: string
  /** First of MACHINE_USERS user IDs, one per machine; null when the control plane is not root. */
  service_uid: number | null
  /** Segment N of the private networks is port `multicast_port_base` + N of this multicast group. */
  multicast_group: string
  multicast_port_base: number
  /** The filter of what guests send. */
  egress: Egress
  /** The separation of machines, and their limits. */
  scope: Scope
  limits: NonNullable<Capacity>
  log: Log
  clock: Clock
}

/** The host, as the functions of this folder use it. */
export type Host = QemuOptions & { network: Network; output: Output }
