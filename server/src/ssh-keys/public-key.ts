/**
 * OpenSSH public keys, read as the server in the guest will read them: `type base64 [comment]` (sshd(8), AUTHORIZED_KEYS
 * FILE FORMAT), where the base64 is a sequence of length-prefixed fields that begins with the type again (RFC 4253, 6.6).
 */
import { createHash } from 'node:crypto'

/** A key that was understood: the line to store, without anything around it, and its fingerprint. */
export type PublicKey = { line: string; fingerprint: string }
/** Why a text is no key that we take. Never repeats the text. */
export type KeyFault = { code: string; message: string }

const TYPES =
  'ssh-ed25519, ecdsa-sha2-nistp256, -nistp384, -nistp521, ssh-rsa, sk-ssh-ed25519@openssh.com and sk-ecdsa-sha2-nistp256@openssh.com'
const RSA_MIN_BITS = 2048
const RSA_MAX_BITS = 16_384

/** Bytes of the point on each curve: a 4 and two coordinates. */
const CURVES: Record<string, number> = { nistp256: 65, nistp384: 97, nistp521: 133 }

export function parsePublicKey(text: string): PublicKey | KeyFault {
  if (/PRIVATE KEY|Private-Lines/.test(text)) {
    return fault(
      'private_key',
      'is a private key. Never send it to anybody; send the .pub file next to it. If it left your machine just now, make a new pair',
    )
  }
  const line = text.replace(/\r?\n$/, '').trim()
  if (/[\p{Cc}\p{Cs}]/u.test(line)) return fault('invalid', 'must be a single line without control characters')
  const [type = '', base64 = '', ...comment] = line.split(/ +/)
  const sample = SHAPES[type]
  if (!sample) {
    const known = Object.keys(SHAPES).some((name) => line.includes(`${name} `))
    return known
      ? fault('options_not_allowed', 'must begin with the type of the key; options before it are not taken')
      : fault('unknown_type', `must be an OpenSSH public key of one of the types ${TYPES}`)
  }
  const blob = Buffer.from(base64, 'base64')
  if (blob.length === 0 || blob.toString('base64') !== base64) {
    return fault('invalid', 'is damaged: its second part is not valid base64. Copy the whole line of the .pub file')
  }
  const fields = readFields(blob)
  if (fields === null || fields[0]?.toString('latin1') !== type) {
    return fault('invalid', 'is damaged: the data do not fit its type. Copy the whole line of the .pub file')
  }
  const problem = sample(fields.slice(1))
  if (problem) return fault('invalid', problem)
  const fingerprint = `SHA256:${createHash('sha256').update(blob).digest('base64').replace(/=+$/, '')}`
  return { line: [type, base64, ...comment].join(' '), fingerprint }
}

/** What must follow the type in each kind of key; answers what is wrong, or null. */
const SHAPES: Record<string, (fields: Buffer[]) => string | null> = {
  'ssh-ed25519': ([point, ...rest]) => (point?.length === 32 && rest.length === 0 ? null : DAMAGED),
  'sk-ssh-ed25519@openssh.com': ([point, application, ...rest]) =>
    point?.length === 32 && application?.length && rest.length === 0 ? null : DAMAGED,
  'ecdsa-sha2-nistp256': (fields) => ecdsa('nistp256', fields),
  'ecdsa-sha2-nistp384': (fields) => ecdsa('nistp384', fields),
  'ecdsa-sha2-nistp521': (fields) => ecdsa('nistp521', fields),
  'sk-ecdsa-sha2-nistp256@openssh.com': ([curve, point, application, ...rest]) =>
    application?.length && rest.length === 0 ? ecdsa('nistp256', [curve!, point!]) : DAMAGED,
  'ssh-rsa': rsa,
}

const DAMAGED = 'is damaged: the data do not fit its type. Copy the whole line of the .pub file'

function ecdsa(curve: string, [name, point, ...rest]: Buffer[]): string | null {
  const fits = name?.toString('latin1') === curve && point?.length === CURVES[curve] && point?.[0] === 4
  return fits && rest.length === 0 ? null : DAMAGED
}

function rsa([exponent, modulus, ...rest]: Buffer[]): string | null {
  if (!exponent?.length || !modulus?.length || rest.length > 0 || (exponent.at(-1)! & 1) === 0) return DAMAGED
  const hex = modulus.toString('hex').replace(/^0+/, '')
  const bits = hex === '' ? 0 : BigInt(`0x${hex}`).toString(2).length
  if (bits < RSA_MIN_BITS)
    return `is an RSA key of ${bits} bits; it must have at least ${RSA_MIN_BITS}. Better make one by ssh-keygen -t ed25519`
  return bits > RSA_MAX_BITS ? `is an RSA key of ${bits} bits; OpenSSH takes at most ${RSA_MAX_BITS}` : null
}

/** The length-prefixed fields of a key; null when they do not fill it exactly. */
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

function fault(code: string, message: string): KeyFault {
  return { code, message }
}
