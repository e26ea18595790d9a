/**
 * Parses OpenSSH public keys as sshd of the guest does: `type base64 [comment]` (sshd(8), AUTHORIZED_KEYS FILE FORMAT).
 * The base64 part is a sequence of length-prefixed fields, of which the first is the type (RFC 4253, 6.6).
 */
import { createHash } from 'node:crypto'

/** A valid key: the line to store, without surrounding white space, and its fingerprint. */
export type PublicKey = { line: string; fingerprint: string }
/** Why a text is not an accepted key. Never contains the text. */
export type KeyError = { code: string; message: string }

const TYPES =
  'ssh-ed25519, ecdsa-sha2-nistp256, -nistp384, -nistp521, ssh-rsa, sk-ssh-ed25519@openssh.com and sk-ecdsa-sha2-nistp256@openssh.com'
const RSA_MIN_BITS = 2048
const RSA_MAX_BITS = 16_384

/** Bytes of the point on each curve: a 4 and two coordinates. */
const CURVES: Record<string, number> = { nistp256: 65, nistp384: 97, nistp521: 133 }

export function parsePublicKey(text: string): PublicKey | KeyError {
  if (/-{4,5} ?BEGIN [A-Z0-9 ]*PRIVATE KEY|^Private-Lines:/m.test(text)) {
    return invalid(
      'private_key',
      'is a private key. Send the .pub file instead. The private key is now compromised: create a new key pair',
    )
  }
  const line = text.replace(/\r?\n$/, '').trim()
  if (/^(---- BEGIN SSH2 PUBLIC KEY|-----BEGIN PUBLIC)/.test(line))
    return invalid('unknown_type', 'must be in the OpenSSH format. Convert it with ssh-keygen -i, or with -i -m PKCS8')
  if (/[^\P{Cc}\t]|\p{Cs}/u.test(line)) return invalid('invalid', 'must be a single line without control characters')
  const [type = '', base64 = '', ...comment] = line.split(/[ \t]+/)
  const checkFields = FIELD_CHECKS[type]
  if (!checkFields) {
    const known = Object.keys(FIELD_CHECKS).some((name) => line.includes(`${name} `))
    return known
      ? invalid('options_not_allowed', 'must begin with the type of the key; options before the type are not supported')
      : invalid('unknown_type', `must be an OpenSSH public key of one of the types ${TYPES}`)
  }
  const blob = Buffer.from(base64, 'base64')
  if (blob.length === 0 || blob.toString('base64') !== base64) {
    return invalid(
      'invalid',
      'is incomplete: its second part is not valid base64. Copy the whole line of the .pub file',
    )
  }
  const fields = readFields(blob)
  if (fields === null || fields[0]?.toString('latin1') !== type) {
    return invalid('invalid', 'is incomplete: its data do not match its type. Copy the whole line of the .pub file')
  }
  const problem = checkFields(fields.slice(1))
  if (problem) return invalid('invalid', problem)
  const fingerprint = `SHA256:${createHash('sha256').update(blob).digest('base64').replace(/=+$/, '')}`
  return { line: [type, base64, ...comment].join(' '), fingerprint }
}

/** Checks the fields after the type, for each type of key; returns the end of an error message, or null. */
const FIELD_CHECKS: Record<string, (fields: Buffer[]) => string | null> = {
  'ssh-ed25519': ([point, ...rest]) => (point?.length === 32 && rest.length === 0 ? null : INCOMPLETE),
  'sk-ssh-ed25519@openssh.com': ([point, application, ...rest]) =>
    point?.length === 32 && application?.length && rest.length === 0 ? null : INCOMPLETE,
  'ecdsa-sha2-nistp256': (fields) => ecdsa('nistp256', fields),
  'ecdsa-sha2-nistp384': (fields) => ecdsa('nistp384', fields),
  'ecdsa-sha2-nistp521': (fields) => ecdsa('nistp521', fields),
  'sk-ecdsa-sha2-nistp256@openssh.com': ([curve, point, application, ...rest]) =>
    application?.length && rest.length === 0 ? ecdsa('nistp256', [curve!, point!]) : INCOMPLETE,
  'ssh-rsa': rsa,
}

const INCOMPLETE = 'is incomplete: its data do not match its type. Copy the whole line of the .pub file'

function ecdsa(curve: string, [name, point, ...rest]: Buffer[]): string | null {
  const fits = name?.toString('latin1') === curve && point?.length === CURVES[curve] && point?.[0] === 4
  return fits && rest.length === 0 ? null : INCOMPLETE
}

function rsa([exponent, modulus, ...rest]: Buffer[]): string | null {
  if (!exponent?.length || !modulus?.length || rest.length > 0 || (exponent.at(-1)! & 1) === 0) return INCOMPLETE
  const hex = modulus.toString('hex').replace(/^0+/, '')
  const bits = hex === '' ? 0 : BigInt(`0x${hex}`).toString(2).length
  if (bits < RSA_MIN_BITS)
    return `is an RSA key of ${bits} bits; the minimum is ${RSA_MIN_BITS}. Create a key with ssh-keygen -t ed25519`
  return bits > RSA_MAX_BITS ? `is an RSA key of ${bits} bits; the maximum is ${RSA_MAX_BITS}` : null
}

/** The length-prefixed fields of a key; null if they do not fill it exactly. */
function readFields(blob: Buffer): Buffer[] | null {
  const fields: Buffer[] = []
  let at = 0
  while (at < blob.length) {
    if (at + 4 > blob.length) return null
    const end = at + 4 + blob.readUInt32BE(at)
    if (end > blob.length) return null
    fields.push(blob.subarray(at + 4, end))
    at = end
  }
  return fields
}

function invalid(code: string, message: string): KeyError {
  return { code, message }
}
