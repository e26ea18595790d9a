/** Runs what is due in an environment, and advances its frozen clock to what is due next. */
import type { Sql } from '../db/database.ts'
import { until } from '../testing/until.ts'
import type { Subject } from './faults.ts'
import type { MatrixWorld, Worker } from './world.ts'

/** Real time after which a world that still has due keys has failed. */
const DEADLINE_SECONDS = 600
const INTERVAL_MS = 2

/**
 * Runs every key of the environment that is due, also after failures, until none is. Steps that hang or have died keep
 * their keys; all others must have ended.
 */
export async function settle(world: MatrixWorld, worker: Worker, environmentId: string): Promise<void> {
  const { owner, faults } = world
  const isAtRest = async () => {
    const kept = [...faults.lost].flatMap(([name, holdsKey]) => (holdsKey ? [name] : []))
    const [row] = await owner<{ due: number }[]>`
      with retried as (
        update work set not_before = '-infinity'
        where ctid in (
          select ctid from work where environment_id = ${environmentId} and not_before > now() for update skip locked))
      select count(*) as due from work
      where environment_id = ${environmentId} and due_at <= environment_now(${environmentId})
        and not (leased_until > now() and kind || ' ' || id = any(${kept}))`
    if (worker.active() === faults.lost.size && row!.due === 0) return true
    worker.engine.nudge()
    return false
  }
  await until('no key is due', isAtRest, DEADLINE_SECONDS, INTERVAL_MS)
}

/** Advances the environment's clock from one due key to the next, as far as the horizon. */
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
    // Machines differ by fractions of a second; their passes run together.
    const step = seconds + 1
    passed += step
    await world.owner`
      update environments set clock_frozen_at = clock_frozen_at + make_interval(secs => ${step}) where id = ${environmentId}`
  }
}

/** Null: no key will become due. */
async function secondsUntilDue(owner: Sql, environmentId: string): Promise<number | null> {
  const [row] = await owner<{ seconds: number | null }[]>`
    select extract(epoch from min(due_at) - environment_now(${environmentId}))::float8 as seconds from work
    where environment_id = ${environmentId} and leased_until is null`
  return row!.seconds
}

/**
 * Runs one worker until the faults have occurred and no key is due. Then its leases end, as those of a process that is
 * killed or hangs, and a second worker continues; a step that hung continues only after its key was taken over.
 * @param work runs everything that is due with a worker
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
  // Or the first worker would take over its own key, and wait for the machine that its hung step has locked.
  await until('the last claim has ended', () => !first.isClaiming())
  const hung = subjects.filter(({ release }) => release)
  const killed = faults.lost.size - hung.length
  await owner`update work set leased_until = now() - interval '1 second'
    where environment_id = ${environmentId} and leased_until is not null`
  const second = await world.worker('second')
  await until('what hangs is taken over', async () => {
    second.engine.nudge()
    // A key that was taken over may be removed again before this sees it.
    const waiting = await owner`
      select from work where kind || ' ' || id = any(${hung.map(({ name }) => name)}) and leased_by <> 'second'`
    return waiting.count === 0
  })
  for (const { release } of hung) release?.()
  await until('what hung has ended', () => first.active() <= killed)
  faults.lost.clear()
  await work(second)
  await second.engine.stop(1_000)
}
