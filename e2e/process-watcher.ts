/**
 * A thread that looks at the host's processes all the time: a second QEMU of an instance may live for a few milliseconds
 * only, until it meets the lock of the first. A process is read until it is what it becomes: between fork and exec it has
 * its parent's command line.
 */
import { readdirSync, readFileSync } from 'node:fs'
import { parentPort, workerData } from 'node:worker_threads'
import { identify } from '../server/src/lib/processes.ts'

const INTERVAL_MS = 10
/** Looks after which a new process is taken for what it is. */
const MOST_LOOKS = 500

const { data_dir } = workerData as { data_dir: string }
/** Machines by pid; of the other processes, how often they were looked at. */
const machines = new Map<number, string>()
const others = new Map<number, number>()
const told = new Set<string>()

function instanceOf(pid: number): string | null {
  let command: string
  try {
    command = readFileSync(`/proc/${pid}/cmdline`, 'utf8')
  } catch {
    return null
  }
  if (!/^[^\0]*qemu-system/.test(command) || !command.includes(`${data_dir}/`)) return null
  return /inst_[0-9a-z]{10}/.exec(command)?.[0] ?? null
}

function look(): void {
  const pids = readdirSync('/proc').map(Number).filter(Number.isInteger)
  const present = new Set(pids)
  for (const known of [machines, others]) for (const pid of known.keys()) if (!present.has(pid)) known.delete(pid)
  for (const pid of pids) {
    const looks = others.get(pid) ?? 0
    if (machines.has(pid) || looks > MOST_LOOKS) continue
    const id = instanceOf(pid)
    if (id) machines.set(pid, id)
    else others.set(pid, looks + 1)
  }
  const byInstance = Map.groupBy(machines.keys(), (pid) => machines.get(pid)!)
  for (const [id, some] of byInstance) {
    // The list was not read at one moment: two are two when the older one still lives after the younger was seen.
    const key = `${id}: ${some}`
    if (some.length < 2 || told.has(key) || !some.every((pid) => identify(pid) && instanceOf(pid) === id)) continue
    told.add(key)
    parentPort!.postMessage(key)
  }
}

setInterval(look, INTERVAL_MS)
