import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import Fastify from 'fastify'
import { createApp } from '../app.ts'
import type { Deps } from '../deps.ts'
import { systemClock as clock } from '../lib/clock.ts'
import { silentLog as log } from '../lib/log.ts'
import { systemRandom as random } from '../lib/random.ts'
import { compileWhenIdle, createRouteSchemas } from './lazy-schemas.ts'
import { testConfig } from './testing.ts'

/** An app of two routes that share a response schema; `broken` has a query schema that no compiler accepts. */
async function smallApp() {
  const schemas = createRouteSchemas()
  const app = Fastify({ schemaController: { compilersFactory: schemas.compilersFactory as never } })
  const response = { 200: { type: 'object', properties: { count: { type: 'integer' } } } }
  const querystring = { type: 'object', properties: { count: { type: 'integer' } } }
  app.get('/small', { exposeHeadRoute: false, schema: { querystring, response } }, async ({ query }) => query)
  const broken = { type: 'object', properties: { count: { $ref: 'missing#' } } }
  app.get('/broken', { exposeHeadRoute: false, schema: { querystring: broken, response } }, async () => ({}))
  await app.ready()
  return { app, schemas }
}

/** Compiles what has not been compiled, and returns the messages of the errors. */
function compileAll({ compileNext }: ReturnType<typeof createRouteSchemas>): string[] {
  const errors: string[] = []
  for (;;) {
    try {
      if (!compileNext()) return errors
    } catch (error) {
      errors.push((error as Error).message)
    }
  }
}

describe('route schemas', () => {
  test('every route of the API has schemas that can be compiled', async () => {
    const schemas = createRouteSchemas()
    const notifier = { onChange() {} }
    const { signal: stopping } = new AbortController()
    const deps = {
      config: testConfig,
      clock,
      log,
      random,
      notifier,
      stopping,
      secrets: {},
      regions: [],
    } as unknown as Deps
    const app = await createApp(deps, { ready: async () => [], schemas })
    await app.ready()
    app.swagger()
    assert.deepEqual(compileAll(schemas), [])
    await app.close()
  })

  test('an error names the route and the part of a schema that cannot be compiled', async () => {
    const { app, schemas } = await smallApp()
    assert.deepEqual(compileAll(schemas), [
      "The schema of GET /broken (querystring) cannot be compiled: can't resolve reference missing# from id #",
    ])
    await app.close()
  })

  test('a request compiles the schemas that it needs, and no others', async () => {
    const { app, schemas } = await smallApp()
    const response = await app.inject('/small?count=3')
    assert.deepEqual([response.statusCode, response.json()], [200, { count: 3 }])
    assert.equal((await app.inject('/small?count=x')).statusCode, 400)
    assert.equal((await app.inject('/broken')).statusCode, 500)
    assert.equal(compileAll(schemas).length, 0, 'the response schema of /broken is left')
    await app.close()
  })
})

describe('compiling in idle time', () => {
  const running = new AbortController().signal

  test('compiles every schema and then ends', async () => {
    const left = ['a', 'b', 'c']
    const schemas = { ...createRouteSchemas(), compileNext: () => left.pop() !== undefined }
    await compileWhenIdle(schemas, { clock, log, signal: running, busyShare: () => 0 })
    assert.deepEqual(left, [])
  })

  test('compiles nothing while the event loop has work', async () => {
    const shares = [0, 1, 0, 0.9, 0, 0.5, 0, 0.1, 0, 0.1]
    const busyAtCompile: number[] = []
    const busyShare = () => shares.shift()!
    const schemas = { ...createRouteSchemas(), compileNext: () => busyAtCompile.push(shares.length) < 2 }
    await compileWhenIdle(schemas, { clock, log, signal: running, busyShare })
    assert.deepEqual(busyAtCompile, [2, 0])
  })

  test('ends when the process stops', async () => {
    const stopping = new AbortController()
    let compiled = 0
    const compileNext = () => {
      if (++compiled === 2) stopping.abort()
      return true
    }
    await compileWhenIdle(
      { ...createRouteSchemas(), compileNext },
      { clock, log, signal: stopping.signal, busyShare: () => 0 },
    )
    assert.equal(compiled, 2)
  })

  test('records a schema that cannot be compiled and continues with the next', async () => {
    const errors: object[] = []
    const left = [false, true, false, true]
    const compileNext = () => {
      const isBroken = left.shift()
      if (isBroken) throw new Error('broken')
      return isBroken !== undefined
    }
    const recording = { ...log, error: (fields: object) => void errors.push(fields) }
    const schemas = { ...createRouteSchemas(), compileNext }
    await compileWhenIdle(schemas, { clock, log: recording, signal: running, busyShare: () => 0 })
    assert.deepEqual(errors, [{ error: 'broken' }, { error: 'broken' }])
  })
})
