import type { IncomingMessage, ServerResponse } from 'node:http'
import type { FastifyBaseLogger, FastifyInstance, FastifyTypeProvider, RawServerDefault } from 'fastify'
import type { Static, TSchema } from 'typebox'
import type { Deps, Principal } from '../deps.ts'
import type { Scope } from '../keys/scopes.ts'
import type { ErrorCode } from '../lib/errors.ts'
import type { RequestLimits } from '../rate-limits/hook.ts'
import type { KeyClass } from '../rate-limits/policies.ts'

declare module 'fastify' {
  interface FastifyRequest {
    /** Who asks; unset on routes whose scope is `none`. */
    principal: Principal
    /** Unique for this request, unlike `id`, which the client may choose and use again. */
    req_id: string
    /** What the request has spent of its key's rate limits; unset on routes whose scope is `none`. */
    rate_limits: RequestLimits
    /** Code of the problem that was answered; null as long as there is none. */
    problem_code: string | null
    /** Of a write: when its transaction began and ended, by the clock that only rises. */
    transaction: { begin: number; end: number } | null
  }
  interface FastifyContextConfig {
    /** What the key must be allowed to do; `any`: every valid key; `none`: no key at all. Required on every route. */
    scope?: Scope | 'any' | 'none'
    /** Errors that this route answers beyond those that every route of its kind does. */
    problems?: ErrorCode[]
    /**
     * Rate limits that a request spends one of each of, where they do not follow from the method: GET and HEAD `reads`,
     * others `writes`. A request without a key spends of its address; none at all where this is `[]`.
     */
    limits?: readonly KeyClass[]
    /** The handler reads the body itself, as `application/octet-stream`, whatever its size. */
    raw_body?: boolean
    /** Milliseconds that the body may take to arrive, where it is not the usual 30 s. */
    body_deadline_ms?: number
    /** Milliseconds until the answer must begin, where they are not the usual 30 s. */
    answer_deadline_ms?: number
  }
}

/** Types of params, query and body follow from the route's TypeBox schemas. */
export interface TypeBoxProvider extends FastifyTypeProvider {
  validator: this['schema'] extends TSchema ? Static<this['schema']> : unknown
  serializer: this['schema'] extends TSchema ? Static<this['schema']> : unknown
}

export type App = FastifyInstance<
  RawServerDefault,
  IncomingMessage,
  ServerResponse<IncomingMessage>,
  FastifyBaseLogger,
  TypeBoxProvider
>

/** What a resource adds to the server. */
export type Resource = {
  /** Schemas with an `$id`, which routes mention by `ref`; they become the named types of the OpenAPI document. */
  schemas: TSchema[]
  routes(app: App, deps: Deps): void
}
