/** The QEMU processes that the crash loop kills. */
import assert from 'node:assert/strict'
import { identify } from '../server/src/lib/processes.ts'
import type { ControlPlane } from './control-plane.ts'
import { qemuProcesses } from './leaks.ts'

/** The QEMU processes, by the ID of the instance: the process ID and its start time, which no later process shares. */
export function guestProcesses(plane: ControlPlane): Map<string, string> {
  return new Map(
    qemuProcesses(plane.data_dir).flatMap(({ pid, command }) => {
      const id = /inst_[0-9a-z]{10}/.exec(command)?.[0]
      const identity = identify(pid)
      return id && identity ? [[id, `${pid}:${identity.start_time}`] as const] : []
    }),
  )
}

/** The process ID of the one QEMU of this instance. */
export function pidOfGuest(plane: ControlPlane, id: string): number {
  const pids = qemuProcesses(plane.data_dir).filter(({ command }) => command.includes(id))
  assert.equal(pids.length, 1)
  return pids[0]!.pid
}
