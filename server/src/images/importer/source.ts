import { plain } from './text.ts'

/** How messages name a source: host and file, never the query or user information. */
export type SourceName = { host: string; file: string }

/** Names a URL for messages; also one that does not parse. */
export function sourceName(address: string): SourceName {
  const url = URL.parse(address)
  if (url === null) return { host: 'The given URL', file: 'image' }
  let last = url.pathname.split('/').findLast((part) => part !== '') ?? ''
  try {
    last = decodeURIComponent(last)
  } catch {
    // keep it encoded
  }
  return { host: plain(url.host, 100) || 'The given URL', file: plain(last, 100) || 'the file' }
}
