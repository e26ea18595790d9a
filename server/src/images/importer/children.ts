/**
 * The processes that an import starts, and how none of them is left behind.
 *
 * Each carries the job's directory in its environment. An importer that is killed -9 cannot end its children; the next
 * one on the same directory (or the control plane, before it removes the directory) finds them by that mark, whatever
 * group they are in by now. A pid file could not do this: a build makes processes that nobody noted.
 */
import type { ChildProcess } from 'node:child_process'
import { readdirSync, readFileSync, realpathSync } from 'node:fs'
import { systemClock } from '../../lib/clock.ts'

const MARK = 'CLOUDNEXUS_IMPORT'
const LOOKS = 100
const PAUSE_MS = 50

/** The environment of a tool: nothing of ours but the search path. */
export function toolEnvironment(jobDir: string): Record<string, string> {
  // Few memory arenas: a tool with many threads stays well below its limit of address space.
  return { PATH: searchPath(), LANG: 'C.UTF-8', MALLOC_ARENA_MAX: '2', [MARK]: realpathSync(jobDir) }
}

/** The environment of a build script: the operator's own, proxies and all. */
export function scriptEnvironment(jobDir: string): Record<string, string | undefined> {
  return { ...process.env, [MARK]: realpathSync(jobDir) }
}

/** Where tools are looked for. */
export function searchPath(): string {
  return process.env.PATH ?? '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'
}

const live = new Set<() => void>()

/** Remembers a child until it exits; `group` when it leads a process group of its own. Returns how to kill it. */
export function track(child: ChildProcess, options: { group: boolean }): () => void {
  const kill = () => {
    if (child.pid === undefined || child.exitCode !== null || child.signalCode !== null) return
    killQuietly(options.group ? -child.pid : child.pid)
  }
  live.add(kill)
  child.once('close', () => live.delete(kill))
  child.once('error', () => live.delete(kill))
  return kill
}

/** Kills what this process started and still runs. */
export function endChildren(): void {
  for (const kill of live) kill()
}

/** Kills whatever an import of this directory started, and waits until it is gone. The importer itself is not meant. */
export async function endLeftovers(jobDir: string): Promise<void> {
  const mark = `${MARK}=${realpathSync(jobDir)}`
  for (let look = 0; look < LOOKS; look++) {
    const pids = readdirSync('/proc').filter((name) => /^\d+$/.test(name) && isMarked(name, mark))
    if (pids.length === 0) return
    for (const pid of pids) killQuietly(Number(pid))
    await systemClock.sleep(PAUSE_MS)
  }
  throw new Error('processes of an earlier import do not end')
}

function isMarked(pid: string, mark: string): boolean {
  if (Number(pid) === process.pid) return false
  try {
    return readFileSync(`/proc/${pid}/environ`, 'utf8').split('\0').includes(mark)
  } catch {
    return false // gone, or not ours
  }
}

function killQuietly(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error
  }
}
