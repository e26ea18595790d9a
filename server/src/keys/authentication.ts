/** From the key of a request to its principal, in this order: key, IP address, rate limits, scope. */
import type { FastifyReply, FastifyRequest } from 'fastify'
import { addressNotAllowed, insufficientScope, invalidApiKey } from '../authority/refusals.ts'
import type { KeyWatch } from '../authority/watch.ts'
import { bearer } from '../http/bearer.ts'
import { isAllowedFrom } from '../lib/ip.ts'
import type { RateLimitHook } from '../rate-limits/hook.ts'
import type { KeyLookup } from './lookup.ts'
import type { Principal } from './principal.ts'
import type { KeyUsage } from './usage.ts'

type Parts = { keys: KeyLookup; limits: RateLimitHook; usage: KeyUsage; watch: KeyWatch }
/** Returns undefined if the request is accepted without a statement. Throws or rejects with 401, 403, 429 or 503. */
export type Authenticate = (request: FastifyRequest, reply: FastifyReply) => Promise<void> | undefined

/** Authenticates requests and charges them to the rate limits; sets `request.principal`. */
export function createAuthentication({ keys, limits, usage, watch }: Parts): Authenticate {
  /** The limits are charged before the scope is checked, because a request without the scope is a request too. */
  function accept(request: FastifyRequest, reply: FastifyReply, principal: Principal): Promise<void> | undefined {
    const { scope, limits: classes } = request.routeOptions.config
    request.principal = principal
    const { allowed_addresses } = principal
    if (!isAllowedFrom(allowed_addresses, request.client_address)) throw addressNotAllowed()
    usage.record(principal.key_id, request.client_address)
    watch.onRequest(request, reply)
    const pending = limits.spend(request, reply, classes)
    if (pending) return pending.then(() => checkScope(principal, scope))
    checkScope(principal, scope)
    return undefined
  }

  return (request, reply) => {
    const { scope, limits: classes } = request.routeOptions.config
    if (scope === 'none' || request.is404) {
      if (classes?.length !== 0) limits.unauthenticated(request, reply)
      return undefined
    }
    const key = bearer(request.headers.authorization)
    if (key === null) {
      limits.failed(request, reply)
      throw invalidApiKey()
    }
    const cached = keys.cached(key)
    if (cached) return accept(request, reply, cached)
    // Any key is looked up first, so that failures of others behind the same IP address never lock out a valid one.
    return keys.find(key).then((principal) => {
      if (principal !== null) return accept(request, reply, principal)
      limits.failed(request, reply)
      throw invalidApiKey()
    })
  }
}

function checkScope({ scopes }: Principal, scope: string | undefined): void {
  if (scope !== 'any' && !scopes.includes(scope as string)) throw insufficientScope(scope as string)
}
