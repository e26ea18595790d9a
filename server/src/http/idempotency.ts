/**
 * Idempotency-Key on POST: a repetition gets the answer of the first request, and its effect happens once.
 *
 * The key's row, the effect and the stored answer are one transaction. Whoever is second finds the lock taken (409, try
 * again) or the answer stored; after a crash there is either all of it or nothing, so nothing pending can be left over.
 * Only answers of requests that had an effect are stored: a refusal may be tried again with the same key.
 */
import type { FastifyRequest } from 'fastify'
import type { Query, Transaction } from '../db/database.ts'
import { digestOf } from '../lib/canonical-json.ts'
import { ApiError } from '../lib/errors.ts'

/** Real hours for which an answer is kept. */
export const RESPONSE_TTL_HOURS = 24

/** An answer as it is stored: the text of its body, without what was to be shown once. */
export type StoredResponse = { status: number; headers: Record<string, string>; body: string | null }

/** The key of a request and what it stands for; null when there is none, or the method ignores it. */
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
 * Takes the key for this transaction. Answers what was stored for the same request before, or null when this is the
 * first. Throws `idempotency_in_flight` while another request with the key runs, `idempotency_key_reused` when the key
 * stands for another request.
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
    const detail = 'A request with this Idempotency-Key is being carried out. Try again in a second to get its answer.'
    throw new ApiError('idempotency_in_flight', detail, { headers: { 'retry-after': '1' } })
  }
  // A statement of its own: it must see what was committed before the lock was free.
  const [found] = await tx<(StoredResponse & { request_digest: Buffer; kept: boolean })[]>`
    select status, headers, body, request_digest, created_at > now() - make_interval(hours => ${RESPONSE_TTL_HOURS}) as kept
    from idempotency_keys
    where environment_id = ${environmentId} and method = ${method} and path = ${path} and key = ${key}`
  if (!found?.kept) return null
  if (!digest.equals(found.request_digest)) {
    const detail = 'This Idempotency-Key stands for a request with another body. Use a new key for a new request.'
    throw new ApiError('idempotency_key_reused', detail)
  }
  return { status: found.status, headers: found.headers, body: found.body }
}

/** Stores the answer, in the transaction of its effect. */
export async function storeResponse(
  tx: Transaction,
  environmentId: string,
  { method, path, key, digest }: IdempotencyKey,
  answer: StoredResponse,
): Promise<void> {
  await tx`
    insert into idempotency_keys as k (environment_id, method, path, key, request_digest, status, headers, body)
    values (${environmentId}, ${method}, ${path}, ${key}, ${digest}, ${answer.status}, ${tx.json(answer.headers)},
      ${answer.body})
    on conflict (environment_id, method, path, key) do update set request_digest = excluded.request_digest,
      status = excluded.status, headers = excluded.headers, body = excluded.body, created_at = now()`
}

/** Removes answers whose time is over, of all tenants, some at a time. */
export async function purgeResponses(query: Query): Promise<void> {
  await query`
    delete from idempotency_keys where ctid in (
      select ctid from idempotency_keys
      where created_at < now() - make_interval(hours => ${RESPONSE_TTL_HOURS}) limit 10000)`
}
