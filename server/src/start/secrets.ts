import { join } from 'node:path'
import type { Secrets } from '../deps.ts'
import { StartupError } from '../lib/errors.ts'
import type { Random } from '../lib/random.ts'
import { readFileOrNull, writePrivateFile } from './files.ts'

const NAMES = ['pepper', 'cursor_key', 'seal_key'] as const
const LENGTH = 32

/** Reads the secrets of this data directory, or makes them at the first start. */
export function openSecrets(folder: string, random: Random): Secrets {
  const file = join(folder, 'secrets.json')
  const text = readFileOrNull(file)
  if (text !== null) return parse(file, text)
  const secrets = NAMES.map((name) => [name, random.bytes(LENGTH)] as const)
  const encoded = secrets.map(([name, bytes]) => [name, Buffer.from(bytes).toString('base64')])
  writePrivateFile(file, `${JSON.stringify(Object.fromEntries(encoded), null, 2)}\n`)
  return Object.fromEntries(secrets) as unknown as Secrets
}

function parse(file: string, text: string): Secrets {
  try {
    const found = JSON.parse(text) as Record<string, string>
    const secrets = NAMES.map((name) => [name, Buffer.from(found[name]!, 'base64')] as const)
    if (secrets.every(([, bytes]) => bytes.length === LENGTH)) return Object.fromEntries(secrets) as unknown as Secrets
  } catch {}
  throw new StartupError(`${file} is damaged. Restore it from a backup: without it no API key works any more.`)
}
