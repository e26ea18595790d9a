/**
 * Who may do what, for every operation of the OpenAPI document: each with every single scope; and each that names a
 * resource, in its address, its body or its cursor, with one's own, another tenant's, a missing and a malformed one.
 *
 * Everything comes from the document, so a new route is covered as soon as it is there.
 */
import assert from 'node:assert/strict'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, describe, test } from 'node:test'
import type { OpenapiDocument } from '../http/openapi-document.ts'
import { type Call, caller, createTestKey, type Response, testConfig } from '../http/testing.ts'
import { createWorld } from '../instances/testing-world.ts'
import { SCOPES } from '../keys/scopes.ts'
import { ID_LENGTHS, type IdType } from '../lib/id.ts'
import { addressOf, listedType, type Operation, operationsOf, referencesIn } from './document.ts'
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
const stranger = await world.tenant()
const asOwn = caller(app, own.key)
/** Another project, and the other environment of one's own project: equally foreign. */
const STRANGERS: Record<string, Call> = {
  'another project': caller(app, stranger.test.key),
  'the other environment': caller(app, world.live.key),
}
const make = (type: string, call = asOwn, within: string[] = []) =>
  makeResource(type, call, operations, document, within)
const missingId = (type: string) => `${type}_${'z'.repeat(ID_LENGTHS[type as IdType] ?? 10)}`

/** Calls an operation with its example as body, unless another is given. */
function perform(call: Call, operation: Operation, values: Record<string, string>, body = operation.body?.example) {
  const url = addressOf(operation, values)
  return operation.raw
    ? call(operation.method, url, Buffer.from('bytes'), { 'content-type': 'application/octet-stream' })
    : call(operation.method, url, body)
}

/** Lets an instance come up, because much is refused before that. Its clock is frozen, and its machine starts when it likes. */
async function settle(id: string): Promise<void> {
  for (let i = 0; i < 500; i++) {
    if ((await asOwn('GET', `/v2/instances/${id}`)).body.status === 'running') return
    await world.advance(20)
    await deps.clock.sleep(20)
  }
  assert.fail(`${id} does not come up`)
}

/** An answer without what differs between two requests for two ids. */
function shape({ status, body }: Response, ...ids: string[]): string {
  const { instance: _, request_id: __, ...rest } = body
  return ids.reduce((text, id) => text.replaceAll(id, '<id>'), JSON.stringify([status, rest]))
}

describe('scopes', () => {
  const missing = (operation: Operation) =>
    Object.fromEntries(operation.pathParameters.map(({ name, type }) => [name, missingId(type ?? 'none')]))

  test('every operation asks for a scope that exists, for any key, or for none', () => {
    assert.ok(operations.length > 20)
    for (const operation of operations) {
      const known = [...SCOPES, 'any', 'none'] as string[]
      assert.ok(known.includes(operation.scope), `${name(operation)}: ${operation.scope}`)
      if (operation.path.startsWith('/v2/')) assert.notEqual(operation.scope, 'none', name(operation))
    }
  })

  for (const scope of [...SCOPES, null]) {
    test(`a key with ${scope ?? 'no scope'} is let in where that is asked for, and nowhere else`, async () => {
      const { key } = await createTestKey(deps, own.principal, scope ? [scope] : [])
      const call = caller(app, key)
      for (const operation of operations) {
        // Of a resource that is missing, and without a body: so that being let in has no effect.
        const { status, body } = await call(operation.method, addressOf(operation, missing(operation)))
        if (['any', 'none', scope].includes(operation.scope)) {
          assert.ok(status !== 401 && status !== 403, `${name(operation)}: ${status}`)
        } else {
          assert.deepEqual([status, body.code], [403, 'insufficient_scope'], name(operation))
          assert.equal(body.required_scope, operation.scope)
        }
      }
    })
  }

  test('without a key there is only what asks for none', async () => {
    for (const operation of operations) {
      const address = addressOf(operation, missing(operation))
      const { status, headers } = await asOwn(operation.method, address, undefined, { authorization: '' })
      if (operation.scope === 'none') assert.notEqual(status, 401, name(operation))
      else assert.deepEqual([status, headers['www-authenticate']], [401, 'Bearer'], name(operation))
    }
  })
})

describe('resources in addresses', () => {
  // What is administered across projects is nobody's own.
  const bound = operations.filter(({ scope, pathParameters }) => scope !== 'admin' && pathParameters.length > 0)

  for (const operation of bound) {
    const typed = operation.pathParameters.filter(({ type }) => type !== null)

    test(`${name(operation)}: one's own is found`, async () => {
      const values: Record<string, string> = {}
      for (const { name, type, schema } of operation.pathParameters) {
        values[name] = type
          ? await make(type, asOwn, Object.values(values))
          : String(schema.examples?.[0] ?? assert.fail(`${name} has no example`))
      }
      const { status, body } = await perform(asOwn, operation, values)
      assert.ok(status < 300 || status === 409, `${status} ${JSON.stringify(body)}`)
    })

    test(`${name(operation)}: malformed is 404`, async () => {
      for (const text of ['inst', 'INST_3X9Y2Z1A0B', "x' or '1'='1", '../../etc/passwd', 'x'.repeat(90), '😀', '-']) {
        const values = Object.fromEntries(operation.pathParameters.map(({ name }) => [name, text]))
        const { status, body } = await perform(asOwn, operation, values)
        assert.deepEqual([status, body.code], [404, 'not_found'], text)
      }
    })

    if (typed.length === 0) continue
    for (const [whose, call] of Object.entries(STRANGERS)) {
      test(`${name(operation)}: that of ${whose} is as missing as a missing one`, async () => {
        for (const foreign of typed) {
          const values: Record<string, string> = {}
          for (const { name, type } of typed) values[name] = await make(type!, type === foreign.type ? call : asOwn)
          const absent = { ...values, [foreign.name]: missingId(foreign.type!) }
          const theirs = await perform(asOwn, operation, values)
          const nobodys = await perform(asOwn, operation, absent)
          assert.equal(theirs.status, 404, JSON.stringify(theirs.body))
          const ids = [...Object.values(values), ...Object.values(absent)]
          assert.equal(shape(theirs, ...ids), shape(nobodys, ...ids))
          assert.deepEqual(Object.keys(theirs.headers).sort(), Object.keys(nobodys.headers).sort())
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
  test('there are some', () => {
    const found = named.map(({ operation, at }) => `${operation.id} /${at.join('/')}`)
    for (const one of ['image', 'network/subnet_id', 'ssh_keys/0']) assert.ok(found.includes(`createInstance /${one}`))
  })

  for (const { operation, at, type } of named) {
    const pointer = `/${at.join('/')}`
    const send = async (id: string) => {
      const values: Record<string, string> = {}
      for (const { name, type } of operation.pathParameters) values[name] = await make(type!)
      for (const id of Object.values(values)) if (id.startsWith('inst_')) await settle(id)
      return perform(asOwn, operation, values, put(operation.body!.example ?? {}, at, id))
    }

    test(`${name(operation)} ${pointer}: one's own is taken, another's is as unknown as a missing one`, async () => {
      const mine = await send(await make(type))
      assert.ok(mine.status < 300 || mine.status === 409, `${mine.status} ${JSON.stringify(mine.body)}`)
      const absent = missingId(type)
      const nobodys = await send(absent)
      assert.equal(nobodys.status, 422)
      assert.deepEqual(
        nobodys.body.errors.map((error: { pointer: string }) => error.pointer),
        [pointer],
      )
      for (const call of Object.values(STRANGERS)) {
        const theirs = await make(type, call)
        assert.equal(shape(await send(theirs), theirs), shape(nobodys, absent))
      }
    })
  }
})

describe('cursors', () => {
  const lists = operations.filter(
    ({ query, scope }) => scope !== 'admin' && query.some(({ name }) => name === 'cursor'),
  )
  for (const operation of lists) {
    test(`${name(operation)}: only the cursor of one's own list is taken`, async () => {
      const type = listedType(document, operation)
      const cursorOf = async (call: Call) => {
        const values: Record<string, string> = {}
        for (const { name, type } of operation.pathParameters) values[name] = await make(type!, call)
        for (let i = 0; i < 2 && type; i++) {
          // Of an instance there is more to tell when it changes.
          const changed = type === 'evt' && values.id
          if (changed) await call('PUT', `/v2/instances/${changed}`, { tags: { change: String(i) } })
          else await make(type, call, Object.values(values))
        }
        const url = addressOf(operation, values)
        return { url, cursor: (await call('GET', `${url}?limit=1`)).body.pagination.next_cursor as string | null }
      }
      const mine = await cursorOf(asOwn)
      // What the installation has may be one thing.
      if (mine.cursor === null) return assert.equal(type, null, 'two were made, and there is no second page')
      assert.equal((await asOwn('GET', `${mine.url}?limit=1&cursor=${mine.cursor}`)).status, 200)
      for (const call of Object.values(STRANGERS)) {
        const { cursor } = await cursorOf(call)
        const { status, body } = await asOwn('GET', `${mine.url}?limit=1&cursor=${cursor}`)
        assert.deepEqual([status, body.code], [400, 'invalid_cursor'])
      }
    })
  }
})

test('a type of resource that nobody can make is named, with what to do', async () => {
  await assert.rejects(make('nope'), /nope_…: add an entry for it to MAKERS in server\/src\/fuzz\/resources\.ts/)
})

/** A copy of the body with another value at a place; objects and lists on the way are made. */
function put(body: unknown, [key, ...rest]: string[], value: unknown): unknown {
  if (key === undefined) return value
  const inner = put((body as Record<string, unknown> | undefined)?.[key], rest, value)
  return key === '0' ? [inner] : { ...(body as object), [key]: inner }
}
