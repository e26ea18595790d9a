import { isDeepStrictEqual } from 'node:util'

/** Fields that every change moves and that say nothing about it. */
const ECHOES = ['version', 'updated_at']

/** What differs between a resource as the API showed it and as it shows it: the fields as they were, and as they are. */
export function difference(before: object, after: object): { before: object; after: object } {
  const differs = (name: string) =>
    !ECHOES.includes(name) && !isDeepStrictEqual(before[name as never], after[name as never])
  const names = [...new Set([...Object.keys(before), ...Object.keys(after)])].filter(differs)
  const pick = (object: object) =>
    Object.fromEntries(names.filter((name) => name in object).map((name) => [name, object[name as never]]))
  return { before: pick(before), after: pick(after) }
}
