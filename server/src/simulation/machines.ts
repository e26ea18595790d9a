/** A driver with the points of faults, which is checked for second processes, and the failures of machines. */
import type { Query } from '../db/database.ts'
import type { Driver, ObservedMachine } from '../drivers/driver.ts'
import { failed, type Machine } from '../drivers/simulated/machine.ts'
import type { Failure } from '../drivers/simulated/timing.ts'
import type { Random } from '../lib/random.ts'
import { aroundDriver } from '../testing/faulty-driver.ts'
import { pick } from './chance.ts'
import { atPoint } from './faults.ts'

const isOn = (machine: ObservedMachine | null) => machine?.power === 'running' || machine?.power === 'paused'
const runOf = (machine: ObservedMachine | null) => `run ${machine?.run} of ${machine?.started_at?.toISOString()}`

/**
 * The driver with the points of faults.ts.
 * @param read reads the machine as it is, whatever the driver returns
 * @param violated is called for a second process on a disk
 */
export function watchedDriver(inner: Driver, read: Driver['get'], violated: (what: string) => void): Driver {
  const faulty = aroundDriver(inner, async (call, effect) => {
    return atPoint({ what: call.method }, async () => {
      if (call.method !== 'start' && call.method !== 'create') return effect()
      const ref = { id: call.id!, environment_id: call.environment_id, now: call.now }
      const before = await read(ref)
      const result = await effect()
      const after = await read(ref)
      const another = runOf(after) !== runOf(before) || after?.disk !== before?.disk
      if (isOn(before) && another) violated(`${call.id}: ${runOf(after)} started while ${runOf(before)} was on`)
      return result
    })
  })
  return faulty
}

type Row = { id: string; machine: Machine; now: Date }

const ENDED = { ready_at: null, off_at: null, crash_at: null, public_ip: null, ports: [] }
const failing =
  (as: Failure) =>
  ({ machine, now }: Row): object =>
    failed(machine, as, now.toISOString())

/** Failures of machines: each returns the changed fields of the row, or null if it does not apply. */
const MACHINE_FAULTS: Record<string, (row: Row) => object | null> = {
  crashes: failing('crash'),
  panics: failing('panic'),
  hangs: failing('hang'),
  'has a disk error': failing('disk_error'),
  'powers off': () => ({ power: 'off', ...ENDED }),
  'is killed': () => ({ power: 'stopped', ...ENDED }),
  'never gets ready': (row) => (isBooting(row) ? { ready_at: null } : null),
  'gets ready late': (row) =>
    isBooting(row) ? { ready_at: new Date(row.now.getTime() + 25_000).toISOString() } : null,
}
const isBooting = ({ machine, now }: Row) => machine.ready_at !== null && machine.ready_at > now.toISOString()

/** Lets one running machine fail. Returns null if none runs or the failure does not apply to it. */
export async function machineFault(owner: Query, random: Random): Promise<{ id: string; what: string } | null> {
  const machines = await owner<Row[]>`
    select m.id, machine, environment_now(e) as now from simulated_machines m join environments e on e.id = m.environment_id
    where simulated.is_on(machine, environment_now(e)) order by m.id`
  const [what, changeOf] = pick(random, Object.entries(MACHINE_FAULTS))
  if (machines.length === 0) return null
  const row = pick(random, machines)
  const change = changeOf(row)
  if (!change) return null
  await owner`update simulated_machines set machine = machine || ${owner.json(change)}::jsonb where id = ${row.id}`
  return { id: row.id, what }
}
