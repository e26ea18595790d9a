import { plain } from './text.ts'

/** The host and file of a source, for messages. Contains neither query nor user information. */
export type SourceName = { host: string; file: string }

/** The host and file of a URL; also of one that does not parse. */
export function sourceName(href: string): SourceName {
  const url = URL.parse(href)
  if (url === null) return { host: 'The given URL', file: 'image' }
  let last = url.pathname.split('/').findLast((part) => part !== '') ?? ''
  try {
    last = decodeURIComponent(last)
  } catch {
    // stays encoded
  }
  return { host: plain(url.host, 100) || 'The given URL', file: plain(last, 100) || 'the file' }
}
