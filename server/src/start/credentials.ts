import { join } from 'node:path'
import { isWellFormed, newKey } from '../keys/format.ts'
import { StartupError } from '../lib/errors.ts'
import { readFileOrNull, writePrivateFile } from '../lib/files.ts'
import type { Random } from '../lib/random.ts'

/** URLs and API keys of the first project. No other file contains these keys. */
export type Credentials = { api_url: string; console_url: string; docs_url: string; live_key: string; test_key: string }

/**
 * Writes <data-dir>/credentials.json with the URLs of this start and the keys that the file has, or new ones if there is no
 * file. It is written before the keys are stored in the database, because a stored key without its file could not be used.
 * Throws a StartupError for a damaged file: new keys would leave the old ones active and unknown.
 */
export function openCredentials(dataDir: string, publicUrl: string, random: Random): Credentials & { file: string } {
  const file = join(dataDir, 'credentials.json')
  const text = readFileOrNull(file)
  const before = text === null ? null : parse(file, text)
  const keyOf = (mode: 'live' | 'test') => before?.[`${mode}_key`] ?? newKey(mode, random)
  const credentials: Credentials = {
    api_url: publicUrl,
    console_url: `${publicUrl}/console`,
    docs_url: `${publicUrl}/openapi.json`,
    live_key: keyOf('live'),
    test_key: keyOf('test'),
  }
  const content = `${JSON.stringify(credentials, null, 2)}\n`
  if (content !== text) writePrivateFile(file, content)
  return { ...credentials, file }
}

type Keys = Pick<Credentials, 'live_key' | 'test_key'>

function parse(file: string, text: string): Keys {
  const advice =
    'Restore it from a backup, or delete it to create new keys; the old ones stay valid until you delete them.'
  let found: Partial<Keys> | null
  try {
    found = JSON.parse(text) as Partial<Keys> | null
  } catch {
    throw new StartupError(`${file} is not valid JSON. ${advice}`)
  }
  for (const mode of ['live', 'test'] as const) {
    const key = found?.[`${mode}_key`]
    const isKey = typeof key === 'string' && isWellFormed(key) && key.startsWith(`cn_${mode}_`)
    if (!isKey) throw new StartupError(`${file} has no valid ${mode}_key. ${advice}`)
  }
  return found as Keys
}
