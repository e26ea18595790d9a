/** Moves a world that stands still: lets a worker look until nothing is due, and time pass until nothing will be. */
import type { Sql } from '../db/database.ts'
import { systemClock } from '../lib/clock.ts'
import type { Subject } from './faults.ts'
import type { MatrixWorld, Worker } from './world.ts'

/** Real time after which something that should rest is said not to. */
const DEADLINE_MS = 120_000

/**
 * Looks at all that is due in the environment, failures at once again. Leases that hold last until they are ended on
 * purpose: how slow the machine is must not decide who looks.
 */
export async function settle(world: MatrixWorld, worker: Worker, environmentId: string): Promise<void> {
  const { owner, faults } = world
  const isAtRest = async () => {
    const [row] = await owner<{ due: number }[]>`
      with again as (
        update work set not_before = '-infinity',
          leased_until = case when leased_until > now() then timestamptz 'infinity' else leased_until end
        where ctid in (
          select ctid from work where environment_id = ${environmentId} and (not_before > now() or (leased_until > now() and leased_until < 'infinity'))
          for update skip locked))
      select count(*) as due from work
      where environment_id = ${environmentId} and due_at <= environment_now(${environmentId})`
    if (worker.active() <= faults.lost && row!.due <= faults.lost) return true
    worker.engine.nudge()
    return false
  }
  await until('it rests', isAtRest)
}

/** Lets time pass, from one look to the next, as far as the horizon. */
export async function drive(
  world: MatrixWorld,
  worker: Worker,
  environmentId: string,
  horizonSeconds: number,
): Promise<void> {
  let passed = 0
  for (;;) {
    await settle(world, worker, environmentId)
    const seconds = await untilNext(world.owner, environmentId)
    if (seconds === null || passed + seconds > horizonSeconds) return
    // Machines differ by fractions of a second; they are looked at together.
    const step = Math.max(0, seconds) + 1
    passed += step
    await world.owner`
      update environments set clock_frozen_at = clock_frozen_at + make_interval(secs => ${step}) where id = ${environmentId}`
  }
}

async function untilNext(owner: Sql, environmentId: string): Promise<number | null> {
  const [row] = await owner<{ seconds: number | null }[]>`
    select extract(epoch from min(due_at) - environment_now(${environmentId}))::float8 as seconds from work
    where environment_id = ${environmentId} and leased_until is null`
  return row!.seconds
}

/** Looks every few milliseconds until it holds. */
export async function until(what: string, condition: () => boolean | Promise<boolean>): Promise<void> {
  const deadline = performance.now() + DEADLINE_MS
  while (!(await condition())) {
    if (performance.now() > deadline) throw new Error(`not within ${DEADLINE_MS} ms: ${what}`)
    await systemClock.sleep(2)
  }
}

/**
 * Lets one worker look until the faults have fallen and nothing more goes on. Then its leases run out, as those of a
 * process that is dead or hangs, and another one looks to the end; what hung ends only after it was taken over.
 * @param work has a worker look at all that there is to be done
 */
export async function throughFaults(
  world: MatrixWorld,
  environmentId: string,
  subjects: Subject[],
  work: (worker: Worker) => Promise<void>,
): Promise<void> {
  const { owner, faults } = world
  faults.lost = 0
  const first = await world.worker('first')
  await work(first)
  await first.engine.stop(0)
  const hung = subjects.filter(({ release }) => release)
  const killed = faults.lost - hung.length
  await owner`update work set leased_until = now() - interval '1 second'
    where environment_id = ${environmentId} and leased_until is not null`
  const second = await world.worker('second')
  await until('what hangs is taken over', async () => {
    second.engine.nudge()
    const taken = await owner`
      select from work where kind || ' ' || id = any(${hung.map(({ name }) => name)})
        and (leased_by = 'second' or leased_until is null)`
    return taken.count === hung.length
  })
  for (const { release } of hung) release?.()
  await until('what hung has ended', () => first.active() <= killed)
  faults.lost = 0
  await work(second)
  await second.engine.stop(1_000)
}
