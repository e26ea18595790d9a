/**
 * The interface of a hypervisor driver.
 *
 * A reconciler calls the methods and may be killed and restarted between any two of them. Therefore every method is
 * idempotent per machine ID, returns quickly (none waits for a guest) and reports the present state of the host. Errors
 * are typed: the reconciler decides by the class of an error, never by its message.
 */

/** A port of the guest and the host port that forwards to it. The two differ if the usual host port was unavailable. */
export type PortForward = { guest_port: number; host_port: number }

/**
 * The lease number of the claim under which a call is made; newer claims have larger numbers. A driver whose machines
 * several processes can reach rejects calls of older claims, so that a delayed worker cannot undo the work of its
 * successor. Omitted by callers that hold no claim.
 */
export type Fenced = { lease?: number }

/** Everything that a driver needs to create and start a machine. Strings are data and must never be parsed as syntax. */
export type MachineSpec = {
  /** `inst_…`; the only tenant-visible string that may become a file name. */
  id: string
  environment_id: string
  /** Number of the wanted disk; a rebuild increments it. */
  disk: number
  /** Number of the wanted run; start, reboot and rebuild increment it. */
  run: number
  vcpus: number
  memory_bytes: number
  disk_bytes: number
  image: MachineImage
  hostname: string
  ssh_public_keys: string[]
  user_data: Uint8Array | null
  network: {
    /** Segment number of the subnet. Guests with the same number share a private network, isolated from all others. */
    segment: number
    mac: string
    private_ip: string
    prefix_length: number
    public_ip: string | null
    /** Guest ports to forward from the public IP address, including the standard ports. */
    ports: number[]
  }
  /** The tenant's tags. Only the simulated driver reads them, to inject faults. */
  tags: Record<string, string>
} & Fenced

/** An image, as the importer or a recipe made it. */
export type MachineImage = {
  id: string
  /** Folder below the driver's images folder that holds `disk.qcow2` and, for a direct boot, kernel and initrd. */
  folder: string
  boot: { kernel: string; initrd: string; append: string } | null
  seed: 'fw_cfg' | 'nocloud'
  ready_signal: 'guest' | 'process'
}

/**
 * `stopped`: stopped by the driver, or never started. `off`: the guest powered itself off. `crashed`: the process ended
 * for another reason. `paused`: a kernel panic or a disk error, given by `trouble`.
 */
export type MachinePower = 'stopped' | 'running' | 'off' | 'crashed' | 'paused'

/**
 * The failure of a machine. `panic`, `disk_error`, `disk_full`: a `paused` machine whose guest panicked, whose disk
 * failed, or whose disk file cannot grow because the host's disk is full (when space is free again, it becomes
 * `disk_error` and can be resumed). `hang`: a `running` machine whose guest hangs. `host_reboot`: a `crashed` machine
 * that ended with the host.
 */
export type Trouble = 'panic' | 'disk_error' | 'disk_full' | 'hang' | 'host_reboot'

/** The observed state of a machine, read from the host (PID files, /proc, QMP), never from the database. */
export type ObservedMachine = {
  id: string
  power: MachinePower
  disk: number
  /** Run number of the last start, 0 when never started. */
  run: number
  /** Whether the guest of this run has signaled that it is ready (with `ready_signal: process`: whether it runs). */
  ready: boolean
  started_at: Date | null
  vcpus: number
  memory_bytes: number
  disk_bytes: number
  public_ip: string | null
  ports: PortForward[]
  trouble: Trouble | null
  /** When the failure given by `trouble` or `power` happened; null or absent if unknown. */
  down_since?: Date | null
  /** Boot ID of the host, if the driver has a host that can reboot. */
  host_boot?: string | null
  /** When the state will change without a call, if the driver can predict it; in the environment's time. */
  changes_at?: Date | null
}

/** A machine, and the current time of its environment. Passing `now` makes the simulated driver deterministic. */
export type MachineRef = { id: string; environment_id: string; now: Date } & Fenced

/** The capacity of a region; null if it is unlimited (simulated driver). */
export type Capacity = { vcpus: number; memory_bytes: number; disk_bytes: number } | null

/** A hypervisor and why its accelerator was chosen, for the banner and `/v2/regions`. */
export type Hypervisor = { name: string; accelerator: 'kvm' | 'tcg' | 'none'; reason: string }

/** How guests are separated from the host and its networks, for the banner and `/v2/regions`. */
export type Isolation = {
  /** `filtered`: guests reach the public internet, DNS and what the operator allows, and nothing else. */
  egress: 'filtered' | 'unfiltered'
  /** Whether cgroups limit the threads, memory and CPU weight of each machine. */
  process_limits: 'cgroup' | 'none'
  reason: string
}

export interface Driver {
  readonly name: 'simulated' | 'qemu' | 'incus'
  /** Interval at which unchanged machines are observed again. `watch` announces changes much earlier. */
  readonly resync_seconds: number
  hypervisor(): Hypervisor
  /** Null if there are no guests (simulated driver). */
  isolation(): Isolation | null
  capacity(): Capacity
  /** All machines. Throws if the list could be incomplete. */
  list(): Promise<{ id: string }[]>
  /** Null when neither a process nor a file of the machine exists. */
  get(ref: MachineRef): Promise<ObservedMachine | null>
  /** Creates the disk `spec.disk` and its seed. No effect if the machine has a disk with this number. */
  create(spec: MachineSpec, now: Date): Promise<void>
  /** Grows the disk and starts run `spec.run`. Never starts a second process on one disk. */
  start(spec: MachineSpec, now: Date): Promise<void>
  /** Requests the guest to power off. Succeeds if the machine is absent or not running. */
  powerDown(ref: MachineRef): Promise<void>
  /** Ends the machine immediately and keeps its disk. Succeeds if the machine is absent or not running. */
  kill(ref: MachineRef): Promise<void>
  /** Resumes a machine that is paused after a disk error. No effect on other machines. */
  resume(ref: MachineRef): Promise<void>
  /** Grows the disk of a machine that is not running. */
  resizeDisk(spec: MachineSpec, now: Date): Promise<void>
  /** Adds or removes the public IP address and ports of a running machine without a reboot. */
  setPublicAddress(spec: MachineSpec, now: Date): Promise<void>
  /** Kills the machine and removes its files. Called until `get` returns null. Succeeds if the machine is absent. */
  delete(ref: MachineRef): Promise<void>
  /** At most the last `tail_bytes` of the serial console. */
  consoleLog(ref: MachineRef, tail_bytes: number): Promise<Uint8Array>
  /** Calls `changed` with the ID of a machine whose state may have changed. A hint: correctness never depends on it. */
  watch(changed: (id: string) => void): void
  /** Finds the machines that already run. `/readyz` fails until this has succeeded once. */
  adopt(): Promise<void>
  /** Releases all resources without stopping a machine. */
  close(): Promise<void>
}

/** Base class of the errors that a driver throws. Any other error counts as a `TransientError`. */
export class DriverError extends Error {
  /** Stable snake_case code, part of `status_reason`. */
  readonly code: string
  /** For the user: the problem and how to resolve it. Contains no path and no output of the hypervisor. */
  readonly public_message: string
  constructor(code: string, publicMessage: string, internal?: string, options?: ErrorOptions) {
    super(internal ?? publicMessage, options)
    this.code = code
    this.public_message = publicMessage
    this.name = new.target.name
  }
}
/** A retry may succeed; the engine backs off. */
export class TransientError extends DriverError {}
/** The host has insufficient capacity (memory, disk, processes). The instance fails and can be started again. */
export class CapacityError extends DriverError {}
/** The specification cannot work on this host; a retry cannot succeed. */
export class InvalidSpecError extends DriverError {}
/** An IP address or port of the machine is already in use on the host. */
export class AddressInUseError extends DriverError {}
/** The disk is damaged; further writes to it could be lost. */
export class DamagedDiskError extends DriverError {}
/** A required file (image, disk) does not exist. */
export class NotFoundError extends DriverError {}
