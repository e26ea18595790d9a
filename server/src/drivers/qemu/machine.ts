/**
 * One machine as it is on this host: its folder, its last run and its process. Every method of the driver begins with
 * `look`, which also finishes what a killed control plane had begun: a start leaves `starting.json` behind before the
 * process exists, and whoever finds that file looks for the process and writes down which one it is.
 */
import { rm } from 'node:fs/promises'
import type { Clock } from '../../lib/clock.ts'
import { type MachinePower, type ObservedMachine, TransientError, type Trouble } from '../driver.ts'
import { hasFreeSpace } from './disk.ts'
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
import { hasSignaledReady } from './monitors.ts'
import {
  findByPidFile,
  findMachineProcesses,
  hostBootId,
  isAlive,
  killProcess,
  type ProcessIdentity,
  waitForEnd,
} from './process.ts'
import { QmpClient } from './qmp.ts'

/** `machine` is null for a process whose files are gone. `process` is the live one. */
export type Machine = {
  paths: MachinePaths
  machine: MachineFile | null
  run: RunFile | null
  process: ProcessIdentity | null
}

export const CONTROL_MS = 1000
const QUIT_MS = 1000
const KILL_MS = 2000

/** Reads everything about a machine; null when neither a file nor a process is left of it. */
export async function findMachine(roots: Roots, id: string, thorough = false): Promise<Machine | null> {
  const paths = machinePaths(roots, id)
  const [machine, last, begun] = await Promise.all([readMachine(paths), readRun(paths), readStart(paths)])
  const pending = begun && begun.run > (last?.run ?? 0) ? begun : null
  const known = last && (await isAlive(last.process)) ? last.process : null
  if (known) return { paths, machine, run: last, process: known }
  const process = thorough || pending || !machine ? await findProcess(roots, paths) : null
  if (!machine) return process ? { paths, machine, run: last, process } : null
  if (!pending || !process) return { paths, machine, run: last, process }
  const run: RunFile = { ...pending, process }
  await writeJson(paths.run_file, run)
  await rm(paths.start_file, { force: true })
  return { paths, machine, run, process }
}

/** Like `look`, for one that is to be deleted: damaged files do not protect it. */
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

/** Opens the control socket for one piece of work. Null when QEMU does not answer (just born, dying or hanging). */
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
 * Ends the process for good and writes down how. The reason is written first: killed in between, we find a live machine
 * and are asked again. QEMU is asked to quit, so that its disk is complete, and then not asked.
 */
export async function endProcess(found: Machine, ended: 'off' | 'stopped', clock: Clock): Promise<void> {
  const { paths, run, process } = found
  if (run && run.ended === null) await writeJson(paths.run_file, { ...run, ended })
  if (!process) return
  const asked = await withControl(paths, clock, (client) => client.execute('quit', {}, CONTROL_MS)).catch(() => null)
  if (asked && (await waitForEnd(process, QUIT_MS, clock))) return
  if (await killProcess(process, KILL_MS, clock)) return
  throw new TransientError('still_running', 'The machine is still running.', `process ${process.pid} outlives SIGKILL`)
}

type PowerState = { power: MachinePower; trouble: Trouble | null }
/** What a monitor knows of a machine that nothing else tells. */
export type MonitorState = { hung: boolean; down_since: Date | null }

const STATUSES: Record<string, PowerState> = {
  running: { power: 'running', trouble: null },
  'guest-panicked': { power: 'paused', trouble: 'panic' },
  'internal-error': { power: 'paused', trouble: 'panic' },
  'io-error': { power: 'paused', trouble: 'disk_error' },
  paused: { power: 'paused', trouble: null },
  shutdown: { power: 'off', trouble: null },
}

/** What the machine does now, as QEMU or the lack of it tells. One whose guest has powered itself off is ended here, for it waits for just that. */
export async function observePower(found: Machine, clock: Clock): Promise<PowerState> {
  const { paths, run, process } = found
  if (!process) return powerWithoutProcess(run)
  const answer = await withControl(paths, clock, async (client) => {
    const status = await client.execute('query-status', {}, CONTROL_MS)
    const seen = STATUSES[(status as { status?: string }).status ?? 'running'] ?? STATUSES.running!
    return seen.trouble === 'disk_error' ? await diskTrouble(client, paths) : seen
  }).catch(() => null)
  if (!answer && !(await isAlive(process))) return powerWithoutProcess(run)
  const seen = answer?.result ?? STATUSES.running!
  if (seen.power === 'off') await endProcess(found, 'off', clock)
  return seen
}

/** A write that found no room can be repeated when there is some. */
async function diskTrouble(client: QmpClient, paths: MachinePaths): Promise<PowerState> {
  const devices = (await client.execute('query-block', {}, CONTROL_MS)) as { 'io-status'?: string }[]
  const noRoom = devices.some((device) => device['io-status'] === 'nospace')
  return { power: 'paused', trouble: noRoom && !(await hasFreeSpace(paths.directory)) ? 'disk_full' : 'disk_error' }
}

/** A machine without a process. One that nobody ended went down with the host, or by itself. */
async function powerWithoutProcess(run: RunFile | null): Promise<PowerState> {
  if (!run) return { power: 'stopped', trouble: null }
  if (run.ended !== null) return { power: run.ended, trouble: null }
  return { power: 'crashed', trouble: run.process.boot_id === (await hostBootId()) ? null : 'host_reboot' }
}

/** The machine as the reconciler sees it. @param hear asked last: what QEMU tells has been heard by then */
export async function observe(
  id: string,
  found: Machine,
  hear: () => Promise<MonitorState>,
  clock: Clock,
): Promise<ObservedMachine> {
  const { machine, run, paths } = found
  const { power, trouble: told } = await observePower(found, clock)
  const heard = await hear()
  const trouble = power === 'running' && heard.hung ? 'hang' : told
  const down = trouble !== null || power === 'crashed'
  const byGuest = machine?.image.ready_signal !== 'process'
  const ready = run !== null && (byGuest ? await hasSignaledReady(paths.ready) : power === 'running')
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
    ports: run?.ports ?? [],
    trouble,
    down_since: down ? heard.down_since : null,
    host_boot: await hostBootId(),
  }
}
