/**
 * The bodies that cost most to reject, generated from a schema of the OpenAPI document: at each place of a list, of an
 * object and of a text, as many entries, fields or characters as fit.
 */
type Schema = Record<string, any>

export type WorstBody = { name: string; body: unknown }

/** Entries that fail early, late or in each branch of a union. Some are equal, some differ. */
const ITEMS: Record<string, (i: number) => unknown> = {
  'empty texts': () => '',
  numbers: (i) => i,
  nulls: () => null,
  objects: () => ({}),
  'objects with a field': (i) => ({ [`f${i}`]: 1 }),
  lists: () => [],
}
const TEXTS: Record<string, string> = {
  letters: 'a',
  spaces: ' ',
  'line feeds': '\n',
  emoji: '😀',
  minus: '-',
  dots: '1.',
}
const MAX_DEPTH = 6

/** @param components the schemas to which `#/components/schemas/…` refers */
export function worstBodies(schema: Schema, components: Record<string, Schema>, bytes: number): WorstBody[] {
  const bodies: WorstBody[] = []
  const add = (path: string[], kind: string, value: unknown) =>
    bodies.push({
      name: `/${path.join('/')}: ${kind}`,
      body: path.reduceRight((inner, name) => wrap(name, inner), value),
    })

  function visit(given: Schema, path: string[]): void {
    if (path.length > MAX_DEPTH) return
    const { $ref, anyOf = [], oneOf = [], allOf = [], items, properties, additionalProperties, type } = given
    if ($ref) visit(components[$ref.split('/').at(-1)!]!, path)
    for (const each of [...anyOf, ...oneOf, ...allOf]) visit(each, path)
    if (items) {
      for (const [kind, item] of Object.entries(ITEMS)) add(path, kind, repeated(item, bytes))
      visit(items, [...path, '*'])
    }
    if (properties || additionalProperties) add(path, 'fields', fields(bytes))
    for (const [name, each] of Object.entries(properties ?? {})) visit(each as Schema, [...path, name])
    if (typeof additionalProperties === 'object') visit(additionalProperties, [...path, 'any'])
    if (type === 'string') for (const [kind, text] of Object.entries(TEXTS)) add(path, kind, text.repeat(bytes / 4))
  }
  visit(schema, [])
  return bodies
}

const wrap = (name: string, inner: unknown) => (name === '*' ? [inner] : { [name]: inner })

function repeated(item: (i: number) => unknown, bytes: number): unknown[] {
  const count = Math.floor(bytes / (JSON.stringify(item(100_000)).length + 1))
  return Array.from({ length: count }, (_, i) => item(i))
}

function fields(bytes: number): object {
  return Object.fromEntries(Array.from({ length: Math.floor(bytes / 12) }, (_, i) => [`f${i}`, 1]))
}
