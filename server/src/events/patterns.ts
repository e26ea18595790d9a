/** Patterns that select event types: an exact type, all types of a family (`instance.*`), or all types (`*`). Pure. */
import type { Scope } from '../keys/scopes.ts'
import { EVENT_TYPES, type EventType, FAMILY_SCOPES } from './catalog.ts'

const TYPES = Object.keys(EVENT_TYPES) as EventType[]

/** Every valid pattern. */
export const PATTERNS: readonly string[] = ['*', ...Object.keys(FAMILY_SCOPES).map((family) => `${family}.*`), ...TYPES]

/** Whether the text is a valid pattern. */
export const isPattern = (text: string): boolean => PATTERNS.includes(text)

/** Whether the pattern matches the event type. */
export function matches(pattern: string, type: string): boolean {
  return pattern === '*' || pattern === type || (pattern.endsWith('.*') && type.startsWith(pattern.slice(0, -1)))
}

/** The scope that a key needs, besides that of the route, to read events of this type. Throws for an unknown family. */
export function scopeOf(type: string): Scope {
  const family = type.split('.', 1)[0]!
  if (!Object.hasOwn(FAMILY_SCOPES, family)) throw new TypeError(`unknown event type ${type}`)
  return FAMILY_SCOPES[family as keyof typeof FAMILY_SCOPES]
}

/**
 * The event types that match the patterns and that a key with these scopes may read; null if these are all types.
 * @param patterns null for no filter
 */
export function visibleTypes(scopes: readonly string[], patterns: readonly string[] | null): EventType[] | null {
  const isRequested = (type: string) => patterns === null || patterns.some((pattern) => matches(pattern, type))
  const visible = TYPES.filter((type) => scopes.includes(scopeOf(type)) && isRequested(type))
  return visible.length === TYPES.length ? null : visible
}
