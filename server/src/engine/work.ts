/**
 * The work table: keys that need a look. Four statements carry the whole engine.
 *
 * wake   makes a key due and counts the wake.
 * claim  takes due keys for a short lease with a new lease number (of all keys, so it never comes again), skipping what
 *        others hold.
 * finish gives the key back. If `wakes` moved since the claim, somebody wrote a wish while we looked: due at once.
 *        Without that comparison a wish that arrives during a step waits for the next sweep, or for ever.
 * fail   the same for a step that threw, with back-off; a wake cuts the back-off short.
 *
 * Two clocks: `due_at` is in the time of the key's environment, which its owner may freeze or advance. Leases and the
 * back-off (`not_before`) are real time, because crashes and overload happen in the real world.
 */
import type { Query, Sql } from '../db/database.ts'

/** A claimed key, with the number that fences its writes and the environment's time at the claim. */
export type Claim = {
  kind: string
  id: string
  environment_id: string
  wakes: number
  lease: number
  attempts: number
  now: Date
}

/** Real seconds that a claim holds without being renewed: what a crashed worker costs. */
export const LEASE_SECONDS = 15

/** Channel on which a woken kind is announced after the commit. */
export const WORK_CHANNEL = 'work'

/** Makes a key due now, outside of a transaction. A transaction puts its wakes into its outbox instead. */
export async function wake(sql: Sql, kind: string, id: string, environmentId: string): Promise<void> {
  await sql`select wake_keys(array[${kind}], array[${id}], array[${environmentId}])`
}

/** Makes a key due that has a row already; for hints, which know no environment. Without a row nothing happens. */
export async function wakeExisting(query: Query, kind: string, id: string): Promise<void> {
  await query`
    update work w set due_at = least(due_at, environment_now(w.environment_id)), not_before = '-infinity', wakes = wakes + 1
    where kind = ${kind} and id = ${id}`
}

/** Takes at most `limit` due keys of these kinds for this worker. */
export async function claim(sql: Sql, worker: string, kinds: string[], limit: number): Promise<Claim[]> {
  const rows = await sql<Claim[]>`
    with due as (
      select w.kind, w.id, environment_now(e) as now
      from environments e cross join lateral (
        select kind, id, due_at from work
        where environment_id = e.id and due_at <= environment_now(e) and not_before <= now()
          and (leased_until is null or leased_until < now()) and kind = any(${kinds})
        order by due_at limit ${limit} for update skip locked
      ) w
      order by w.due_at limit ${limit}
    )
    update work w set lease = nextval('work_leases'), leased_by = ${worker},
      leased_until = now() + make_interval(secs => ${LEASE_SECONDS})
    from due where w.kind = due.kind and w.id = due.id
    returning w.kind, w.id, w.environment_id, w.wakes, w.lease, w.attempts, due.now`
  return [...rows]
}

/**
 * Prolongs the leases that are still ours; called while steps run. A key that somebody is writing at this moment waits
 * for the next call: waiting for it here, with others locked, could make the writer of a wish the victim of a deadlock.
 */
export async function renewLeases(sql: Sql, worker: string, claims: Claim[]): Promise<void> {
  if (claims.length === 0) return
  await sql`
    with ours as (
      select w.kind, w.id from work w
      join unnest(${claims.map((c) => c.kind)}::text[], ${claims.map((c) => c.id)}::text[],
                  ${claims.map((c) => c.lease)}::bigint[]) as held(kind, id, lease) using (kind, id, lease)
      where w.leased_by = ${worker}
      for update of w skip locked
    )
    update work w set leased_until = now() + make_interval(secs => ${LEASE_SECONDS})
    from ours where w.kind = ours.kind and w.id = ours.id`
}

/**
 * Gives the key back, to be looked at again `afterSeconds` after the time of its claim, which is the time that the look
 * saw: a clock that was advanced meanwhile has made it due. Null: nothing is left to look at and the row goes. A lease that was lost meanwhile changes nothing.
 */
export async function finish(sql: Sql, claimed: Claim, afterSeconds: number | null): Promise<void> {
  const { kind, id, lease, wakes } = claimed
  if (afterSeconds === null) {
    const gone =
      await sql`delete from work where kind = ${kind} and id = ${id} and lease = ${lease} and wakes = ${wakes}`
    if (gone.count > 0) return
  }
  await sql`
    update work w set leased_by = null, leased_until = null, attempts = 0, last_error = null, not_before = '-infinity',
      due_at = case when w.wakes = ${wakes} then ${claimed.now}::timestamptz + make_interval(secs => ${afterSeconds ?? 0})
        else environment_now(w.environment_id) end
    where kind = ${kind} and id = ${id} and lease = ${lease}`
}

/** Real seconds to wait after this many failed attempts: doubling from 0.5, at most 60. */
export function backoffSeconds(attempts: number): number {
  return Math.min(60, 0.5 * 2 ** Math.min(attempts, 10))
}

/** Gives the key back after a failure. The message is ours, for operators; it is cut, never parsed. */
export async function fail(sql: Sql, claimed: Claim, message: string): Promise<void> {
  const { kind, id, lease, wakes } = claimed
  await sql`
    update work w set leased_by = null, leased_until = null, attempts = w.attempts + 1,
      last_error = ${message.slice(0, 2000).replaceAll('\0', '')}, due_at = environment_now(w.environment_id),
      not_before = case when w.wakes = ${wakes}
        then now() + make_interval(secs => ${backoffSeconds(claimed.attempts)}) else '-infinity' end
    where kind = ${kind} and id = ${id} and lease = ${lease}`
}

/** Another worker has claimed the key since: what this worker observed was not recorded. */
export class LeaseLostError extends Error {}
