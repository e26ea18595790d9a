import { join } from 'node:path'
import { isWellFormed, newKey } from '../keys/format.ts'
import type { Random } from '../lib/random.ts'
import { readFileOrNull, writePrivateFile } from './files.ts'

/** URLs and API keys of the first project. No other file contains these keys. */
export type Credentials = { api_url: string; console_url: string; docs_url: string; live_key: string; test_key: string }

/**
 * Writes <data-dir>/credentials.json with the URLs of this start and the keys that the file has, or new ones. It is
 * written before the keys are stored in the database, because a stored key without its file could not be used.
 */
export function openCredentials(dataDir: string, publicUrl: string, random: Random): Credentials & { file: string } {
  const file = join(dataDir, 'credentials.json')
  const text = readFileOrNull(file)
  const before = parse(text)
  const keyOf = (mode: 'live' | 'test') => {
    const known = before[`${mode}_key`]
    return known && isWellFormed(known) && known.startsWith(`cn_${mode}_`) ? known : newKey(mode, random)
  }
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

function parse(text: string | null): Partial<Credentials> {
  try {
    return (text === null ? {} : JSON.parse(text)) as Partial<Credentials>
  } catch {
    return {}
  }
}
