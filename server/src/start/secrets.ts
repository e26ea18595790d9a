import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { StartupError } from '../lib/errors.ts'
import { readFileOrNull, writePrivateFile } from '../lib/files.ts'
import type { Random } from '../lib/random.ts'
import type { Secrets } from '../lib/secrets.ts'

/** Secrets in every secrets.json; if one is missing, the file is damaged. */
const ORIGINAL = ['pepper', 'cursor_key', 'seal_key'] as const
/** Secrets added by later releases; they are created if the file is older. */
const LATER = ['database_key'] as const
const LENGTH = 32

/** Reads the secrets of this data directory, or creates them at the first start. */
export function openSecrets(folder: string, random: Random): Secrets {
  const file = join(folder, 'secrets.json')
  const text = readFileOrNull(file)
  if (text === null && existsSync(join(folder, 'credentials.json'))) {
    // The first start writes the secrets before the credentials.
    throw new StartupError(`${file} is missing. Restore it from a backup: without it no API key works.`)
  }
  const found = text === null ? {} : parse(file, text)
  const missing = [...ORIGINAL, ...LATER].filter((name) => !found[name])
  for (const name of missing) found[name] = random.bytes(LENGTH)
  if (missing.length > 0) {
    const encoded = Object.entries(found).map(([name, bytes]) => [name, Buffer.from(bytes).toString('base64')])
    writePrivateFile(file, `${JSON.stringify(Object.fromEntries(encoded), null, 2)}\n`)
  }
  return found as Secrets
}

function parse(file: string, text: string): Record<string, Uint8Array> {
  try {
    const entries = Object.entries(JSON.parse(text) as Record<string, string>)
    const secrets = Object.fromEntries(entries.map(([name, encoded]) => [name, Buffer.from(encoded, 'base64')]))
    const isWhole = Object.values(secrets).every((bytes) => bytes.length === LENGTH)
    if (isWhole && ORIGINAL.every((name) => secrets[name])) return secrets
  } catch {}
  throw new StartupError(`${file} is damaged. Restore it from a backup: without it no API key works.`)
}
