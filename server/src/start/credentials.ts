import { join } from 'node:path'
import { isWellFormed, newKey } from '../keys/format.ts'
import type { Random } from '../lib/random.ts'
import { readFileOrNull, writePrivateFile } from './files.ts'

/** How the first project is reached; the only place where its keys are written down. */
export type Credentials = { api_url: string; console_url: string; docs_url: string; live_key: string; test_key: string }

/**
 * Writes <data-dir>/credentials.json with the addresses of this start and the keys that it has, or new ones. The file
 * comes before the database: a key that was stored, but written down nowhere, would be of no use to anybody.
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
