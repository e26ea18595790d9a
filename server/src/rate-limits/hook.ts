/** The limits as a request meets them: what it spends, what its answer says of it, and the refusal. */
import type { FastifyReply, FastifyRequest } from 'fastify'
import type { Config } from '../config.ts'
import type { Sql } from '../db/database.ts'
import type { Principal } from '../deps.ts'
import type { Clock } from '../lib/clock.ts'
import { ApiError } from '../lib/errors.ts'
import type { Log } from '../lib/log.ts'
import { type AddressLimit, clientOf, createAddressLimit, createAttempts } from './address.ts'
import type { Bucket } from './bucket.ts'
import type { Decision } from './gcra.ts'
import { type Applied, rateLimitHeaders } from './headers.ts'
import { createLimiter, type Verdict } from './limiter.ts'
import { type AddressClass, classesOf, createKeyBuckets, KEY_CLASSES, type KeyClass } from './policies.ts'
import { createBucketStore } from './store.ts'

export type EffectiveLimit = { name: string; rate_per_second: number; burst: number; remaining: number }

/** What a request's handlers may do about its limits: `request.rate_limits`. */
export type RequestLimits = {
  /** Gives back what the request has spent of a class, and corrects the answer's headers. Once per class. */
  refund(name: KeyClass): void
  /** Every limit of the key that asks: its own, then those that it shares with the project's other keys. */
  list(): Promise<EffectiveLimit[]>
}

export type RateLimitHook = {
  /** Spends what a request of a known key costs. Returns nothing when that was decided at once. Errors: 429, 503. */
  spend(
    request: FastifyRequest,
    reply: FastifyReply,
    classes: readonly KeyClass[] | undefined,
  ): Promise<void> | undefined
  /** A request that needs no key. Throws the 429. */
  unauthenticated(request: FastifyRequest, reply: FastifyReply): void
  /** A request without a key where one is needed. Throws the 429 after too many of them. */
  failed(request: FastifyRequest, reply: FastifyReply): void
  /** Looks a key up, if the address has not tried too many that do not work. Errors: 429. */
  lookUp(request: FastifyRequest, reply: FastifyReply, key: string, find: Find): Promise<Principal | null>
  close(): Promise<void>
}

type Find = (key: string) => Promise<Principal | null>
type Deps = { config: Pick<Config, 'rate_limits'>; sql: Sql; clock: Clock; log: Log }

/** The type that other software knows, too (draft-ietf-httpapi-ratelimit-headers-11); our `code` is what stays. */
const QUOTA_EXCEEDED = 'https://iana.org/assignments/http-problem-types#quota-exceeded'

export function createRateLimits({ config: { rate_limits: limits }, sql, clock, log }: Deps): RateLimitHook {
  if (!limits.enabled) return UNLIMITED
  const limiter = createLimiter({ store: createBucketStore(sql), clock, log })
  const bucketsOf = createKeyBuckets(limits)
  const publicLimit = createAddressLimit(limits.unauthenticated, clock)
  const failureLimit = createAddressLimit(limits.failed_authentication, clock)
  const attempt = createAttempts<Principal>(failureLimit)

  function applied(bucket: Bucket): Applied {
    return { name: bucket.name, policy: bucket.policy, remaining: limiter.remaining(bucket) }
  }

  function show(reply: FastifyReply, applied: Applied[]): void {
    reply.headers(rateLimitHeaders(applied, clock.now().getTime()))
  }

  function spend(
    request: FastifyRequest,
    reply: FastifyReply,
    classes: readonly KeyClass[] = classesOf(request.method),
  ): Promise<void> | undefined {
    const all = bucketsOf(request.principal)
    const buckets = classes.length === 1 ? all[classes[0]!] : classes.flatMap((name) => all[name])
    request.rate_limits = {
      refund(name) {
        for (const bucket of all[name]) limiter.refund(bucket)
        show(reply, buckets.map(applied))
      },
      async list() {
        const mine = KEY_CLASSES.map((name) => all[name][0])
        const shared = KEY_CLASSES.map((name) => all[name][1])
        await limiter.look([...mine, ...shared])
        return [...mine, ...shared].map((bucket) => ({
          name: bucket.name,
          ...bucket.policy,
          remaining: limiter.remaining(bucket),
        }))
      },
    }
    const verdict = limiter.take(buckets)
    if (verdict instanceof Promise) return verdict.then((late) => conclude(reply, buckets, late))
    conclude(reply, buckets, verdict)
    return undefined
  }

  function conclude(reply: FastifyReply, buckets: readonly Bucket[], verdict: Verdict): void {
    show(reply, buckets.map(applied))
    if (verdict?.reason === 'rate') throw tooMany(names(verdict.violated), verdict.wait_seconds)
    if (verdict?.reason === 'unsure') throw notNow(names(verdict.violated), verdict.wait_seconds)
  }

  function perAddress(reply: FastifyReply, name: AddressClass, limit: AddressLimit, decision: Decision): void {
    show(reply, [{ name, policy: limit.policy, remaining: decision.remaining }])
    if (!decision.allowed) throw tooMany([name], decision.wait_seconds)
  }

  return {
    spend,
    unauthenticated(request, reply) {
      perAddress(reply, 'unauthenticated', publicLimit, publicLimit.take(clientOf(request.ip)))
    },
    failed(request, reply) {
      perAddress(reply, 'failed_authentication', failureLimit, failureLimit.take(clientOf(request.ip)))
    },
    async lookUp(request, reply, key, find) {
      const address = clientOf(request.ip)
      const found = await attempt(address, key, find)
      if (found !== null && 'key_id' in found) return found
      perAddress(
        reply,
        'failed_authentication',
        failureLimit,
        found ?? { ...failureLimit.look(address), allowed: true },
      )
      return null
    },
    close: () => limiter.close(),
  }
}

const UNLIMITED: RateLimitHook = {
  spend(request) {
    request.rate_limits = { refund() {}, list: async () => [] }
    return undefined
  },
  unauthenticated() {},
  failed() {},
  lookUp: (_request, _reply, key, find) => find(key),
  async close() {},
}

function names(buckets: readonly Bucket[]): string[] {
  return buckets.map((bucket) => bucket.name)
}

/** Whole seconds, rounded up: whoever waits so long succeeds. */
function retryAfter(wait_seconds: number): number {
  return Math.max(1, Math.ceil(wait_seconds))
}

function tooMany(violated: string[], wait_seconds: number): ApiError {
  const seconds = retryAfter(wait_seconds)
  return new ApiError(
    'rate_limited',
    `Wait ${seconds} s (see Retry-After), then try again; ask less often from then on.`,
    {
      headers: { 'retry-after': String(seconds) },
      extensions: { type: QUOTA_EXCEEDED, 'violated-policies': violated },
    },
  )
}

function notNow(violated: string[], wait_seconds: number): ApiError {
  return new ApiError('unavailable', 'The database does not answer right now. Try again in a moment.', {
    headers: { 'retry-after': String(retryAfter(wait_seconds)) },
    extensions: { 'violated-policies': violated },
  })
}
