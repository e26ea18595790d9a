/**
 * Idempotency-Key on POST: a retry gets the response of the first request, and the effect happens once.
 *
 * The key's row, the effect and the stored response are written in one transaction. A concurrent request finds the lock
 * taken (409, retry) or the response stored. A crash leaves all of it or nothing. Only responses of successful requests
 * are stored: a rejected request can be retried with the same key.
 */
import type { FastifyRequest } from 'fastify'
import type { Query, Transaction } from '../db/database.ts'
import { digestOf } from '../lib/canonical-json.ts'
import { ApiError } from '../lib/errors.ts'

/** Real hours for which a response is stored. */
const RESPONSE_TTL_HOURS = 24

/** A stored response: its body as text, without secrets that are shown only once. */
export type StoredResponse = { status: number; headers: Record<string, string>; body: string | null }

/** The key of a request, with the digest of that request; null when there is none or the method ignores it. */
export function idempotencyKeyOf(request: FastifyRequest): IdempotencyKey | null {
  const given = request.headers['idempotency-key']
  if (request.method !== 'POST' || given === undefined) return null
  const text = Array.isArray(given) ? given.join() : given
  const key = /^"(.*)"$/.exec(text)?.[1] ?? text
  if (!/^[\x21-\x7e]{1,255}$/.test(key)) {
    const message = 'Idempotency-Key must be 1 to 255 visible ASCII characters, for instance a UUID'
    throw new ApiError('invalid_parameter', message, {
      errors: [{ parameter: 'Idempotency-Key', code: 'invalid', message }],
    })
  }
  const [path] = request.url.split('?', 1) as [string]
  return { method: request.method, path, key, digest: digestOf([request.query ?? {}, request.body ?? null]) }
}

export type IdempotencyKey = { method: string; path: string; key: string; digest: Buffer }

/**
 * Locks the key for this transaction. Returns the stored response of the same request, or null for the first request.
 * Throws `idempotency_in_flight` while another request with the key runs, and `idempotency_key_reused` when the key was
 * used for a different request.
 */
export async function lockKey(
  tx: Transaction,
  environmentId: string,
  { method, path, key, digest }: IdempotencyKey,
): Promise<StoredResponse | null> {
  const name = JSON.stringify(['idempotency', environmentId, method, path, key])
  const [lock] = await tx<{ taken: boolean }[]>`
    select pg_try_advisory_xact_lock(hashtextextended(${name}, 0)) as taken`
  if (!lock!.taken) {
    const detail = 'A request with this Idempotency-Key is in progress. Retry in one second to get its response.'
    throw new ApiError('idempotency_in_flight', detail, { headers: { 'retry-after': '1' } })
  }
  // A separate statement, so that it sees what was committed before the lock was released.
  const [found] = await tx<(StoredResponse & { request_digest: Buffer; kept: boolean })[]>`
    select status, headers, body, request_digest, created_at > now() - make_interval(hours => ${RESPONSE_TTL_HOURS}) as kept
    from idempotency_keys
    where environment_id = ${environmentId} and method = ${method} and path = ${path} and key = ${key}`
  if (!found?.kept) return null
  if (!digest.equals(found.request_digest)) {
    const detail =
      'This Idempotency-Key was used for a request with a different query or body. Use a new key for a new request.'
    throw new ApiError('idempotency_key_reused', detail)
  }
  return { status: found.status, headers: found.headers, body: found.body }
}

/** Stores the response, in the transaction of its effect. */
export async function storeResponse(
  tx: Transaction,
  environmentId: string,
  { method, path, key, digest }: IdempotencyKey,
  response: StoredResponse,
): Promise<void> {
  await tx`
    insert into idempotency_keys as k (environment_id, method, path, key, request_digest, status, headers, body)
    values (${environmentId}, ${method}, ${path}, ${key}, ${digest}, ${response.status}, ${tx.json(response.headers)},
      ${response.body})
    on conflict (environment_id, method, path, key) do update set request_digest = excluded.request_digest,
      status = excluded.status, headers = excluded.headers, body = excluded.body, created_at = now()`
}

/** Deletes expired responses of all tenants, at most 10,000. Returns how many. */
export async function purgeResponses(query: Query): Promise<number> {
  const { count } = await query`
    delete from idempotency_keys where ctid in (
      select ctid from idempotency_keys
      where created_at < now() - make_interval(hours => ${RESPONSE_TTL_HOURS}) limit 10000)`
  return count
}
