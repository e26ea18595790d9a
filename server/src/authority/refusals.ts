/** Errors for a request that its key does not permit. */
import { ApiError } from '../lib/errors.ts'

/** 401, the same for every reason. */
export function invalidApiKey(): ApiError {
  return new ApiError(
    'invalid_api_key',
    'Send a valid key: Authorization: Bearer cn_live_sk_… or cn_test_sk_…. Revoked and expired keys are not valid.',
    { headers: { 'www-authenticate': 'Bearer' } },
  )
}

/** 403 for a key without the scope that a route needs. */
export function insufficientScope(scope: string): ApiError {
  return new ApiError('insufficient_scope', `This request requires a key with the scope ${scope}.`, {
    extensions: { required_scope: scope },
  })
}

/** 403 for a valid key that cannot be used from this IP address. The response does not contain the allowed ones. */
export function addressNotAllowed(): ApiError {
  return new ApiError(
    'address_not_allowed',
    'This key cannot be used from this IP address. Use it from an allowed IP address, or add this one to allowed_addresses of the key.',
  )
}
