/**
 * The child processes of an import. Each has the job directory in its environment, by which a later importer (or the
 * control plane, before it deletes the directory) finds children that a killed importer has left, in any process group.
 */
import type { ChildProcess } from 'node:child_process'
import { readdirSync, readFileSync, realpathSync } from 'node:fs'
import { systemClock } from '../../lib/clock.ts'
import { meansGone } from '../../lib/processes.ts'

const MARK = 'CLOUDNEXUS_IMPORT'
const MAX_SCANS = 100
const SCAN_INTERVAL_MS = 50

/** The environment of a tool: only the search path is inherited. */
export function toolEnvironment(jobDir: string): Record<string, string> {
  // Few memory arenas keep a tool with many threads below its address space limit.
  return { PATH: searchPath(), LANG: 'C.UTF-8', MALLOC_ARENA_MAX: '2', [MARK]: realpathSync(jobDir) }
}

/** The environment of a build script: the operator's, including proxy settings. */
export function scriptEnvironment(jobDir: string): Record<string, string | undefined> {
  return { ...process.env, [MARK]: realpathSync(jobDir) }
}

/** The directories in which tools are searched. */
export function searchPath(): string {
  return process.env.PATH ?? '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'
}

const liveChildren = new Set<() => void>()

/** Registers a child until it exits and returns a function that kills it. `group`: the child leads a process group. */
export function track(child: ChildProcess, options: { group: boolean }): () => void {
  const kill = () => {
    const running = child.exitCode === null && child.signalCode === null
    if (running && child.pid !== undefined) killQuietly(options.group ? -child.pid : child.pid)
  }
  liveChildren.add(kill)
  child.once('close', () => liveChildren.delete(kill))
  child.once('error', () => liveChildren.delete(kill))
  return kill
}

/** Kills all registered children. */
export function killChildren(): void {
  for (const kill of liveChildren) kill()
}

/** Kills all processes that imports of this directory started, except this process, and waits until they have exited. */
export async function killLeftovers(jobDir: string): Promise<void> {
  const mark = `${MARK}=${realpathSync(jobDir)}`
  for (let scan = 0; scan < MAX_SCANS; scan++) {
    const pids = readdirSync('/proc').filter((name) => /^\d+$/.test(name) && isMarked(name, mark))
    if (pids.length === 0) return
    for (const pid of pids) killQuietly(Number(pid))
    await systemClock.sleep(SCAN_INTERVAL_MS)
  }
  throw new Error('processes of an earlier import do not exit')
}

function isMarked(pid: string, mark: string): boolean {
  if (Number(pid) === process.pid) return false
  try {
    return readFileSync(`/proc/${pid}/environ`, 'utf8').split('\0').includes(mark)
  } catch (error) {
    // It has exited, or is owned by another user, whose environment is not readable. Any other error says nothing.
    const isForeign = ['EACCES', 'EPERM'].includes((error as NodeJS.ErrnoException).code ?? '')
    if (isForeign || meansGone(error)) return false
    throw error
  }
}

function killQuietly(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error
  }
}
