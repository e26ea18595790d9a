/** The state of a simulated machine and how calls and time change it. Pure. */
import {
  type MachinePower,
  type MachineRef,
  type MachineSpec,
  type ObservedMachine,
  TransientError,
  type Trouble,
} from '../driver.ts'
import {
  bootSeconds,
  FAILS_AFTER_SECONDS,
  type Failure,
  type Fault,
  failureOf,
  faultOf,
  POWER_OFF_SECONDS,
} from './timing.ts'

/**
 * A row of the table, possibly written by an older release. Times are ISO 8601 strings of the environment's clock.
 */
export type Machine = {
  disk: number
  run: number
  power: MachinePower
  started_at: string | null
  /** When the guest of this run becomes ready; null: never. */
  ready_at: string | null
  /** When the guest powers off. */
  off_at: string | null
  /** When the machine fails. */
  crash_at: string | null
  /** How the machine fails at `crash_at`; absent: its process ends. */
  crash_as?: Failure | null
  /** The present failure and when it happened. */
  trouble?: Trouble | null
  down_since?: string | null
  /** The boot of the host in which the run was started. */
  boot?: string
  vcpus: number
  memory_bytes: number
  disk_bytes: number
  public_ip: string | null
  ports: number[]
  fault: Fault | null
}

/** Whether the machine has a process. */
export const isOn = ({ power }: Machine): boolean => power === 'running' || power === 'paused'

/** A stopped machine with a new disk. */
export function createdMachine(spec: MachineSpec): Machine {
  return {
    disk: spec.disk,
    run: 0,
    power: 'stopped',
    started_at: null,
    ready_at: null,
    off_at: null,
    crash_at: null,
    vcpus: spec.vcpus,
    memory_bytes: spec.memory_bytes,
    disk_bytes: spec.disk_bytes,
    public_ip: null,
    ports: [],
    fault: faultOf(spec.tags),
  }
}

/** The machine after the start of `spec.run`. Throws TransientError while an older run has not ended. */
export function startedMachine(machine: Machine, spec: MachineSpec, now: Date, seed: number, boot: string): Machine {
  if (isOn(machine) && machine.run === spec.run) return machine
  if (isOn(machine)) throw new TransientError('still_running', 'An older run is still running.')
  const duration = bootSeconds(seed, spec.id, spec.run)
  const fails = failureOf(machine.fault, machine.run === 0)
  return {
    ...machine,
    ...addressOf(spec),
    vcpus: spec.vcpus,
    memory_bytes: spec.memory_bytes,
    disk_bytes: Math.max(machine.disk_bytes, spec.disk_bytes),
    power: 'running',
    run: spec.run,
    started_at: now.toISOString(),
    ready_at: machine.fault === 'never_ready' ? null : after(now, duration),
    off_at: machine.fault === 'guest_powers_off' ? after(now, duration + 30) : null,
    crash_at: fails ? after(now, duration + FAILS_AFTER_SECONDS) : null,
    crash_as: fails,
    trouble: null,
    down_since: null,
    boot,
  }
}

/** The machine after a request to power off. */
export function poweringDown(machine: Machine, now: Date): Machine {
  const ignored = machine.fault === 'ignores_power_down' || machine.trouble === 'hang'
  if (machine.power !== 'running' || ignored) return machine
  const off = after(now, POWER_OFF_SECONDS)
  return machine.off_at && machine.off_at <= off ? machine : { ...machine, off_at: off }
}

/** The machine after a resume. */
export function resumed(machine: Machine): Machine {
  if (machine.power !== 'paused' || machine.trouble !== 'disk_error') return machine
  return { ...machine, power: 'running', trouble: null, down_since: null }
}

/** The machine with a disk of at least `bytes`. Throws TransientError while it runs. */
export function withDiskSize(machine: Machine, bytes: number): Machine {
  if (machine.power === 'running') throw new TransientError('still_running', 'The machine is still running.')
  return { ...machine, disk_bytes: Math.max(machine.disk_bytes, bytes) }
}

/** The public IP address and ports of a specification. */
export function addressOf({ network }: MachineSpec): Pick<Machine, 'public_ip' | 'ports'> {
  return { public_ip: network.public_ip, ports: network.public_ip ? network.ports : [] }
}

/** The machine at `now`: applies what time and a reboot of the host have changed since it was written. */
export function machineAt(machine: Machine, now: Date, boot: string): Machine {
  if (isOn(machine) && machine.boot !== undefined && machine.boot !== boot) return failed(machine, 'host_reboot', null)
  if (machine.power !== 'running') return machine
  const at = now.toISOString()
  const { off_at, crash_at } = machine
  // The earlier of the two applies: a machine that is off does not fail.
  const failsFirst = crash_at !== null && (off_at === null || crash_at <= off_at)
  if (failsFirst && crash_at <= at) return failed(machine, machine.crash_as ?? 'crash', crash_at)
  if (off_at !== null && off_at <= at) return ended(machine, 'off')
  return machine
}

/** The machine after a failure. */
export function failed(machine: Machine, as: Failure, since: string | null): Machine {
  const down = { down_since: since, trouble: as === 'crash' ? null : as }
  if (as === 'crash' || as === 'host_reboot') return { ...ended(machine, 'crashed'), ...down }
  return { ...machine, ...down, power: as === 'hang' ? 'running' : 'paused', crash_at: null, off_at: null }
}

/** The machine without a process. */
export const ended = (machine: Machine, power: MachinePower): Machine => ({
  ...machine,
  power,
  trouble: null,
  down_since: null,
  ready_at: null,
  off_at: null,
  crash_at: null,
  public_ip: null,
  ports: [],
})

/** The observed state of a machine. */
export function observe(id: string, machine: Machine, now: Date, boot: string): ObservedMachine {
  return {
    id,
    power: machine.power,
    disk: machine.disk,
    run: machine.run,
    ready: machine.power === 'running' && machine.ready_at !== null && machine.ready_at <= now.toISOString(),
    started_at: machine.started_at ? new Date(machine.started_at) : null,
    vcpus: machine.vcpus,
    memory_bytes: machine.memory_bytes,
    disk_bytes: machine.disk_bytes,
    public_ip: machine.public_ip,
    ports: machine.ports.map((port) => ({ guest_port: port, host_port: port })),
    trouble: machine.trouble ?? null,
    down_since: machine.down_since ? new Date(machine.down_since) : null,
    host_boot: boot,
    changes_at: nextChange(machine, now),
  }
}

/** The serial console of a machine. */
export function consoleText({ id, now }: MachineRef, machine: Machine): string {
  const lines = [`[${machine.started_at}] simulated machine ${id}: run ${machine.run} started`]
  if (machine.ready_at && machine.ready_at <= now.toISOString()) {
    lines.push(`[${machine.ready_at}] simulated machine ${id}: guest is ready`)
  }
  if (machine.power !== 'running') lines.push(`simulated machine ${id}: ${machine.power}`)
  return `${lines.join('\n')}\n`
}

function nextChange(machine: Machine, now: Date): Date | null {
  if (machine.power !== 'running') return null
  const times = [machine.ready_at, machine.off_at, machine.crash_at]
  const ahead = times.filter((time) => time !== null).filter((time) => time > now.toISOString())
  return ahead.length > 0 ? new Date(ahead.sort()[0]!) : null
}

const after = (now: Date, seconds: number): string => new Date(now.getTime() + seconds * 1000).toISOString()
