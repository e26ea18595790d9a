/** Runs the due keys of an environment, and advances its frozen clock to the next due time. */
import type { Sql } from '../db/database.ts'
import { until } from '../testing/until.ts'
import type { Subject } from './faults.ts'
import type { MatrixWorld, Worker } from './world.ts'

/** Real time after which a test with due keys fails. */
const DEADLINE_SECONDS = 600
const INTERVAL_MS = 2

/**
 * Runs due keys of the environment until none is due, also after failures. Steps that hang or were killed keep their keys;
 * all others must have ended.
 */
export async function settle(world: MatrixWorld, worker: Worker, environmentId: string): Promise<void> {
  const { owner, faults } = world
  const isSettled = async () => {
    const held = [...faults.lost].flatMap(([name, holdsKey]) => (holdsKey ? [name] : []))
    const [row] = await owner<{ due: number }[]>`
      with retried as (
        update work set not_before = '-infinity'
        where ctid in (
          select ctid from work where environment_id = ${environmentId} and not_before > now() for update skip locked))
      select count(*) as due from work
      where environment_id = ${environmentId} and due_at <= environment_now(${environmentId})
        and not (leased_until > now() and kind || ' ' || id = any(${held}))`
    if (worker.active() === faults.lost.size && row!.due === 0) return true
    worker.engine.nudge()
    return false
  }
  await until('no key is due', isSettled, DEADLINE_SECONDS, INTERVAL_MS)
}

/** Runs due keys and advances the environment's clock to the next one, up to the horizon. */
export async function drive(
  world: MatrixWorld,
  worker: Worker,
  environmentId: string,
  horizonSeconds: number,
): Promise<void> {
  let passed = 0
  for (;;) {
    await settle(world, worker, environmentId)
    const seconds = await secondsUntilDue(world.owner, environmentId)
    if (seconds === null || passed + seconds > horizonSeconds) return
    if (seconds <= 0) continue
    // The due times of machines differ by fractions of a second. One second more runs their passes together.
    const step = seconds + 1
    passed += step
    await world.owner`
      update environments set clock_frozen_at = clock_frozen_at + make_interval(secs => ${step}) where id = ${environmentId}`
  }
}

/** Seconds until the next key is due; null when none will be. */
async function secondsUntilDue(owner: Sql, environmentId: string): Promise<number | null> {
  const [row] = await owner<{ seconds: number | null }[]>`
    select extract(epoch from min(due_at) - environment_now(${environmentId}))::float8 as seconds from work
    where environment_id = ${environmentId} and leased_until is null`
  return row!.seconds
}

/**
 * Runs one worker until the faults have occurred and no key is due. Then its leases end, like those of a process that is
 * killed or hangs, and a second worker continues. A step that hangs continues only after its key was taken over.
 * @param work runs all due keys with a worker
 */
export async function throughFaults(
  world: MatrixWorld,
  environmentId: string,
  subjects: Subject[],
  work: (worker: Worker) => Promise<void>,
): Promise<void> {
  const { owner, faults } = world
  faults.lost.clear()
  const first = await world.worker('first')
  await work(first)
  await first.engine.stop(0)
  // Otherwise the first worker could take over its own key and wait for the machine that its hanging step has locked.
  await until('the last claim has ended', () => !first.isClaiming())
  const hanging = subjects.filter(({ release }) => release)
  const killed = faults.lost.size - hanging.length
  await owner`update work set leased_until = now() - interval '1 second'
    where environment_id = ${environmentId} and leased_until is not null`
  const second = await world.worker('second')
  await until('the keys of hanging steps are taken over', async () => {
    second.engine.nudge()
    // A key that was taken over may already be deleted.
    const waiting = await owner`
      select from work where kind || ' ' || id = any(${hanging.map(({ name }) => name)}) and leased_by <> 'second'`
    return waiting.count === 0
  })
  for (const { release } of hanging) release?.()
  await until('the hanging steps have ended', () => first.active() <= killed)
  faults.lost.clear()
  await work(second)
  await second.engine.stop(1_000)
}
