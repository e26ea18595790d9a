import { access, mkdir, rmdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'

/** How machines are separated from the control plane's service, so that they survive its stop. */
export type Scope = 'systemd' | 'cgroup' | 'none'

const CGROUPS = '/sys/fs/cgroup'

const exists = (path: string) =>
  access(path).then(
    () => true,
    () => false,
  )

/** The best scope that this host supports: a systemd scope per machine, a version 2 cgroup, or only a session. */
export async function detectScope(installation: string, isRoot: boolean): Promise<Scope> {
  if (isRoot && (await exists('/run/systemd/system'))) return 'systemd'
  if (!(await exists(join(CGROUPS, 'cgroup.controllers')))) return 'none'
  return mkdir(cgroupOf(installation), { recursive: true }).then(
    () => 'cgroup',
    () => 'none',
  )
}

/** The reasons for the log and `/v2/regions`. */
export const SCOPE_REASONS: Record<Scope, string> = {
  systemd: 'each in a separate systemd scope',
  cgroup: 'each in a separate cgroup',
  none: 'each in a separate session (no systemd, no writable cgroup v2)',
}

const cgroupOf = (installation: string, id = '') => join(CGROUPS, `cloudnexus-${installation}`, id)

/** Moves a process that has just started and has no threads yet. */
export async function enterCgroup(installation: string, id: string, pid: number): Promise<void> {
  await mkdir(cgroupOf(installation, id), { recursive: true })
  await writeFile(join(cgroupOf(installation, id), 'cgroup.procs'), `${pid}`)
}

/** Removes the cgroup of a machine, if it is empty. */
export async function removeCgroup(installation: string, id: string): Promise<void> {
  await rmdir(cgroupOf(installation, id)).catch(() => {})
}
