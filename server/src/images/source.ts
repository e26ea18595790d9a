/** The source of an image: the column `images.source`. */
export type ImageSource =
  | { kind: 'recipe'; recipe: string }
  | { kind: 'publisher'; publisher: string; path: string; file: string }
  | { kind: 'url'; url: string; sha256: string }
  | { kind: 'upload'; sha256: string | null }

/** The API representation of a source. The query string is removed, because it may contain a signature. */
export function showSource(source: ImageSource): { kind: ImageSource['kind']; url: string | null } {
  return { kind: source.kind, url: source.kind === 'url' ? source.url.split('?', 1)[0]! : null }
}
