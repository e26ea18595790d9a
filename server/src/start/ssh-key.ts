import { generateKeyPairSync } from 'node:crypto'
import { existsSync, mkdirSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { StartupError } from '../lib/errors.ts'
import { readFileOrNull } from '../lib/files.ts'
import type { Random } from '../lib/random.ts'

const TYPE = 'ssh-ed25519'
const COMMENT = 'cloudnexus'

/** The key pair with which the operator can log in to every machine; created at the first start. */
export function openSshKey(dataDir: string, random: Random): { private_key_file: string; public_key: string } {
  const folder = join(dataDir, 'ssh')
  const file = join(folder, 'id_ed25519')
  if (!existsSync(folder)) {
    const fresh = `${folder}.new`
    const { private_key, public_key } = newSshKey(random)
    rmSync(fresh, { recursive: true, force: true })
    mkdirSync(fresh, { mode: 0o700 })
    writeFileSync(join(fresh, 'id_ed25519'), private_key, { mode: 0o600 })
    writeFileSync(join(fresh, 'id_ed25519.pub'), `${public_key}\n`, { mode: 0o644 })
    renameSync(fresh, folder)
  }
  const public_key = readFileOrNull(`${file}.pub`)?.trim() ?? ''
  if (!existsSync(file) || !isKey(public_key)) {
    throw new StartupError(
      `The key pair in ${folder} is damaged. Restore it from a backup, or delete the folder to create a new one.`,
    )
  }
  return { private_key_file: file, public_key }
}

/** One line in the format of OpenSSH. */
function isKey(text: string): boolean {
  const [type, blob = ''] = text.split(' ')
  return /^[\x20-\x7e]+$/.test(text) && Buffer.from(blob, 'base64').subarray(4).toString('latin1').startsWith(`${type}`)
}

/**
 * An Ed25519 key pair in the format of OpenSSH (PROTOCOL.key in its sources). ssh-keygen is not used because it fails for a
 * user ID without a name, as in containers.
 */
function newSshKey(random: Random): { private_key: string; public_key: string } {
  const { x = '', d = '' } = generateKeyPairSync('ed25519').privateKey.export({ format: 'jwk' })
  const [point, seed] = [Buffer.from(x, 'base64url'), Buffer.from(d, 'base64url')]
  const blob = Buffer.concat([field(TYPE), field(point)])
  const check = random.bytes(4)
  const secret = [check, check, field(TYPE), field(point), field(Buffer.concat([seed, point])), field(COMMENT)]
  const padding = Uint8Array.from({ length: (8 - (Buffer.concat(secret).length % 8)) % 8 }, (_, i) => i + 1)
  const one = Buffer.from([0, 0, 0, 1])
  const head = [Buffer.from('openssh-key-v1\0'), field('none'), field('none'), field(''), one, field(blob)]
  const whole = Buffer.concat([...head, field(Buffer.concat([...secret, padding]))])
  const lines = whole.toString('base64').match(/.{1,70}/g)!
  return {
    private_key: ['-----BEGIN OPENSSH PRIVATE KEY-----', ...lines, '-----END OPENSSH PRIVATE KEY-----', ''].join('\n'),
    public_key: `${TYPE} ${blob.toString('base64')} ${COMMENT}`,
  }
}

/** A string preceded by its length (RFC 4251, section 5). */
function field(content: string | Uint8Array): Buffer {
  const bytes = Buffer.from(content as string)
  const length = Buffer.alloc(4)
  length.writeUInt32BE(bytes.length)
  return Buffer.concat([length, bytes])
}
