/** The steps of the fuzzer's two tenants: each is an operation of the document and at most one attack. */
import fc from 'fast-check'
import type { NamedSchemas } from '../http/examples.ts'
import type { Operation } from './document.ts'
import { BODIES, CONTENT_TYPES, HEADERS, KEYS, TEXTS, VALUES } from './hostile.ts'
import { createValues, ORIGINS, Pick, pick } from './values.ts'

/** One change of a body, at its n-th node in document order. */
export type Mutation = { at: number; change: 'replace' | 'remove' | 'add'; key: string; value: unknown }

export const BAD_KEYS = ['none', 'empty', 'basic', 'garbled', 'unknown', 'query', 'twice'] as const

/** What is wrong with a request; most requests have no attack. */
export type Attack =
  | { kind: 'none' }
  | { kind: 'key'; how: (typeof BAD_KEYS)[number] }
  | { kind: 'method'; method: string }
  | { kind: 'content_type'; type: string }
  | { kind: 'body'; body: string | Buffer }
  | { kind: 'headers'; headers: Record<string, string | string[]> }
  | { kind: 'path'; at: number; text: string }
  | { kind: 'query'; name: string; values: string[] }
  | { kind: 'json'; mutations: Mutation[] }

/**
 * The key of a request: that of the tenant, one of the same scopes with a budget, or one that is revoked while the request
 * runs.
 */
export type By = 'tenant' | 'budget' | 'revoked'

export type CallStep = {
  step: 'call'
  tenant: 0 | 1
  by: By
  operation: Operation
  path: (Pick | string)[]
  query: Record<string, unknown>
  body: unknown
  attack: Attack
}
export type Step =
  | CallStep
  /** Advances the tenant's clock. */
  | { step: 'advance'; tenant: 0 | 1; seconds: number }
  /** Reads the next page of an earlier list. */
  | { step: 'page'; tenant: 0 | 1; n: number }

/** Sequences of steps over these operations. */
export function sequences(operations: Operation[], named: NamedSchemas): fc.Arbitrary<Step[]> {
  const valueFor = createValues(named)
  const tenant = fc.constantFrom<0 | 1>(0, 1)
  const by = fc.constantFrom<By>(...Array<By>(10).fill('tenant'), 'budget', 'budget', 'revoked')
  const types = operations.flatMap((one) => one.pathParameters.flatMap(({ type }) => type ?? []))
  const mutation = mutationWith([...new Set(types)])
  const calls = operations.map((operation): fc.Arbitrary<Step> => {
    const query = Object.fromEntries(operation.query.map(({ name, schema }) => [name, valueFor(schema, name)]))
    const parameter = ({ type, schema }: Operation['pathParameters'][number]) =>
      type ? pathPick(type) : fc.constant(String(schema.examples?.[0] ?? 'x'))
    return fc.record({
      step: fc.constant('call' as const),
      tenant,
      by,
      operation: fc.constant(operation),
      path: fc.tuple(...operation.pathParameters.map(parameter)),
      query: fc.oneof(
        { weight: 2, arbitrary: fc.constant({}) },
        { weight: 1, arbitrary: fc.record(query, { requiredKeys: [] }) },
      ),
      body: bodyOf(operation, valueFor),
      attack: attackOn(operation, mutation),
    })
  })
  const step = fc.oneof(
    ...calls.map((arbitrary) => ({ weight: 10, arbitrary })),
    {
      weight: 25,
      arbitrary: fc.record({
        step: fc.constant('advance' as const),
        tenant,
        seconds: fc.constantFrom(1, 10, 60, 90_000),
      }),
    },
    { weight: 5, arbitrary: fc.record({ step: fc.constant('page' as const), tenant, n: fc.nat(10) }) },
  )
  return fc.array(step, { minLength: 1, maxLength: 60, size: 'max' })
}

/** Mostly an own resource; else one of the other tenant, a deleted one, or a missing one. */
function pathPick(type: string): fc.Arbitrary<Pick> {
  return fc.oneof(
    ...ORIGINS.map((from) => ({
      weight: from === 'own' ? 12 : from === 'missing' ? 1 : 2,
      arbitrary: pick(type, from),
    })),
  )
}

function bodyOf({ body, isRaw }: Operation, valueFor: ReturnType<typeof createValues>): fc.Arbitrary<unknown> {
  if (isRaw) return fc.uint8Array({ maxLength: 2_000 })
  if (!body) return fc.constant(undefined)
  const values = fc.oneof(
    { weight: 3, arbitrary: valueFor(body.schema) },
    { weight: 1, arbitrary: fc.constant(body.example) },
  )
  return body.required
    ? values
    : fc.oneof({ weight: 2, arbitrary: values }, { weight: 1, arbitrary: fc.constant(undefined) })
}

function attackOn(
  { body, isRaw, scope, pathParameters }: Operation,
  mutation: fc.Arbitrary<Mutation>,
): fc.Arbitrary<Attack> {
  const attack = <T extends Attack>(weight: number, arbitrary: fc.Arbitrary<T>) => [
    { weight, arbitrary: arbitrary as fc.Arbitrary<Attack> },
  ]
  const kind = <K extends Attack['kind']>(name: K) => fc.constant(name)
  return fc.oneof(
    { weight: 12, arbitrary: fc.constant({ kind: 'none' } as Attack) },
    ...attack(2, fc.record({ kind: kind('headers'), headers: fc.constantFrom(...HEADERS) })),
    ...attack(
      3,
      fc.record({
        kind: kind('query'),
        name: fc.nat(30).map(String),
        values: fc.array(text, { minLength: 1, maxLength: 3 }),
      }),
    ),
    ...attack(
      1,
      fc.record({
        kind: kind('method'),
        method: fc.constantFrom('PATCH', 'PUT', 'DELETE', 'POST', 'GET', 'OPTIONS', 'PROPFIND', 'TRACE'),
      }),
    ),
    ...(scope === 'none' ? [] : attack(2, fc.record({ kind: kind('key'), how: fc.constantFrom(...BAD_KEYS) }))),
    ...(pathParameters.length === 0 ? [] : attack(2, fc.record({ kind: kind('path'), at: fc.nat(3), text }))),
    ...(body || isRaw
      ? attack(1, fc.record({ kind: kind('content_type'), type: fc.constantFrom(...CONTENT_TYPES) }))
      : []),
    ...(body ? attack(2, fc.record({ kind: kind('body'), body: fc.constantFrom(...BODIES) })) : []),
    ...(body
      ? attack(10, fc.record({ kind: kind('json'), mutations: fc.array(mutation, { minLength: 1, maxLength: 3 }) }))
      : []),
  )
}

const text = fc.oneof(
  { weight: 3, arbitrary: fc.constantFrom(...TEXTS) },
  { weight: 1, arbitrary: fc.string({ unit: 'binary', maxLength: 40 }) },
)
/** @param types resource types whose IDs appear in wrong fields */
const mutationWith = (types: string[]): fc.Arbitrary<Mutation> =>
  fc.record({
    at: fc.nat(40),
    change: fc.constantFrom('replace', 'replace', 'replace', 'remove', 'add'),
    key: fc.oneof(
      fc.constantFrom(...KEYS),
      fc.constantFrom('host', 'status', 'project_id', 'environment_id', 'price', 'id'),
    ),
    value: fc.oneof(fc.constantFrom(...VALUES), text, foreignOf(types)),
  })

const foreignOf = (types: string[]) =>
  fc
    .tuple(fc.constantFrom(...types), fc.constantFrom(...ORIGINS), fc.nat(20))
    .map(([type, from, n]) => new Pick(type, from, n))
