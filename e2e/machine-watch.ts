/**
 * Reads the processes of the host every few milliseconds, in a thread of its own, so that neither a busy test nor its
 * waits leave a gap. A pass costs a listing of /proc. It reads files only of processes that may be, or may become, a
 * machine of this data directory.
 *
 * A process that was forked and has not called exec has its parent's command line, and each step of the chain that ends
 * in QEMU replaces the one before (drivers/qemu/launch.ts). So a process whose command line names the data directory, is
 * its parent's or is empty is read again in each pass, until it is QEMU or gone; all others are ignored.
 */
import { readdirSync, readFileSync } from 'node:fs'
import { type MessagePort, workerData } from 'node:worker_threads'

export type WatchData = { data_dir: string; port: MessagePort; flags: Int32Array<SharedArrayBuffer> }
/** Indexes of the flags: the other thread requests the end, and this one reports it. */
const STOP = 0
const ENDED = 1

const INTERVAL_MS = 10
/** Passes after which a process without a command line of its own is ignored: a kernel thread, or a subshell. */
const MAX_EARLY_PASSES = 2_000

type Machine = { pid: number; id: string; start_time: string; parent: number }
/** The kind of a process: a machine, something else, or the number of passes in which it was neither. */
type Known = Machine | 'other' | number

const { data_dir, port, flags }: WatchData = workerData
const known = new Map<number, Known>()
const found = new Set<string>()
try {
  do scan()
  while (Atomics.wait(flags, STOP, 0, INTERVAL_MS) === 'timed-out')
  scan()
} finally {
  Atomics.store(flags, ENDED, 1)
  Atomics.notify(flags, ENDED)
}

function scan(): void {
  const pids = readdirSync('/proc').map(Number).filter(Number.isInteger)
  const present = new Set(pids)
  for (const pid of known.keys()) if (!present.has(pid)) known.delete(pid)
  for (const pid of pids) {
    const before = known.get(pid) ?? 0
    if (typeof before === 'number') known.set(pid, recognize(pid, before))
  }
  const machines = new Map<string, Machine[]>()
  for (const one of known.values())
    if (typeof one === 'object') machines.set(one.id, [...(machines.get(one.id) ?? []), one])
  for (const all of machines.values())
    for (const [i, one] of all.entries()) for (const other of all.slice(i + 1)) compare(one, other)
}

function recognize(pid: number, passes: number): Known {
  const command = read(pid, 'cmdline')
  const status = statusOf(pid)
  if (!command.includes(`${data_dir}/`) && !command.includes(`${data_dir}\0`)) {
    const isEarly = command === '' || (status && command === read(status.parent, 'cmdline'))
    return isEarly && passes < MAX_EARLY_PASSES ? passes + 1 : 'other'
  }
  const id = /inst_[0-9a-z]{10}/.exec(command)?.[0]
  return id && status && /^[^\0]*qemu-system/.test(command) ? { pid, id, ...status } : 0
}

/** Reports two machines if the first is alive before and after the second was: then both were alive at that moment. */
function compare(one: Machine, other: Machine): void {
  if (one.parent === other.pid || other.parent === one.pid) return // a fork of the machine, not a second start
  if (!isAlive(one) || !isAlive(other) || !isAlive(one)) return
  const text = `${one.id}: ${one.pid} and ${other.pid}`
  if (!found.has(text)) port.postMessage(text)
  found.add(text)
}

function isAlive({ pid, start_time }: Machine): boolean {
  return statusOf(pid)?.start_time === start_time
}

/** Null when the process does not exist or is a zombie. The name of the command may contain spaces, so fields are counted after it. */
function statusOf(pid: number): Pick<Machine, 'start_time' | 'parent'> | null {
  const stat = read(pid, 'stat')
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
  return stat === '' || fields[0] === 'Z' || fields[0] === 'X'
    ? null
    : { start_time: fields[19]!, parent: Number(fields[1]) }
}

function read(pid: number, name: 'cmdline' | 'stat'): string {
  try {
    return readFileSync(`/proc/${pid}/${name}`, 'latin1')
  } catch {
    return ''
  }
}
