/**
 * What every hypervisor driver provides, and nothing more.
 *
 * A driver is asked one small thing at a time by a reconciler that may be killed at any line and asked again: every
 * method is idempotent by machine id, returns quickly (nothing waits for a guest), and tells the truth about what is
 * there now. Failures are typed: the reconciler decides by class, never by message text.
 */

/** A port of the guest and where it is reachable from outside; `host_port` differs where the host refused the usual one. */
export type PortForward = { guest_port: number; host_port: number }

/**
 * Under which claim of the instance's key something is asked; the numbers rise. A driver whose machines several processes
 * reach does nothing for a claim that is not the newest any more: who was held up must not undo what its successor did.
 * Left out by who has no claim.
 */
export type Fenced = { lease?: number }

/** All that a driver needs to make and start one machine. Values come from validated rows; strings are still data, never syntax. */
export type MachineSpec = {
  /** `inst_…`; the only tenant-visible string that may become a file name. */
  id: string
  environment_id: string
  /** Number of the wanted disk: a rebuild raises it. */
  disk: number
  /** Number of the wanted run: start, reboot and rebuild raise it. */
  run: number
  vcpus: number
  memory_bytes: number
  disk_bytes: number
  image: MachineImage
  hostname: string
  ssh_public_keys: string[]
  user_data: Uint8Array | null
  network: {
    /** Number of the subnet's segment; guests with the same number share a private network, others never meet. */
    segment: number
    mac: string
    private_ip: string
    prefix_length: number
    public_ip: string | null
    /** Guest ports to forward from the public address, the usual ones included. */
    ports: number[]
  }
  /** Tenant's tags: only the simulated driver reads them, for failures on demand. */
  tags: Record<string, string>
} & Fenced

/** An image as the driver sees it: a folder made by the importer or a recipe, relative to the images folder. */
export type MachineImage = {
  id: string
  /** Folder below the driver's images folder that holds `disk.qcow2` and, for a direct boot, kernel and initrd. */
  folder: string
  boot: { kernel: string; initrd: string; append: string } | null
  seed: 'fw_cfg' | 'nocloud'
  ready_signal: 'guest' | 'process'
}

/**
 * `stopped`: powered off by us, or never started. `off`: the guest powered itself off. `crashed`: the process is gone
 * without either. `paused` covers a panic and a disk error, told by `trouble`.
 */
export type MachinePower = 'stopped' | 'running' | 'off' | 'crashed' | 'paused'

/**
 * What is wrong. Of a `paused` machine: the guest panicked, its disk failed, or the host has no room left for its disk
 * (`disk_full`; with room again it is a `disk_error`, from which it can go on). Of a `running` one: the guest hangs. Of a
 * `crashed` one: it went down with the host.
 */
export type Trouble = 'panic' | 'disk_error' | 'disk_full' | 'hang' | 'host_reboot'

/** What is really there, read from the host (pid files, /proc, QMP), never from the database. */
export type ObservedMachine = {
  id: string
  power: MachinePower
  disk: number
  /** Run number of the last start, 0 when never started. */
  run: number
  /** True when this run's guest has said that it is up (or, for `ready_signal: process`, when the machine runs). */
  ready: boolean
  started_at: Date | null
  vcpus: number
  memory_bytes: number
  disk_bytes: number
  public_ip: string | null
  ports: PortForward[]
  trouble: Trouble | null
  /** When what `trouble` or `power` tells has happened, or was noticed at once; null or left out: nobody knows. */
  down_since?: Date | null
  /** This boot of the host, where there is a host that can be rebooted. */
  host_boot?: string | null
  /** When it will look different by itself, where the driver knows; in the environment's time. */
  changes_at?: Date | null
}

/** Which machine, at what time of its environment. `now` is what makes the simulated world deterministic. */
export type MachineRef = { id: string; environment_id: string; now: Date } & Fenced

/** What a region can hold. Null means no limit (the simulated world). */
export type Capacity = { vcpus: number; memory_bytes: number; disk_bytes: number } | null

/** A hypervisor and how it was proven to work, for the banner and `/v2/regions`. */
export type Hypervisor = { name: string; accelerator: 'kvm' | 'tcg' | 'none'; reason: string }

export interface Driver {
  readonly name: 'simulated' | 'qemu' | 'incus'
  /** Seconds until a machine at rest is looked at again; changes are announced through `watch` much earlier. */
  readonly resync_seconds: number
  hypervisor(): Hypervisor
  capacity(): Capacity
  /** Not an empty list, never a partial one: throws when the listing cannot be trusted. */
  list(): Promise<{ id: string }[]>
  /** Null when there is nothing left of it: no process, no file. */
  get(ref: MachineRef): Promise<ObservedMachine | null>
  /** Makes disk and seed for `spec.disk`. Already there with this number: nothing happens. */
  create(spec: MachineSpec, now: Date): Promise<void>
  /** Starts run `spec.run` with the size and addresses of `spec`; grows the disk first. Never a second process on one disk. */
  start(spec: MachineSpec, now: Date): Promise<void>
  /** Asks the guest to power off; absent or not running is success. */
  powerDown(ref: MachineRef): Promise<void>
  /** Ends the machine at once and keeps its disk; absent or not running is success. */
  kill(ref: MachineRef): Promise<void>
  /** Lets a machine go on that is paused after an error of its disk; any other is left as it is. */
  resume(ref: MachineRef): Promise<void>
  /** Grows the disk of a machine that is not running. */
  resizeDisk(spec: MachineSpec, now: Date): Promise<void>
  /** Gives a running machine its public address and ports, or takes them away, without a reboot. */
  setPublicAddress(spec: MachineSpec, now: Date): Promise<void>
  /** Kills if need be and removes everything; repeated until `get` says null. Absent is success. */
  delete(ref: MachineRef): Promise<void>
  /** The last `tail_bytes` of the serial console, or all that is kept. */
  consoleLog(ref: MachineRef, tail_bytes: number): Promise<Uint8Array>
  /** Calls back with an id whenever something may have changed. A hint: correctness never depends on it. */
  watch(changed: (id: string) => void): void
  /** Finds what runs already. Until this is done once, `/readyz` says no. */
  adopt(): Promise<void>
  /** Lets go of everything without stopping a machine. */
  close(): Promise<void>
}

/** Base of the errors a driver may throw on purpose; anything else counts as `TransientError`. */
export class DriverError extends Error {
  /** Stable snake_case code, shown in `status_reason`. */
  readonly code: string
  /** For the user: what happened and what to do; no path, no hypervisor text. */
  readonly public_message: string
  constructor(code: string, publicMessage: string, internal?: string, options?: ErrorOptions) {
    super(internal ?? publicMessage, options)
    this.code = code
    this.public_message = publicMessage
    this.name = new.target.name
  }
}
/** Trying again later may work; the engine backs off. */
export class TransientError extends DriverError {}
/** The host has no room (memory, disk, processes); the instance fails and may be started again. */
export class CapacityError extends DriverError {}
/** The specification can never work here; trying again changes nothing. */
export class InvalidSpecError extends DriverError {}
/** An address or port of the machine is taken by somebody else on the host. */
export class AddressInUseError extends DriverError {}
/** The disk is damaged: what is written to it now could be lost. */
export class DamagedDiskError extends DriverError {}
/** The named thing (image file, disk) is not there. */
export class NotFoundError extends DriverError {}
