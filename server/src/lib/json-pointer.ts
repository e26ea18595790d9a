/** JSON Pointer (RFC 6901). Pure. */

/** A name as one part of a pointer. */
export function escapePointer(name: string): string {
  return name.replaceAll('~', '~0').replaceAll('/', '~1')
}

/** The names of a pointer, still separated by `/`. */
export function unescapePointer(pointer: string): string {
  return pointer.replaceAll('~1', '/').replaceAll('~0', '~')
}
