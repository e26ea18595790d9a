/** From the key of a request to its principal, in this order: rate limits of unknown keys, IP address, rate limits, scope. */
import type { FastifyReply, FastifyRequest } from 'fastify'
import { bearer } from '../http/bearer.ts'
import { isAllowedFrom } from '../lib/ip.ts'
import type { RateLimitHook } from '../rate-limits/hook.ts'
import type { Principal } from './principal.ts'
import { addressNotAllowed, insufficientScope, invalidApiKey } from './refusals.ts'
import type { KeyLookup } from './store.ts'
import type { KeyUsage } from './usage.ts'

type Parts = { keys: KeyLookup; limits: RateLimitHook; usage: KeyUsage }
/** Returns undefined if the request is accepted without a statement. Throws or rejects with 401, 403, 429 or 503. */
export type Authenticate = (request: FastifyRequest, reply: FastifyReply) => Promise<void> | undefined

/** Authenticates requests and charges them to the rate limits; sets `request.principal`. */
export function createAuthentication({ keys, limits, usage }: Parts): Authenticate {
  /** The limits are charged before the scope is checked, because a request without the scope is a request too. */
  function accept(request: FastifyRequest, reply: FastifyReply, principal: Principal): Promise<void> | undefined {
    const { scope, limits: classes } = request.routeOptions.config
    request.principal = principal
    const { allowed_addresses } = principal
    if (allowed_addresses !== null && !isAllowedFrom(allowed_addresses, request.ip)) throw addressNotAllowed()
    usage.record(principal.key_id, request.ip)
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
    return limits.lookUp(request, reply, key, keys.find).then((principal) => {
      if (principal === null) throw invalidApiKey()
      return accept(request, reply, principal)
    })
  }
}

function checkScope({ scopes }: Principal, scope: string | undefined): void {
  if (scope !== 'any' && !scopes.includes(scope as string)) throw insufficientScope(scope as string)
}
