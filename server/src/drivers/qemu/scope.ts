import { access, mkdir, rmdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'

/** What keeps machines alive when the control plane's own service is stopped as a whole. */
export type Scope = 'systemd' | 'cgroup' | 'none'

const CGROUPS = '/sys/fs/cgroup'

const exists = (path: string) =>
  access(path).then(
    () => true,
    () => false,
  )

/** The best that this host offers: a systemd scope per machine, else a cgroup of version 2, else only an own session. */
export async function detectScope(installation: string, isRoot: boolean): Promise<Scope> {
  if (isRoot && (await exists('/run/systemd/system'))) return 'systemd'
  if (!(await exists(join(CGROUPS, 'cgroup.controllers')))) return 'none'
  return mkdir(cgroupOf(installation), { recursive: true }).then(
    () => 'cgroup',
    () => 'none',
  )
}

/** Words for the log and `/v2/regions`. */
export const SCOPE_REASONS: Record<Scope, string> = {
  systemd: 'each in a separate systemd scope',
  cgroup: 'each in a separate cgroup',
  none: 'each in a separate session (no systemd, no writable cgroup v2)',
}

const cgroupOf = (installation: string, id = '') => join(CGROUPS, `cloudnexus-${installation}`, id)

/** Moves a process that has just been started; its threads are not born yet. */
export async function enterCgroup(installation: string, id: string, pid: number): Promise<void> {
  await mkdir(cgroupOf(installation, id), { recursive: true })
  await writeFile(join(cgroupOf(installation, id), 'cgroup.procs'), `${pid}`)
}

/** Absent is success; one that still holds a dying process is left for the next attempt. */
export async function removeCgroup(installation: string, id: string): Promise<void> {
  await rmdir(cgroupOf(installation, id)).catch(() => {})
}
