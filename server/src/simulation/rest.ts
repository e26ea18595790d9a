/** The second half of a history: nothing goes wrong any more, so everything comes to where it is wanted, and can be ended. */
import { repeatables } from './calls.ts'
import { leaks, unsettled, type Violation } from './invariants.ts'
import { fail, type Run, SimulationFailure, tick } from './run.ts'
import { askAs, sceneOf, send } from './send.ts'
import { hint, resume, work } from './ticks.ts'
import { LEFT_OUT } from './worker.ts'

/** Seconds within which no key may be due any more, and how many passes that may take. */
const REST_SECONDS = 600
const MOST_LOOKS = 3_000
const HOUR = 3_600

/** What was asked for and not answered is asked for again: there is one of each in the end. */
export async function retryUnanswered(run: Run): Promise<void> {
  for (const client of run.clients) {
    const scene = sceneOf(run, client)
    for (const { attempt } of repeatables(scene)) {
      await tick(run, 'client', async () => `asks again: ${await askAs(run, 'repeat', scene, attempt, null)}`)
    }
  }
}

/** Works until nothing is due, time passing, until all is as it is wanted: within ten minutes. */
export async function drain(run: Run): Promise<void> {
  const { clock, owner } = run.world
  const begin = clock.seconds()
  const mostTicks = run.ticks + MOST_LOOKS
  for (;;) {
    await workOff(run, mostTicks)
    const left = await unsettled(owner)
    if (left.length === 0) return
    if (clock.seconds() - begin > REST_SECONDS || run.ticks > mostTicks) throw new SimulationFailure(run, left)
    await letPass(run, await secondsToNext(run))
  }
}

async function workOff(run: Run, mostTicks: number): Promise<void> {
  for (const worker of run.workers) {
    while (worker.standing.length > 0) await tick(run, 'engine', () => resume(run, worker))
    do {
      while (run.world.hints.length > 0) await tick(run, 'hint', () => hint(run))
      if (run.ticks > mostTicks) fail(run, 'liveness', 'the same keys are reconciled without end')
    } while (await tick(run, 'engine', () => work(run, worker)))
  }
}

/** Time for all, frozen or not. */
async function letPass(run: Run, seconds: number): Promise<void> {
  await run.world.pass(seconds)
  await run.world.owner`
    update environments set clock_frozen_at = clock_frozen_at + make_interval(secs => ${seconds})
    where clock_frozen_at is not null`
  run.history.note(`                  time     ${seconds} s pass for all`)
}

/** Until something is due, by whichever clock; half a minute at most. */
async function secondsToNext(run: Run): Promise<number> {
  const [row] = await run.world.owner<{ seconds: number | null }[]>`
    select extract(epoch from min(greatest(w.due_at - environment_now(e), w.not_before - now(),
      w.leased_until - now())))::float8 as seconds
    from work w join environments e on e.id = w.environment_id where not w.kind = any(${LEFT_OUT})`
  return Math.min(30, Math.max(0.1, Math.ceil((row?.seconds ?? 30) * 10) / 10))
}

/** After two sweeps, nothing exists that no row describes. */
export async function sweepUp(run: Run): Promise<void> {
  for (let sweep = 0; sweep < 2; sweep++) {
    await letPass(run, HOUR + 1)
    await drain(run)
  }
  const left = await leaks(run.world.owner)
  if (left.length > 0) throw new SimulationFailure(run, left)
}

/** Everything is terminated; a day later no row is left of it. */
export async function teardown(run: Run): Promise<void> {
  const { owner } = run.world
  for (const client of run.clients) {
    const present = await owner<{ id: string }[]>`
      select id from instances where environment_id = ${client.environment_id} and status <> 'terminated' order by id`
    for (const { id } of present) {
      const url = `/v2/instances/${id}`
      await tick(run, 'client', async () => {
        await send(run, client, { method: 'PATCH', url, body: { termination_protection: false } }, null)
        return `leaves: ${await askAs(run, 'end', sceneOf(run, client), { method: 'DELETE', url }, null)}`
      })
    }
  }
  await drain(run)
  for (const seconds of [HOUR + 1, HOUR + 1, 24 * HOUR]) {
    await letPass(run, seconds)
    await drain(run)
  }
  const untold = run.ledger.missing()
  if (untold.length > 0) throw new SimulationFailure(run, untold)
  await removeWebhooks(run)
  const left = await owner<Violation[]>`
    select 'I8' as invariant, 'a row is left in ' || name as what from (
      select 'instances' as name from instances union all select 'addresses' from addresses
      union all select 'simulated_machines' from simulated_machines
      union all select 'webhooks' from webhooks union all select 'webhook_deliveries' from webhook_deliveries
      union all select 'work' from work where kind not in ('sweep', 'job') and not kind = any(${LEFT_OUT})) as t`
  if (left.length > 0) throw new SimulationFailure(run, left)
}

async function removeWebhooks(run: Run): Promise<void> {
  for (const client of run.clients) {
    const present = await run.world.owner<{ id: string }[]>`
      select id from webhooks where environment_id = ${client.environment_id} and not wanted_gone order by id`
    for (const { id } of present) {
      const attempt = { method: 'DELETE', url: `/v2/webhooks/${id}` } as const
      await tick(
        run,
        'client',
        async () => `leaves: ${await askAs(run, 'end a webhook', sceneOf(run, client), attempt, null)}`,
      )
    }
  }
  await drain(run)
}
