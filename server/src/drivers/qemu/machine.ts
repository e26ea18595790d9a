/**
 * The state of one machine on this host: its folder, its last run and its process. Every method of the driver begins
 * with `findMachine`, which also completes a start that a killed control plane began: a start writes `starting.json`
 * before the process exists; if the file is found later, the process is searched and recorded in `run.json`.
 */
import { readdir, rm } from 'node:fs/promises'
import type { Clock } from '../../lib/clock.ts'
import { isId } from '../../lib/id.ts'
import { hostBootId, isAlive, type ProcessIdentity } from '../../lib/processes.ts'
import { type MachinePower, type ObservedMachine, TransientError, type Trouble } from '../driver.ts'
import { hasFreeSpace } from './disk.ts'
import { hasSignaledReady } from './heartbeat.ts'
import type { Host } from './host.ts'
import {
  instancesFolder,
  type MachineFile,
  type MachinePaths,
  machinePaths,
  type Roots,
  type RunFile,
  readMachine,
  readRun,
  readStart,
  writeJson,
} from './machine-files.ts'
import type { MonitorState } from './monitors.ts'
import type { RunningForwards } from './network/network.ts'
import { findByPidFile, findMachineProcesses, killProcess, waitForEnd } from './process.ts'
import { QmpClient } from './qmp.ts'

/** `machine` is null if only a process is left. `process` is null if the machine has none. */
export type Machine = {
  paths: MachinePaths
  machine: MachineFile | null
  run: RunFile | null
  process: ProcessIdentity | null
}

export const CONTROL_MS = 1000
const QUIT_MS = 1000
const KILL_MS = 2000

/** Reads the state of a machine; null if neither a file nor a process exists. `thorough`: always search for a process. */
export async function findMachine(roots: Roots, id: string, thorough = false): Promise<Machine | null> {
  const paths = machinePaths(roots, id)
  const [machine, last, begun] = await Promise.all([readMachine(paths), readRun(paths), readStart(paths)])
  const pending = begun && begun.run > (last?.run ?? 0) ? begun : null
  const known = last && isAlive(last.process) ? last.process : null
  if (known) return { paths, machine, run: last, process: known }
  const process = thorough || pending || !machine ? await findProcess(roots, paths) : null
  if (!machine) return process ? { paths, machine, run: last, process } : null
  if (!pending || !process) return { paths, machine, run: last, process }
  const run: RunFile = { ...pending, process }
  await writeJson(paths.run_file, run)
  await rm(paths.start_file, { force: true })
  return { paths, machine, run, process }
}

/** The forwards of all machines that run. */
export async function runningForwards(roots: Roots): Promise<RunningForwards> {
  const running: RunningForwards['running'] = []
  let complete = true
  for (const id of (await readdir(instancesFolder(roots))).filter((name) => isId('inst', name))) {
    const run = await readRun(machinePaths(roots, id)).catch((error: unknown) => {
      if (!(error instanceof TransientError)) throw error
      complete = false
      return null
    })
    if (run?.public_ip && run.ended === null && isAlive(run.process))
      running.push({ ip: run.public_ip, ports: run.ports })
  }
  return { running, complete }
}

/** Like `findMachine`, but for a deletion, which damaged files must not prevent. */
export async function findMachineToDelete(roots: Roots, id: string): Promise<Machine | null> {
  const paths = machinePaths(roots, id)
  return findMachine(roots, id, true).catch(async () => ({
    paths,
    machine: null,
    run: null,
    process: await findProcess(roots, paths),
  }))
}

async function findProcess(roots: Roots, paths: MachinePaths): Promise<ProcessIdentity | null> {
  const byFile = await findByPidFile(paths.pid_file, paths.directory)
  if (byFile) return byFile
  const all = await findMachineProcesses(instancesFolder(roots))
  return all.find((each) => each.folder === paths.directory)?.process ?? null
}

/** Runs `work` with a connection to the control socket. Null if QEMU does not respond (it starts, exits or hangs). */
export async function withControl<T>(paths: MachinePaths, clock: Clock, work: (client: QmpClient) => Promise<T>) {
  const client = await QmpClient.connect(paths.control, CONTROL_MS, clock).catch(() => null)
  if (!client) return null
  try {
    return { result: await work(client) }
  } finally {
    client.close()
  }
}

/**
 * Ends the process permanently and records how it ended. The record is written first: if the control plane is killed in
 * between, the machine is still running and the call is repeated. The rest of the console is read, and QEMU is requested
 * to quit, so that it flushes the disk; it is killed after a timeout.
 */
export async function endProcess(
  found: Machine,
  ended: 'off' | 'stopped',
  { clock, output }: Pick<Host, 'clock' | 'output'>,
): Promise<void> {
  const { paths, run, process } = found
  if (run && run.ended === null) await writeJson(paths.run_file, { ...run, ended })
  if (!process) return
  const quits = await withControl(paths, clock, async (client) => {
    await output.collect(client, paths)
    await client.execute('quit', {}, CONTROL_MS)
  }).catch(() => null)
  if (quits && (await waitForEnd(process, QUIT_MS, clock))) return
  if (await killProcess(process, KILL_MS, clock)) return
  throw new TransientError('still_running', 'The machine is still running.', `process ${process.pid} survives SIGKILL`)
}

type PowerState = { power: MachinePower; trouble: Trouble | null }

const STATUSES: Record<string, PowerState> = {
  running: { power: 'running', trouble: null },
  'guest-panicked': { power: 'paused', trouble: 'panic' },
  'internal-error': { power: 'paused', trouble: 'panic' },
  'io-error': { power: 'paused', trouble: 'disk_error' },
  paused: { power: 'paused', trouble: null },
  shutdown: { power: 'off', trouble: null },
}

/** Observes the power state of a machine, and reads what its guest has written before. QEMU pauses when its guest has powered off; such a process is ended here. */
async function observePower(found: Machine, host: Pick<Host, 'clock' | 'output'>): Promise<PowerState> {
  const { paths, run, process } = found
  const { clock, output } = host
  if (!process) return powerWithoutProcess(run)
  const reply = await withControl(paths, clock, async (client) => {
    await output.collect(client, paths)
    const status = await client.execute('query-status', {}, CONTROL_MS)
    const state = STATUSES[(status as { status?: string }).status ?? 'running'] ?? STATUSES.running!
    if (state.power === 'paused' && state.trouble === null) return pausedByUs(paths)
    return state.trouble === 'disk_error' ? await diskTrouble(client, paths) : state
  }).catch(() => null)
  if (!reply && !isAlive(process)) return powerWithoutProcess(run)
  const state = reply?.result ?? STATUSES.running!
  if (state.power === 'off') await endProcess(found, 'off', host)
  return state
}

/** A guest is paused while the disk of the host is nearly full, and can be resumed when space is free again. */
async function pausedByUs(paths: MachinePaths): Promise<PowerState> {
  return { power: 'paused', trouble: (await hasFreeSpace(paths.directory)) ? 'disk_error' : 'disk_full' }
}

/** A write that failed for lack of space can be repeated when space is free again. */
async function diskTrouble(client: QmpClient, paths: MachinePaths): Promise<PowerState> {
  const devices = (await client.execute('query-block', {}, CONTROL_MS)) as { 'io-status'?: string }[]
  const noSpace = devices.some((device) => device['io-status'] === 'nospace')
  return { power: 'paused', trouble: noSpace && !(await hasFreeSpace(paths.directory)) ? 'disk_full' : 'disk_error' }
}

/** The power state of a machine without a process. A run without a recorded end has crashed, possibly with the host. */
function powerWithoutProcess(run: RunFile | null): PowerState {
  if (!run) return { power: 'stopped', trouble: null }
  if (run.ended !== null) return { power: run.ended, trouble: null }
  return { power: 'crashed', trouble: run.process.boot_id === hostBootId() ? null : 'host_reboot' }
}

/** The observed state for the reconciler. @param readMonitor called last, after the monitor has received QEMU's events */
export async function observe(
  id: string,
  found: Machine,
  readMonitor: () => Promise<MonitorState>,
  host: Pick<Host, 'clock' | 'output'>,
): Promise<ObservedMachine> {
  const { machine, run, paths } = found
  const { power, trouble: reported } = await observePower(found, host)
  const monitor = await readMonitor()
  const trouble = power === 'running' && monitor.hung ? 'hang' : reported
  const down = trouble !== null || power === 'crashed'
  const signaledByGuest = machine?.image.ready_signal !== 'process'
  const ready = run !== null && (signaledByGuest ? await hasSignaledReady(paths.ready) : power === 'running')
  const size = run ?? machine
  return {
    id,
    power,
    disk: machine?.disk ?? 0,
    run: run?.run ?? 0,
    ready,
    started_at: run ? new Date(run.started_at) : null,
    vcpus: size?.vcpus ?? 0,
    memory_bytes: size?.memory_bytes ?? 0,
    disk_bytes: machine?.disk_bytes ?? 0,
    public_ip: run?.public_ip ?? null,
    ports: (run?.ports ?? []).map(({ guest_port, host_port }) => ({ guest_port, host_port })),
    trouble,
    down_since: down ? monitor.down_since : null,
    host_boot: hostBootId(),
  }
}
