/** Where an image comes from, as `images.source` keeps it. */
export type ImageSource =
  | { kind: 'recipe'; recipe: string }
  | { kind: 'publisher'; publisher: string; path: string; file: string }
  | { kind: 'url'; url: string; sha256: string }
  | { kind: 'upload'; sha256: string | null }

/** What the API tells of it: a query string may hold a signature that lets whoever has it download. */
export function showSource(source: ImageSource): { kind: ImageSource['kind']; url: string | null } {
  return { kind: source.kind, url: source.kind === 'url' ? source.url.split('?', 1)[0]! : null }
}
