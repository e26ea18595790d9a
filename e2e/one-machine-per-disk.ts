/** A probe that runs beside a test: no instance ever has two QEMU processes. */
import { identify } from '../server/src/lib/processes.ts'
import { qemuProcesses } from './leaks.ts'

const INTERVAL_MS = 100

/** Looks until it is stopped; `stop` gives the instances that had two processes at once. */
export function probeMachines(dataDir: string): { stop(): string[] } {
  const twice = new Set<string>()
  const look = () => {
    const seen = new Map<string, number[]>()
    for (const { pid, command } of qemuProcesses(dataDir)) {
      const id = /inst_[0-9a-z]{10}/.exec(command)?.[0]
      if (id) seen.set(id, [...(seen.get(id) ?? []), pid])
    }
    // The list was not read at one moment: two are two when the older one still lives after the younger was seen.
    for (const [id, pids] of seen)
      if (pids.length > 1 && pids.every((pid) => identify(pid))) twice.add(`${id}: ${pids}`)
  }
  const timer = setInterval(look, INTERVAL_MS)
  return {
    stop() {
      clearInterval(timer)
      return [...twice]
    },
  }
}
