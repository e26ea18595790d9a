/**
 * Authorization of every operation in the OpenAPI document: each operation with each single scope, and each reference to a
 * resource, in the URL, the body or the cursor, with an own, another tenant's, a missing and a malformed one.
 *
 * The tests are generated from the document, so they cover a new route without a change.
 */
import assert from 'node:assert/strict'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, describe, test } from 'node:test'
import type { OpenapiDocument } from '../http/openapi-document.ts'
import { type Call, caller, createTestKey, type Response, testConfig } from '../http/testing.ts'
import { createWorld } from '../instances/testing-world.ts'
import { SCOPES, type Scope } from '../keys/scopes.ts'
import { ID_LENGTHS, type IdType } from '../lib/id.ts'
import { listedType, type Operation, operationsOf, referencesIn, urlOf } from './document.ts'
import { makeResource } from './resources.ts'

const data_dir = mkdtempSync(join(tmpdir(), 'cn-matrix-'))
const world = await createWorld({ deps: { config: { ...testConfig, data_dir } } })
after(async () => {
  await world.stop()
  rmSync(data_dir, { recursive: true })
})
const { app, deps } = world
await app.ready()
const document = app.swagger() as unknown as OpenapiDocument
const operations = operationsOf(document)
const name = ({ method, path }: Operation) => `${method} ${path}`

const own = world.test
const otherTenant = await world.tenant()
const asOwn = caller(app, own.key)
/** Other environments: of another project, and of the same project. */
const OTHERS: Record<string, Call> = {
  'another project': caller(app, otherTenant.test.key),
  'the other environment': caller(app, world.live.key),
}
const make = (type: string, call = asOwn, within: string[] = []) =>
  makeResource(type, call, operations, document, within)
const missingId = (type: string) => `${type}_${'z'.repeat(ID_LENGTHS[type as IdType] ?? 10)}`

/** Calls an operation, by default with its example body. */
function perform(call: Call, operation: Operation, values: Record<string, string>, body = operation.body?.example) {
  const url = urlOf(operation, values)
  return operation.isRaw
    ? call(operation.method, url, Buffer.from('bytes'), { 'content-type': 'application/octet-stream' })
    : call(operation.method, url, body)
}

/** Advances the frozen clock until the instance runs: many requests return 409 before that. */
async function waitUntilRunning(id: string): Promise<void> {
  for (let i = 0; i < 500; i++) {
    if ((await asOwn('GET', `/v2/instances/${id}`)).body.status === 'running') return
    await world.advance(20)
    await deps.clock.sleep(20)
  }
  assert.fail(`${id} is not running`)
}

/** A response without the parts that differ between requests for different IDs. */
function shape({ status, body }: Response, ...ids: string[]): string {
  const { instance: _, request_id: __, ...rest } = body
  return ids.reduce((text, id) => text.replaceAll(id, '<id>'), JSON.stringify([status, rest]))
}

/** Path parameters of resources that do not exist. */
const missing = (operation: Operation) =>
  Object.fromEntries(operation.pathParameters.map(({ name, type }) => [name, missingId(type ?? 'none')]))

describe('scopes', () => {
  test('every operation requires an existing scope, any key, or no key', () => {
    assert.ok(operations.length > 20)
    for (const operation of operations) {
      const known = [...SCOPES, 'any', 'none'] as string[]
      assert.ok(known.includes(operation.scope), `${name(operation)}: ${operation.scope}`)
      if (operation.path.startsWith('/v2/')) assert.notEqual(operation.scope, 'none', name(operation))
    }
  })

  for (const scope of [...SCOPES, null]) {
    test(`a key with ${scope ?? 'no scope'} can call exactly the operations that require it`, async () => {
      const { key } = await createTestKey(deps, own.principal, scope ? [scope] : [])
      const call = caller(app, key)
      for (const operation of operations) {
        // A missing resource and no body, so that an authorized request has no effect.
        const { status, body } = await call(operation.method, urlOf(operation, missing(operation)))
        if (['any', 'none', scope].includes(operation.scope)) {
          assert.ok(status !== 401 && status !== 403, `${name(operation)}: ${status}`)
        } else {
          assert.deepEqual([status, body.code], [403, 'insufficient_scope'], name(operation))
          assert.equal(body.required_scope, operation.scope)
        }
      }
    })
  }

  test('returns 401 without a key, except for operations that require none', async () => {
    for (const operation of operations) {
      const url = urlOf(operation, missing(operation))
      const { status, headers } = await asOwn(operation.method, url, undefined, { authorization: '' })
      if (operation.scope === 'none') assert.notEqual(status, 401, name(operation))
      else assert.deepEqual([status, headers['www-authenticate']], [401, 'Bearer'], name(operation))
    }
  })
})

describe('parameters with a scope of their own', () => {
  const scoped = operations.flatMap((operation) =>
    operation.query.flatMap(({ name, schema }) => {
      const { 'x-scope': scope, enum: words = [] } = schema as { 'x-scope'?: Scope; enum?: string[] }
      return scope ? [{ operation, parameter: `${name}=${words[0]}`, scope }] : []
    }),
  )
  const urlOfOwn = async (operation: Operation) => {
    const values = operation.pathParameters.map(async ({ name, type }) => [name, await make(type!)] as const)
    return urlOf(operation, Object.fromEntries(await Promise.all(values)))
  }
  const withScopes = async ({ principal }: typeof own, ...scopes: string[]) =>
    caller(
      app,
      (
        await createTestKey(
          deps,
          principal,
          SCOPES.filter((each) => scopes.includes(each)),
        )
      ).key,
    )

  test('are those that read across projects', () => {
    assert.deepEqual(scoped.map(({ operation, parameter, scope }) => `${operation.id} ${parameter} ${scope}`).sort(), [
      'getRequest project=any admin',
      'listRequests project=any admin',
    ])
  })

  for (const { operation, parameter, scope } of scoped) {
    test(`${name(operation)}?${parameter}: requires both scopes and a key of the first project`, async () => {
      const url = `${await urlOfOwn(operation)}?${parameter}`
      for (const [missing, call] of [
        [scope, await withScopes(own, ...SCOPES.filter((each) => each !== scope))],
        [operation.scope, await withScopes(own, ...SCOPES.filter((each) => each !== operation.scope))],
        [undefined, await withScopes(otherTenant.test, ...SCOPES)],
        [undefined, await withScopes(otherTenant.live, operation.scope, scope)],
      ] as const) {
        const { status, body } = await call(operation.method, url)
        assert.deepEqual([status, body.code, body.required_scope], [403, 'insufficient_scope', missing])
      }
      for (const key of [own, world.live]) {
        const call = await withScopes(key, operation.scope, scope)
        assert.equal((await call(operation.method, url)).status, 200)
      }
    })
  }

  test('no other operation accepts them', async () => {
    const names = new Set(scoped.map(({ operation }) => operation.id))
    const others = operations.filter(({ id, scope }) => !names.has(id) && scope !== 'none')
    for (const operation of others.filter(({ method }) => method === 'GET')) {
      const { status } = await asOwn('GET', `${urlOf(operation, missing(operation))}?project=any`)
      assert.ok(status === 400 || status === 404, `${name(operation)}: ${status}`)
    }
  })
})

describe('resources in URLs', () => {
  // Operations of the operator are not bound to a project.
  const bound = operations.filter(({ scope, pathParameters }) => scope !== 'admin' && pathParameters.length > 0)

  for (const operation of bound) {
    const typed = operation.pathParameters.filter(({ type }) => type !== null)

    test(`${name(operation)}: finds an own resource`, async () => {
      const values: Record<string, string> = {}
      for (const { name, type, schema } of operation.pathParameters) {
        values[name] = type
          ? await make(type, asOwn, Object.values(values))
          : String(schema.examples?.[0] ?? assert.fail(`${name} has no example`))
      }
      const { status, body } = await perform(asOwn, operation, values)
      assert.ok(status < 300 || status === 409, `${status} ${JSON.stringify(body)}`)
    })

    test(`${name(operation)}: returns 404 for a malformed ID`, async () => {
      for (const text of ['inst', 'INST_3X9Y2Z1A0B', "x' or '1'='1", '../../etc/passwd', 'x'.repeat(90), '😀', '-']) {
        const values = Object.fromEntries(operation.pathParameters.map(({ name }) => [name, text]))
        const { status, body } = await perform(asOwn, operation, values)
        assert.deepEqual([status, body.code], [404, 'not_found'], text)
      }
    })

    if (typed.length === 0) continue
    for (const [whose, call] of Object.entries(OTHERS)) {
      test(`${name(operation)}: returns the same 404 for a resource of ${whose} as for a missing one`, async () => {
        for (const parameter of typed) {
          const values: Record<string, string> = {}
          for (const { name, type } of typed) values[name] = await make(type!, type === parameter.type ? call : asOwn)
          const absent = { ...values, [parameter.name]: missingId(parameter.type!) }
          const foreign = await perform(asOwn, operation, values)
          const missing = await perform(asOwn, operation, absent)
          assert.equal(foreign.status, 404, JSON.stringify(foreign.body))
          const ids = [...Object.values(values), ...Object.values(absent)]
          assert.equal(shape(foreign, ...ids), shape(missing, ...ids))
          assert.deepEqual(Object.keys(foreign.headers).sort(), Object.keys(missing.headers).sort())
        }
      })
    }
  }
})

describe('resources in bodies', () => {
  const named = operations.flatMap((operation) =>
    (operation.body ? referencesIn(document, operation.body.schema) : []).map((reference) => ({
      operation,
      ...reference,
    })),
  )
  test('the document has references in bodies', () => {
    const found = named.map(({ operation, at }) => `${operation.id} /${at.join('/')}`)
    for (const one of ['image', 'network/subnet_id', 'ssh_keys/0']) assert.ok(found.includes(`createInstance /${one}`))
  })

  for (const { operation, at, type } of named) {
    const pointer = `/${at.join('/')}`
    const send = async (id: string) => {
      const values: Record<string, string> = {}
      for (const { name, type } of operation.pathParameters) values[name] = await make(type!)
      for (const id of Object.values(values)) if (id.startsWith('inst_')) await waitUntilRunning(id)
      return perform(asOwn, operation, values, put(operation.body!.example ?? {}, at, id))
    }

    test(`${name(operation)} ${pointer}: accepts an own resource; returns the same 422 for another tenant's as for a missing one`, async () => {
      const mine = await send(await make(type))
      assert.ok(mine.status < 300 || mine.status === 409, `${mine.status} ${JSON.stringify(mine.body)}`)
      const absent = missingId(type)
      const missing = await send(absent)
      assert.equal(missing.status, 422)
      assert.deepEqual(
        missing.body.errors.map((error: { pointer: string }) => error.pointer),
        [pointer],
      )
      for (const call of Object.values(OTHERS)) {
        const foreign = await make(type, call)
        assert.equal(shape(await send(foreign), foreign), shape(missing, absent))
      }
    })
  }
})

describe('cursors', () => {
  const lists = operations.filter(
    ({ query, scope }) => scope !== 'admin' && query.some(({ name }) => name === 'cursor'),
  )
  for (const operation of lists) {
    test(`${name(operation)}: returns 400 for the cursor of another tenant`, async () => {
      const type = listedType(document, operation)
      const cursorOf = async (call: Call) => {
        const values: Record<string, string> = {}
        for (const { name, type } of operation.pathParameters) values[name] = await make(type!, call)
        for (let i = 0; i < 2 && type; i++) {
          // A change of the instance emits another event.
          const changed = type === 'evt' && values.id
          if (changed) await call('PUT', `/v2/instances/${changed}`, { tags: { change: String(i) } })
          else await make(type, call, Object.values(values))
        }
        const url = urlOf(operation, values)
        return { url, cursor: (await call('GET', `${url}?limit=1`)).body.pagination.next_cursor as string | null }
      }
      const mine = await cursorOf(asOwn)
      // A list of what the installation defines can have one page.
      if (mine.cursor === null) return assert.equal(type, null, 'two resources, but no second page')
      assert.equal((await asOwn('GET', `${mine.url}?limit=1&cursor=${mine.cursor}`)).status, 200)
      for (const call of Object.values(OTHERS)) {
        const { cursor } = await cursorOf(call)
        const { status, body } = await asOwn('GET', `${mine.url}?limit=1&cursor=${cursor}`)
        assert.deepEqual([status, body.code], [400, 'invalid_cursor'])
      }
    })
  }
})

test('a type without a factory throws an error with instructions', async () => {
  await assert.rejects(make('nope'), /nope_…: add an entry to FACTORIES in server\/src\/fuzz\/resources\.ts/)
})

/** A copy of the body with another value at a pointer; creates the objects and lists on the way. */
function put(body: unknown, [key, ...rest]: string[], value: unknown): unknown {
  if (key === undefined) return value
  const inner = put((body as Record<string, unknown> | undefined)?.[key], rest, value)
  return key === '0' ? [inner] : { ...(body as object), [key]: inner }
}
