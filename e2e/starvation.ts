/** What a host can lack for a while: each function takes it away and returns a function that gives it back. */
import { spawnSync } from 'node:child_process'
import { readdirSync, rmSync, statfsSync } from 'node:fs'
import { join } from 'node:path'
import type { Sql } from '../server/src/db/database.ts'
import { type ControlPlane, run } from './control-plane.ts'

const MIB = 2 ** 20
const MARGIN_MIB = 32

export type GiveBack = () => Promise<void>

/** Free descriptors of the control plane: it cannot open a file, a socket or a process. */
export async function takeDescriptors({ child }: ControlPlane): Promise<GiveBack> {
  const pid = `${child!.pid}`
  const [, soft, hard] = /(\d+) +(\d+)/.exec(
    await run('prlimit', ['--pid', pid, '--nofile', '--noheadings', '-o', 'SOFT,HARD']),
  )!
  const open = readdirSync(`/proc/${pid}/fd`).length
  await run('prlimit', ['--pid', pid, `--nofile=${open}:${hard}`])
  return async () => void (await run('prlimit', ['--pid', pid, `--nofile=${soft}:${hard}`]))
}

/** A PostgreSQL that responds: all its processes are paused. */
export async function pausePostgres(plane: ControlPlane): Promise<GiveBack> {
  const server = `${plane.postgres_pid}`
  const children = (await run('pgrep', ['-P', server])).trim().split('\n')
  const signal = (name: NodeJS.Signals) => {
    for (const pid of [server, ...children])
      try {
        process.kill(Number(pid), name)
      } catch {
        // A process of the server that has ended.
      }
  }
  signal('SIGSTOP')
  return async () => signal('SIGCONT')
}

/** Connections to the database: those that exist are closed, and new ones are refused. */
export async function refuseConnections(owner: Sql): Promise<GiveBack> {
  const roles = await owner<{ rolname: string }[]>`select rolname from pg_roles where rolcanlogin and not rolsuper`
  const each = async (text: (role: string) => string) => {
    for (const { rolname } of roles) await owner.unsafe(text(`"${rolname}"`))
  }
  await each((role) => `alter role ${role} nologin`)
  await owner`select pg_terminate_backend(pid) from pg_stat_activity
    where usename = any(${roles.map(({ rolname }) => rolname)})`
  return () => each((role) => `alter role ${role} login`)
}

/** A file system in memory for a data directory; only root can mount it. */
export async function mountSmallDisk(folder: string, mib: number): Promise<void> {
  await run('mount', ['-t', 'tmpfs', '-o', `size=${mib}m,mode=711`, 'cn-small', folder])
}

/** Unmounts it, also while files on it are open. */
export function unmountSmallDisk(folder: string): void {
  spawnSync('umount', ['--lazy', folder])
}

/** Disk space, on a file system that belongs to the test: this many MiB stay free. */
export async function fillDisk(folder: string, free_mib: number): Promise<GiveBack> {
  const ballast = join(folder, 'ballast')
  // Others write meanwhile: what is left is filled by writes until one fails.
  await run('fallocate', ['-l', `${(freeMib(folder) - free_mib - MARGIN_MIB) * MIB}`, ballast])
  const rest = free_mib === 0 ? 'cat /dev/zero >>"$1"; true' : `head -c ${MARGIN_MIB * MIB} /dev/zero >>"$1"`
  await run('sh', ['-c', `{ ${rest}; } 2>/dev/null`, 'sh', ballast])
  return async () => rmSync(ballast)
}

/** Free space of a file system, in MiB. */
export function freeMib(folder: string): number {
  const { bavail, bsize } = statfsSync(folder)
  return Math.floor((bavail * bsize) / MIB)
}
