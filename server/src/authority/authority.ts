/** Whether the key of a request still permits it. A request can outlive its key, or a change of its key. */
import type { FastifyRequest } from 'fastify'
import { bearer } from '../http/bearer.ts'
import type { KeyLookup } from '../keys/lookup.ts'
import type { Principal } from '../keys/principal.ts'
import type { ApiError } from '../lib/errors.ts'
import { isAllowedFrom } from '../lib/ip.ts'
import { addressNotAllowed, insufficientScope, invalidApiKey } from './refusals.ts'

/** The transaction of a write found that the key of its request has ended or has changed. */
export class AuthorityChangedError extends Error {}

/** The error of a request with this key; null if the key permits it. `principal` is null for an invalid key. */
export function refusalOf(principal: Principal | null, request: FastifyRequest): ApiError | null {
  if (principal === null) return invalidApiKey()
  if (!isAllowedFrom(principal.allowed_addresses, request.client_address)) return addressNotAllowed()
  const { scope } = request.routeOptions.config
  return scope === 'any' || principal.scopes.includes(scope as string) ? null : insufficientScope(scope as string)
}

/** The key of a request as it is now, or was half a second ago; null for an invalid key. */
export async function currentKey(keys: KeyLookup, request: FastifyRequest): Promise<Principal | null> {
  const key = bearer(request.headers.authorization) ?? ''
  return keys.cached(key) ?? keys.find(key)
}

/** Reads the key of a request again and sets its principal. Throws 401 or 403 if the key no longer permits the request. */
export async function reauthorize(keys: KeyLookup, request: FastifyRequest): Promise<void> {
  const principal = await keys.find(bearer(request.headers.authorization) ?? '')
  const refusal = refusalOf(principal, request)
  if (refusal) throw refusal
  request.principal = principal!
}
