/** Applies the rate limits to requests: takes tokens, sets the headers, and rejects with 429 or 503. */
import type { FastifyReply, FastifyRequest } from 'fastify'
import type { Config } from '../config.ts'
import type { Sql } from '../db/database.ts'
import type { Clock } from '../lib/clock.ts'
import { ApiError } from '../lib/errors.ts'
import type { Log } from '../lib/log.ts'
import { type AddressLimit, clientOf, createAddressLimit } from './address.ts'
import type { Bucket } from './bucket.ts'
import type { Decision } from './gcra.ts'
import { type Limit, rateLimitHeaders } from './headers.ts'
import { Limiter, type Verdict } from './limiter.ts'
import { classesOf, createKeyBuckets, KEY_CLASSES, type KeyBuckets, type KeyClass } from './policies.ts'
import { createBucketStore } from './store.ts'

export type EffectiveLimit = { name: string; rate_per_second: number; burst: number; remaining: number }

/** What handlers can do with the rate limits of a request: `request.rate_limits`. */
export type RequestLimits = {
  /** Refunds the token of a class and updates the headers of the response. At most once per class. */
  refund(name: KeyClass): void
  /** All limits of the key: its own, then those that it shares with the other keys of the project. */
  list(): Promise<EffectiveLimit[]>
}

export type RateLimitHook = {
  /** Takes the tokens of a request with a valid key. Returns undefined if no statement is needed. Errors: 429, 503. */
  spend(
    request: FastifyRequest,
    reply: FastifyReply,
    classes: readonly KeyClass[] | undefined,
  ): Promise<void> | undefined
  /** Limits a request that needs no key. Errors: 429. */
  unauthenticated(request: FastifyRequest, reply: FastifyReply): void
  /** Limits a request without a valid key. Errors: 429. */
  failed(request: FastifyRequest, reply: FastifyReply): void
  close(): Promise<void>
}

type Deps = { config: Pick<Config, 'rate_limits'>; sql: Sql; clock: Clock; log: Log }

/** The standard problem type (draft-ietf-httpapi-ratelimit-headers-11); `code` is still the stable name. */
const QUOTA_EXCEEDED = 'https://iana.org/assignments/http-problem-types#quota-exceeded'

/** Creates the hook, or one without limits if they are disabled. */
export function createRateLimits({ config: { rate_limits: limits }, sql, clock, log }: Deps): RateLimitHook {
  if (!limits.enabled) return UNLIMITED
  const limiter = new Limiter({ store: createBucketStore(sql), clock, log })
  const bucketsOf = createKeyBuckets(limits)
  const publicLimit = createAddressLimit('unauthenticated', limits.unauthenticated, clock)
  const failureLimit = createAddressLimit('failed_authentication', limits.failed_authentication, clock)

  function conclude(reply: FastifyReply, buckets: readonly Bucket[], verdict: Verdict): void {
    setHeaders(reply, buckets, limiter.remaining(buckets), clock)
    if (verdict === null) return
    if (verdict.reason === 'rate') throw tooManyRequests(names(verdict.violated), verdict.wait_seconds)
    throw databaseUnavailable(names(verdict.violated), verdict.wait_seconds)
  }

  function limitAddress(reply: FastifyReply, limit: AddressLimit, decision: Decision): void {
    setHeaders(reply, [limit], [decision.remaining], clock)
    if (!decision.allowed) throw tooManyRequests([limit.name], decision.wait_seconds)
  }

  return {
    spend(request, reply, classes = classesOf(request.method)) {
      const all = bucketsOf(request.principal)
      const buckets = classes.length === 1 ? all[classes[0]!] : classes.flatMap((name) => all[name])
      request.rate_limits = new SpentLimits(limiter, clock, all, buckets, reply)
      const verdict = limiter.take(buckets)
      if (verdict instanceof Promise) return verdict.then((late) => conclude(reply, buckets, late))
      conclude(reply, buckets, verdict)
      return undefined
    },
    unauthenticated(request, reply) {
      limitAddress(reply, publicLimit, publicLimit.take(clientOf(request.client_address)))
    },
    failed(request, reply) {
      limitAddress(reply, failureLimit, failureLimit.take(clientOf(request.client_address)))
    },
    close: () => limiter.close(),
  }
}

function setHeaders(reply: FastifyReply, limits: readonly Limit[], remaining: readonly number[], clock: Clock): void {
  reply.headers(rateLimitHeaders(limits, remaining, clock.now().getTime()))
}

/** The limits of a request with a key. Created for each request, although few handlers use it. */
class SpentLimits implements RequestLimits {
  readonly #limiter: Limiter
  readonly #clock: Clock
  readonly #all: KeyBuckets
  readonly #buckets: readonly Bucket[]
  readonly #reply: FastifyReply

  constructor(limiter: Limiter, clock: Clock, all: KeyBuckets, buckets: readonly Bucket[], reply: FastifyReply) {
    this.#limiter = limiter
    this.#clock = clock
    this.#all = all
    this.#buckets = buckets
    this.#reply = reply
  }

  refund(name: KeyClass): void {
    for (const bucket of this.#all[name]) this.#limiter.refund(bucket)
    setHeaders(this.#reply, this.#buckets, this.#limiter.remaining(this.#buckets), this.#clock)
  }

  async list(): Promise<EffectiveLimit[]> {
    const own = KEY_CLASSES.map((name) => this.#all[name][0])
    const shared = KEY_CLASSES.map((name) => this.#all[name][1])
    const buckets = [...own, ...shared]
    await this.#limiter.refresh(buckets)
    const remaining = this.#limiter.remaining(buckets)
    return buckets.map(({ name, policy }, i) => ({ name, ...policy, remaining: remaining[i]! }))
  }
}

const NOTHING_SPENT: RequestLimits = { refund() {}, list: async () => [] }

const UNLIMITED: RateLimitHook = {
  spend(request) {
    request.rate_limits = NOTHING_SPENT
    return undefined
  },
  unauthenticated() {},
  failed() {},
  async close() {},
}

function names(buckets: readonly Bucket[]): string[] {
  return buckets.map((bucket) => bucket.name)
}

/** Whole seconds, rounded up, so that a retry after them succeeds. */
function retryAfter(wait_seconds: number): number {
  return Math.max(1, Math.ceil(wait_seconds))
}

function tooManyRequests(violated: string[], wait_seconds: number): ApiError {
  const seconds = retryAfter(wait_seconds)
  return new ApiError(
    'rate_limited',
    `Wait ${seconds} s (see Retry-After) before you retry, and reduce the rate of requests.`,
    {
      headers: { 'retry-after': String(seconds) },
      extensions: { type: QUOTA_EXCEEDED, 'violated-policies': violated },
    },
  )
}

function databaseUnavailable(violated: string[], wait_seconds: number): ApiError {
  return new ApiError('unavailable', 'The database is unavailable. Retry the request.', {
    headers: { 'retry-after': String(retryAfter(wait_seconds)) },
    extensions: { 'violated-policies': violated },
  })
}
