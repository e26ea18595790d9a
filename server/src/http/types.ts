import type { IncomingMessage, ServerResponse } from 'node:http'
import type { FastifyBaseLogger, FastifyInstance, FastifyTypeProvider, RawServerDefault } from 'fastify'
import type { Static, TSchema } from 'typebox'
import type { Deps } from '../deps.ts'
import type { Principal } from '../keys/principal.ts'
import type { Scope } from '../keys/scopes.ts'
import type { ErrorCode } from '../lib/errors.ts'
import type { RequestLimits } from '../rate-limits/hook.ts'
import type { KeyClass } from '../rate-limits/policies.ts'

declare module 'fastify' {
  interface FastifyRequest {
    /** The authenticated API key; unset on routes whose scope is `none`. */
    principal: Principal
    /** IP address of the client in canonical form; null if it is unknown. */
    client_address: string | null
    /** Unique for this request, unlike `id`, which the client can choose and reuse. */
    req_id: string
    /** What the request has consumed of its key's rate limits; unset on routes whose scope is `none`. */
    rate_limits: RequestLimits
    /** Code of the error response; null when there is none. */
    problem_code: string | null
    /** Begin and end of a write's transaction, in monotonic milliseconds. */
    transaction: { begin: number; end: number } | null
  }
  interface FastifyContextConfig {
    /** Scope that the key needs; `any`: every valid key; `none`: no key. Required on every route. */
    scope?: Scope | 'any' | 'none'
    /** Error codes of this route, in addition to those that follow from its declaration. */
    problems?: ErrorCode[]
    /**
     * Rate limits that a request counts against. Default: `reads` for GET and HEAD, else `writes`. A request without a
     * key counts against its IP address. `[]`: no limits.
     */
    limits?: readonly KeyClass[]
    /** The handler reads the body itself, as `application/octet-stream` of any size. */
    raw_body?: boolean
    /** Deadline for the complete body; default 30 s. */
    body_deadline_ms?: number
    /** Deadline for the start of the response; default 30 s. */
    response_deadline_ms?: number
  }
}

/** Derives the types of params, query and body from the route's TypeBox schemas. */
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

/** A tag of the OpenAPI document: the name of a group of routes, and its description. */
export type ApiTag = { name: string; description: string }

/** What a resource adds to the server. */
export type Resource = {
  /** The tag of its routes, if it is the first resource with this tag. */
  tag?: ApiTag
  /** Schemas with an `$id`, which routes reference by `ref`; they are the named types of the OpenAPI document. */
  schemas: TSchema[]
  routes(app: App, deps: Deps): void
}
