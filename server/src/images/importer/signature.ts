/**
 * What gpgv found out about a signature. Pure.
 *
 * A status VALIDSIG alone is not enough: gpgv prints it also for expired and revoked keys and expired signatures, which
 * it marks by another word where GOODSIG would be. So each signature (NEWSIG begins one) must have GOODSIG and VALIDSIG
 * and none of the bad words. A list may carry signatures of several keys; one good one of an allowed key suffices,
 * unless another is outright bad: then somebody changed something.
 */

const bad = new Set(['BADSIG', 'ERRSIG', 'EXPSIG', 'EXPKEYSIG', 'REVKEYSIG', 'NODATA'])
/** RFC 9580, 9.5: SHA-2 and SHA-3. MD5, SHA-1 and RIPEMD-160 are not. */
const strongHashes = new Set(['8', '9', '10', '11', '12', '14'])

/** Null when an allowed key made a good signature; else why not, in words for a person. */
export function signatureProblem(statusOutput: string, fingerprints: readonly string[]): string | null {
  const allowed = new Set(fingerprints.map((fingerprint) => fingerprint.toUpperCase()))
  const signatures = readSignatures(statusOutput)
  const words = new Set(signatures.flatMap((signature) => [...signature.keys()]))
  if (words.has('BADSIG')) return 'the signature does not match the list'
  if (signatures.some((signature) => isGood(signature, allowed))) return null
  if (words.has('EXPSIG') || words.has('EXPKEYSIG')) return 'the signature or its key has expired'
  if (words.has('REVKEYSIG')) return 'the signing key was revoked'
  if (words.has('ERRSIG')) return 'it is signed by a key that is not in the keyring'
  if (words.has('VALIDSIG')) return 'it is signed by a key that is not allowed, or with a hash that is too weak'
  return 'its signature cannot be read'
}

function isGood(signature: Map<string, string[]>, allowed: ReadonlySet<string>): boolean {
  const valid = signature.get('VALIDSIG')
  if (valid === undefined || !signature.has('GOODSIG')) return false
  if ([...signature.keys()].some((word) => bad.has(word))) return false
  // fingerprint, date, time, expiry, version, reserved, key algorithm, hash algorithm, class, primary key's fingerprint
  const [fingerprint, primary, hash] = [valid[0], valid[9], valid[7]]
  return [fingerprint, primary].some((key) => key !== undefined && allowed.has(key)) && strongHashes.has(hash ?? '')
}

/** One map of status word → arguments for each signature. */
function readSignatures(statusOutput: string): Map<string, string[]>[] {
  const signatures: Map<string, string[]>[] = []
  for (const line of statusOutput.split('\n')) {
    const [prefix, word, ...rest] = line.trimEnd().split(' ')
    if (prefix !== '[GNUPG:]' || word === undefined) continue
    if (word === 'NEWSIG' || signatures.length === 0) signatures.push(new Map())
    signatures.at(-1)!.set(word, rest)
  }
  return signatures
}
