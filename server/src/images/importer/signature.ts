/**
 * Evaluates the status output of gpgv. Pure.
 *
 * The status VALIDSIG alone is not enough: gpgv also prints it for expired and revoked keys and expired signatures, with
 * another keyword in place of GOODSIG. Therefore a signature (NEWSIG starts one) must have GOODSIG and VALIDSIG and none
 * of the bad keywords. A list may have signatures of several keys; a good signature of an allowed key is enough, unless
 * any signature is BADSIG, because then the list was modified.
 */

const bad = new Set(['BADSIG', 'ERRSIG', 'EXPSIG', 'EXPKEYSIG', 'REVKEYSIG', 'NODATA'])
/** SHA-2 and SHA-3 (RFC 9580, 9.5), but not MD5, SHA-1 and RIPEMD-160. */
const strongHashes = new Set(['8', '9', '10', '11', '12', '14'])

/** Null if an allowed key made a good signature, otherwise the reason for a message. */
export function signatureProblem(statusOutput: string, fingerprints: readonly string[]): string | null {
  const allowed = new Set(fingerprints.map((fingerprint) => fingerprint.toUpperCase()))
  const signatures = readSignatures(statusOutput)
  const keywords = new Set(signatures.flatMap((signature) => [...signature.keys()]))
  if (keywords.has('BADSIG')) return 'the signature does not match the list'
  if (signatures.some((signature) => isGood(signature, allowed))) return null
  if (keywords.has('EXPSIG') || keywords.has('EXPKEYSIG')) return 'the signature or its key has expired'
  if (keywords.has('REVKEYSIG')) return 'the signing key was revoked'
  if (keywords.has('ERRSIG')) return 'it is signed by a key that is not in the keyring'
  if (keywords.has('VALIDSIG')) return 'it is signed by a key that is not allowed, or with a hash that is too weak'
  return 'its signature cannot be read'
}

function isGood(signature: Map<string, string[]>, allowed: ReadonlySet<string>): boolean {
  const valid = signature.get('VALIDSIG')
  if (valid === undefined || !signature.has('GOODSIG')) return false
  if ([...signature.keys()].some((keyword) => bad.has(keyword))) return false
  // fingerprint, date, time, expiry, version, reserved, key algorithm, hash algorithm, class, primary key's fingerprint
  const [fingerprint, primary, hash] = [valid[0], valid[9], valid[7]]
  return [fingerprint, primary].some((key) => key !== undefined && allowed.has(key)) && strongHashes.has(hash ?? '')
}

/** Parses the status lines into a map of keyword → arguments for each signature. */
function readSignatures(statusOutput: string): Map<string, string[]>[] {
  const signatures: Map<string, string[]>[] = []
  for (const line of statusOutput.split('\n')) {
    const [prefix, keyword, ...rest] = line.trimEnd().split(' ')
    if (prefix !== '[GNUPG:]' || keyword === undefined) continue
    if (keyword === 'NEWSIG' || signatures.length === 0) signatures.push(new Map())
    signatures.at(-1)!.set(keyword, rest)
  }
  return signatures
}
