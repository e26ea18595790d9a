import { isIP } from 'node:net'
import type { Static } from 'typebox'
import { type FieldError, validationFailed } from '../lib/errors.ts'
import { isAddressAllowed, OutboundError, parseDestination } from '../lib/outbound.ts'
import type { ImageCreate } from './schema.ts'
import type { ImageSource } from './source.ts'

/**
 * The source of an image to add. A literal IP address is checked here, the addresses of a host name at the download.
 * Throws `validation_failed`.
 * @param allowed IP ranges that the operator allows in addition to public addresses
 */
export function checkSource(body: Static<typeof ImageCreate>, allowed: readonly string[]): ImageSource {
  const { url, sha256 } = body
  const errors: FieldError[] = []
  const addError = (pointer: string, code: string, message: string) => errors.push({ pointer, code, message })
  if (body.source === 'upload') {
    if (url !== undefined) addError('/url', 'not_allowed', 'url must be omitted when source is "upload".')
    if (errors.length > 0) throw validationFailed(errors)
    return { kind: 'upload', sha256: sha256?.toLowerCase() ?? null }
  }
  if (url === undefined) addError('/url', 'required', 'url is required unless source is "upload".')
  if (sha256 === undefined)
    addError('/sha256', 'required', 'sha256 is required: it is the checksum of the file at url.')
  const reason = url === undefined ? null : urlProblem(url, allowed)
  if (reason) addError('/url', 'not_allowed', `url ${reason}`)
  if (url === undefined || sha256 === undefined || errors.length > 0) throw validationFailed(errors)
  return { kind: 'url', url, sha256: sha256.toLowerCase() }
}

function urlProblem(text: string, allowed: readonly string[]): string | null {
  const shape = 'must be an http or https URL without user name, password or fragment, on a standard port.'
  try {
    const { hostname } = parseDestination(text, true)
    const literal = hostname.replace(/^\[(.*)\]$/, '$1')
    if (isIP(literal) === 0 || isAddressAllowed(literal, allowed)) return null
    return 'must point to a public IP address; the operator can allow others with CLOUDNEXUS_IMAGE_ALLOW.'
  } catch (error) {
    if (error instanceof OutboundError) return shape
    throw error
  }
}
