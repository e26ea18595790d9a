/** The limits as a request meets them: what it spends, what its answer says of it, and the refusal. */
import type { FastifyReply, FastifyRequest } from 'fastify'
import type { Config } from '../config.ts'
import type { Sql } from '../db/database.ts'
import type { Principal } from '../keys/principal.ts'
import type { Clock } from '../lib/clock.ts'
import { ApiError } from '../lib/errors.ts'
import type { Log } from '../lib/log.ts'
import { type AddressLimit, clientOf, createAddressLimit, createAttempts } from './address.ts'
import type { Bucket } from './bucket.ts'
import type { Decision } from './gcra.ts'
import { type Limit, rateLimitHeaders } from './headers.ts'
import { createLimiter, type Verdict } from './limiter.ts'
import { classesOf, createKeyBuckets, KEY_CLASSES, type KeyBuckets, type KeyClass } from './policies.ts'
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
  const publicLimit = createAddressLimit('unauthenticated', limits.unauthenticated, clock)
  const failureLimit = createAddressLimit('failed_authentication', limits.failed_authentication, clock)
  const attempt = createAttempts<Principal>(failureLimit)

  function show(reply: FastifyReply, limits: readonly Limit[], remaining: readonly number[]): void {
    reply.headers(rateLimitHeaders(limits, remaining, clock.now().getTime()))
  }

  /** What a handler may do about the limits: few handlers do, so it costs one small object. */
  class Spent implements RequestLimits {
    readonly #all: KeyBuckets
    readonly #buckets: readonly Bucket[]
    readonly #reply: FastifyReply

    constructor(all: KeyBuckets, buckets: readonly Bucket[], reply: FastifyReply) {
      this.#all = all
      this.#buckets = buckets
      this.#reply = reply
    }

    refund(name: KeyClass): void {
      for (const bucket of this.#all[name]) limiter.refund(bucket)
      show(this.#reply, this.#buckets, limiter.remaining(this.#buckets))
    }

    async list(): Promise<EffectiveLimit[]> {
      const mine = KEY_CLASSES.map((name) => this.#all[name][0])
      const shared = KEY_CLASSES.map((name) => this.#all[name][1])
      const buckets = [...mine, ...shared]
      await limiter.look(buckets)
      const left = limiter.remaining(buckets)
      return buckets.map(({ name, policy }, i) => ({ name, ...policy, remaining: left[i]! }))
    }
  }

  function spend(
    request: FastifyRequest,
    reply: FastifyReply,
    classes: readonly KeyClass[] = classesOf(request.method),
  ): Promise<void> | undefined {
    const all = bucketsOf(request.principal)
    const buckets = classes.length === 1 ? all[classes[0]!] : classes.flatMap((name) => all[name])
    request.rate_limits = new Spent(all, buckets, reply)
    const verdict = limiter.take(buckets)
    if (verdict instanceof Promise) return verdict.then((late) => conclude(reply, buckets, late))
    conclude(reply, buckets, verdict)
    return undefined
  }

  function conclude(reply: FastifyReply, buckets: readonly Bucket[], verdict: Verdict): void {
    show(reply, buckets, limiter.remaining(buckets))
    if (verdict === null) return
    if (verdict.reason === 'rate') throw tooMany(names(verdict.violated), verdict.wait_seconds)
    throw notNow(names(verdict.violated), verdict.wait_seconds)
  }

  function perAddress(reply: FastifyReply, limit: AddressLimit, decision: Decision): void {
    show(reply, [limit], [decision.remaining])
    if (!decision.allowed) throw tooMany([limit.name], decision.wait_seconds)
  }

  return {
    spend,
    unauthenticated(request, reply) {
      perAddress(reply, publicLimit, publicLimit.take(clientOf(request.ip)))
    },
    failed(request, reply) {
      perAddress(reply, failureLimit, failureLimit.take(clientOf(request.ip)))
    },
    async lookUp(request, reply, key, find) {
      const address = clientOf(request.ip)
      const found = await attempt(address, key, find)
      if (found !== null && 'key_id' in found) return found
      perAddress(reply, failureLimit, found ?? { ...failureLimit.look(address), allowed: true })
      return null
    },
    close: () => limiter.close(),
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
