/** The second half of a history, without faults: every desired state is reached, and everything can be terminated. */
import { repeatables } from './calls.ts'
import { leaks, unsettled, type Violation } from './invariants.ts'
import { fail, type Run, SimulationFailure, tick } from './run.ts'
import { sceneOf, send, sendAs } from './send.ts'
import { hint, resume, work } from './ticks.ts'
import { UNSIMULATED_KINDS } from './worker.ts'

/** Limits until no key is due: simulated seconds and ticks. */
const SETTLE_SECONDS = 600
const MAX_TICKS = 3_000
const HOUR = 3_600

/** Sends every create with an Idempotency-Key again: in the end each has created one instance. */
export async function retryWithoutResponse(run: Run): Promise<void> {
  for (const client of run.clients) {
    const scene = sceneOf(run, client)
    for (const { attempt } of repeatables(scene)) {
      await tick(run, 'client', async () => `retries: ${await sendAs(run, 'repeat', scene, attempt, null)}`)
    }
  }
}

/** Reconciles and advances time until every desired state is reached, within ten minutes. */
export async function drain(run: Run): Promise<void> {
  const { clock, owner } = run.world
  const begin = clock.seconds()
  const maxTicks = run.ticks + MAX_TICKS
  for (;;) {
    await reconcileAll(run, maxTicks)
    const left = await unsettled(owner)
    if (left.length === 0) return
    if (clock.seconds() - begin > SETTLE_SECONDS || run.ticks > maxTicks) throw new SimulationFailure(run, left)
    await advanceAll(run, await secondsToNext(run))
  }
}

async function reconcileAll(run: Run, maxTicks: number): Promise<void> {
  for (const worker of run.workers) {
    while (worker.paused.length > 0) await tick(run, 'engine', () => resume(run, worker))
    do {
      while (run.world.hints.length > 0) await tick(run, 'hint', () => hint(run))
      if (run.ticks > maxTicks) fail(run, 'liveness', 'the same keys are reconciled without end')
    } while (await tick(run, 'engine', () => work(run, worker)))
  }
}

/** Advances all clocks, also frozen ones. */
async function advanceAll(run: Run, seconds: number): Promise<void> {
  await run.world.advance(seconds)
  await run.world.owner`
    update environments set clock_frozen_at = clock_frozen_at + make_interval(secs => ${seconds})
    where clock_frozen_at is not null`
  run.history.add(`                  time     ${seconds} s on all clocks`)
}

/** Seconds until a key is due by any clock, at most 30. */
async function secondsToNext(run: Run): Promise<number> {
  const [row] = await run.world.owner<{ seconds: number | null }[]>`
    select extract(epoch from min(greatest(w.due_at - environment_now(e), w.not_before - now(),
      w.leased_until - now())))::float8 as seconds
    from work w join environments e on e.id = w.environment_id where not w.kind = any(${UNSIMULATED_KINDS})`
  return Math.min(30, Math.max(0.1, Math.ceil((row?.seconds ?? 30) * 10) / 10))
}

/** After two sweeps nothing exists without a row. */
export async function sweepUp(run: Run): Promise<void> {
  for (let sweep = 0; sweep < 2; sweep++) {
    await advanceAll(run, HOUR + 1)
    await drain(run)
  }
  const left = await leaks(run.world.owner)
  if (left.length > 0) throw new SimulationFailure(run, left)
}

/** Terminates everything. A day later no row may be left. */
export async function teardown(run: Run): Promise<void> {
  const { owner } = run.world
  for (const client of run.clients) {
    const present = await owner<{ id: string }[]>`
      select id from instances where environment_id = ${client.environment_id} and status <> 'terminated' order by id`
    for (const { id } of present) {
      const url = `/v2/instances/${id}`
      await tick(run, 'client', async () => {
        await send(run, client, { method: 'PATCH', url, body: { termination_protection: false } }, null)
        return `terminates: ${await sendAs(run, 'delete', sceneOf(run, client), { method: 'DELETE', url }, null)}`
      })
    }
  }
  await drain(run)
  for (const seconds of [HOUR + 1, HOUR + 1, 24 * HOUR]) {
    await advanceAll(run, seconds)
    await drain(run)
  }
  const undelivered = run.ledger.missing()
  if (undelivered.length > 0) throw new SimulationFailure(run, undelivered)
  await removeWebhooks(run)
  const left = await owner<Violation[]>`
    select 'I8' as invariant, 'a row is left in ' || name as what from (
      select 'instances' as name from instances union all select 'addresses' from addresses
      union all select 'simulated_machines' from simulated_machines
      union all select 'webhooks' from webhooks union all select 'webhook_deliveries' from webhook_deliveries
      union all select 'work' from work where kind not in ('sweep', 'job') and not kind = any(${UNSIMULATED_KINDS})) as t`
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
        async () => `terminates: ${await sendAs(run, 'delete a webhook', sceneOf(run, client), attempt, null)}`,
      )
    }
  }
  await drain(run)
}
