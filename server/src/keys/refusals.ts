/** What a key that may not do something is told. */
import { ApiError } from '../lib/errors.ts'
import type { Excess } from './strength.ts'

/** 401, the same whatever is wrong with the key. */
export function unauthorised(): ApiError {
  return new ApiError(
    'invalid_api_key',
    'Send a valid key: Authorization: Bearer cn_live_sk_… or cn_test_sk_…. A key that was revoked or has expired is not valid.',
    { headers: { 'www-authenticate': 'Bearer' } },
  )
}

/** 403 for a key without the scope that a route needs. */
export function insufficientScope(scope: string): ApiError {
  return new ApiError('insufficient_scope', `This needs a key with the scope ${scope}.`, {
    extensions: { required_scope: scope },
  })
}

/** 403 for a key that works, but not from here. Which addresses it may be used from is not told. */
export function addressNotAllowed(): ApiError {
  return new ApiError(
    'address_not_allowed',
    'This key may not be used from this address. Use it from an address of its list, or have the list extended.',
  )
}

/**
 * 403 for a wish for a key that is stronger than the caller's, or about one.
 * @param missing scopes that the caller's key would need
 * @param inBody whether the fields are those of the body
 */
export function tooStrong(excesses: Excess[], missing: string[], inBody: boolean): ApiError {
  const messages = excesses.map(({ message }) => message).join(' ')
  const detail = inBody ? messages : `That key is stronger than yours. ${messages}`
  const errors = excesses.map(({ field, index, message }) => ({
    ...(inBody && { pointer: index === undefined ? `/${field}` : `/${field}/${index}` }),
    code: 'exceeds_own_key',
    message,
  }))
  return new ApiError('insufficient_scope', detail, { errors, extensions: { missing_scopes: missing } })
}
