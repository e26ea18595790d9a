/** Which events somebody wants: exact types, all of a family (`instance.*`), or all (`*`). Pure. */
import type { Scope } from '../keys/scopes.ts'
import { EVENT_TYPES, type EventType, FAMILY_SCOPES } from './catalog.ts'

const TYPES = Object.keys(EVENT_TYPES) as EventType[]

/** Every pattern that there is. */
export const PATTERNS: readonly string[] = ['*', ...Object.keys(FAMILY_SCOPES).map((family) => `${family}.*`), ...TYPES]

/** Whether it is an exact type, `family.*` or `*`, of those that there are. */
export const isPattern = (text: string): boolean => PATTERNS.includes(text)

/** Whether an event of this type is among those of the pattern. */
export function matches(pattern: string, type: string): boolean {
  return pattern === '*' || pattern === type || (pattern.endsWith('.*') && type.startsWith(pattern.slice(0, -1)))
}

/** What a key needs, besides that of the route, to see events of this type. Throws for a family that there is not. */
export function scopeOf(type: string): Scope {
  const family = type.split('.', 1)[0]!
  if (!Object.hasOwn(FAMILY_SCOPES, family)) throw new TypeError(`there are no events such as ${type}`)
  return FAMILY_SCOPES[family as keyof typeof FAMILY_SCOPES]
}

/**
 * The types that a key with these scopes sees, of those that it asks for. Null: all that there are.
 * @param patterns null: no filter
 */
export function visibleTypes(scopes: readonly string[], patterns: readonly string[] | null): EventType[] | null {
  const asked = (type: string) => patterns === null || patterns.some((pattern) => matches(pattern, type))
  const visible = TYPES.filter((type) => scopes.includes(scopeOf(type)) && asked(type))
  return visible.length === TYPES.length ? null : visible
}
