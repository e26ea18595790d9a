/**
 * The work table holds one row per work key that needs a reconcile pass. The engine is these four statements:
 *
 * wake   makes a key due and increments `wakes`.
 * claim  leases due keys to a worker and skips keys that other workers hold. Each claim gets a lease number from one
 *        sequence for all keys, so no number is used twice.
 * finish releases the claim and requeues the key. If `wakes` changed since the claim, the desired state changed during
 *        the pass, and the key is due immediately. Without this comparison the change would wait for the next resync.
 * fail   releases the claim of a step that threw and retries it after a backoff. A wake ends the backoff.
 *
 * `due_at` is in the time of the key's environment, which a tenant can freeze or advance. Leases and the backoff
 * (`not_before`) are in real time, because crashes and overload do not depend on the environment's clock.
 */
import type { Query, Sql } from '../db/database.ts'

/**
 * A claimed key: `lease` fences its writes, `now` is the environment's time at the claim. `mode` is that of the environment;
 * keys that belong to no tenant count as live.
 */
export type Claim = {
  kind: string
  id: string
  environment_id: string
  mode: 'live' | 'test'
  wakes: number
  lease: number
  attempts: number
  now: Date
}

/** Duration of a lease without renewal, in real seconds: the longest delay that a crashed worker causes. */
export const LEASE_SECONDS = 15

/** NOTIFY channel of the wake signal, which is sent after the commit. */
export const WORK_CHANNEL = 'work'

/** Makes a key due now, outside a transaction. A transaction adds its wakes to its outbox instead. */
export async function wake(sql: Sql, kind: string, id: string, environmentId: string): Promise<void> {
  await sql`select wake_keys(array[${kind}], array[${id}], array[${environmentId}])`
}

/** Makes a key due if it has a row. For drivers' hints, which carry no environment ID. */
export async function wakeExisting(query: Query, kind: string, id: string): Promise<void> {
  await query`
    update work w set due_at = least(due_at, environment_now(w.environment_id)), not_before = '-infinity', wakes = wakes + 1
    where kind = ${kind} and id = ${id}`
}

/** Condition for a row `r`: its key is neither due nor claimed. Waking the key of another row would end its backoff. */
export function isIdle(query: Query, kind: string) {
  return query`not exists (
    select from work w where w.kind = ${kind} and w.id = r.id
      and (w.due_at <= environment_now(w.environment_id) or w.leased_until is not null))`
}

/** Claims at most `limit` due keys of these kinds for this worker. */
export async function claim(sql: Sql, worker: string, kinds: string[], limit: number): Promise<Claim[]> {
  const rows = await sql<Claim[]>`
    with due as (
      select w.kind, w.id, environment_now(e) as now, case e.mode when 'test' then 'test' else 'live' end as mode
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
    returning w.kind, w.id, w.environment_id, w.wakes, w.lease, w.attempts, due.now, due.mode`
  return [...rows]
}

/**
 * Renews the leases that this worker still holds; called while steps run. It skips keys that another transaction has
 * locked until the next call: waiting for them while it holds other locks could abort that transaction by a deadlock.
 */
export async function renewLeases(sql: Sql, worker: string, claims: Claim[]): Promise<void> {
  if (claims.length === 0) return
  await sql`
    with held_leases as (
      select w.kind, w.id from work w
      join unnest(${claims.map((c) => c.kind)}::text[], ${claims.map((c) => c.id)}::text[],
                  ${claims.map((c) => c.lease)}::bigint[]) as held(kind, id, lease) using (kind, id, lease)
      where w.leased_by = ${worker}
      for update of w skip locked
    )
    update work w set leased_until = now() + make_interval(secs => ${LEASE_SECONDS})
    from held_leases h where w.kind = h.kind and w.id = h.id`
}

/** Releases claims of which no pass ran; the keys stay due. Claims that another worker has taken over are skipped. */
export async function releaseClaims(sql: Sql, claims: Claim[]): Promise<void> {
  if (claims.length === 0) return
  await sql`
    update work w set leased_by = null, leased_until = null
    from unnest(${claims.map((c) => c.kind)}::text[], ${claims.map((c) => c.id)}::text[],
                ${claims.map((c) => c.lease)}::bigint[]) as unused(kind, id, lease)
    where (w.kind, w.id, w.lease) = (unused.kind, unused.id, unused.lease)`
}

/**
 * Releases the claim and requeues the key `afterSeconds` after the time of the claim, so that advancing the environment's
 * clock during the pass can make it due. Null deletes the row of the key. Does nothing if the lease was lost.
 */
export async function finish(sql: Sql, claimed: Claim, afterSeconds: number | null): Promise<void> {
  const { kind, id, lease, wakes } = claimed
  if (afterSeconds === null) {
    const deleted =
      await sql`delete from work where kind = ${kind} and id = ${id} and lease = ${lease} and wakes = ${wakes}`
    if (deleted.count > 0) return
  }
  await sql`
    update work w set leased_by = null, leased_until = null, attempts = 0, last_error = null, not_before = '-infinity',
      due_at = case when w.wakes = ${wakes} then ${claimed.now}::timestamptz + make_interval(secs => ${afterSeconds ?? 0})
        else environment_now(w.environment_id) end
    where kind = ${kind} and id = ${id} and lease = ${lease}`
}

/** Backoff after this many failed attempts, in real seconds: doubles from 0.5, at most 60. */
export function backoffSeconds(attempts: number): number {
  return Math.min(60, 0.5 * 2 ** Math.min(attempts, 10))
}

/** Releases the claim after a failed attempt and retries after the backoff. The message is for operators; it is truncated. */
export async function fail(sql: Sql, claimed: Claim, message: string): Promise<void> {
  const { kind, id, lease, wakes } = claimed
  await sql`
    update work w set leased_by = null, leased_until = null, attempts = w.attempts + 1,
      last_error = ${message.slice(0, 2000).replaceAll('\0', '')}, due_at = environment_now(w.environment_id),
      not_before = case when w.wakes = ${wakes}
        then now() + make_interval(secs => ${backoffSeconds(claimed.attempts)}) else '-infinity' end
    where kind = ${kind} and id = ${id} and lease = ${lease}`
}

/** Another worker has claimed the key since, so what this worker observed was not recorded. */
export class LeaseLostError extends Error {}
