/** Errors for a request whose key has insufficient privileges for another key. */
import { ApiError } from '../lib/errors.ts'
import type { ExceededField } from './privileges.ts'

/**
 * 403 for a request that creates or changes a key whose privileges exceed the caller's.
 * @param missing scopes that the caller's key does not have
 * @param inBody whether the exceeded fields are fields of the request body
 */
export function privilegesExceeded(exceeded: ExceededField[], missing: string[], inBody: boolean): ApiError {
  const messages = exceeded.map(({ message }) => message).join(' ')
  const detail = inBody ? messages : `The privileges of that key exceed those of your key. ${messages}`
  const errors = exceeded.map(({ field, index, message }) => ({
    ...(inBody && { pointer: index === undefined ? `/${field}` : `/${field}/${index}` }),
    code: 'exceeds_own_key',
    message,
  }))
  return new ApiError('insufficient_scope', detail, { errors, extensions: { missing_scopes: missing } })
}
