import { isDeepStrictEqual } from 'node:util'

/** Fields that every change updates. */
const ECHOES = ['version', 'updated_at']

/** The fields of an API representation that a change modified, with their values before and after it. */
export function difference(before: object, after: object): { before: object; after: object } {
  const differs = (name: string) =>
    !ECHOES.includes(name) && !isDeepStrictEqual(before[name as never], after[name as never])
  const names = [...new Set([...Object.keys(before), ...Object.keys(after)])].filter(differs)
  const pick = (object: object) =>
    Object.fromEntries(names.filter((name) => name in object).map((name) => [name, object[name as never]]))
  return { before: pick(before), after: pick(after) }
}
