import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import { type NewSpan, type RequestRow, WAITS } from './row.ts'
import { timeline } from './trace.ts'

const T0 = Date.parse('2030-01-01T00:00:00Z')

function request(fields: Partial<RequestRow> = {}): RequestRow {
  return {
    ordinal: 1,
    time: new Date(T0),
    id: 'req_1',
    request_id: 'x',
    environment_id: 'env_1',
    key_id: 'key_1',
    method: 'POST',
    route: '/v2/instances',
    resource: 'inst_a',
    status: 201,
    code: null,
    duration_ms: 10,
    address: '',
    user_agent: null,
    aborted: false,
    sample_rate: 1,
    transactions: [[2, 6]],
    ...fields,
  } as RequestRow
}

function span(name: string, at: number, duration_ms: number, fields: Partial<NewSpan> = {}): NewSpan {
  return {
    environment_id: 'env_1',
    request_id: 'x',
    resource: 'inst_a',
    started_at: new Date(T0 + at),
    name,
    kind: 'step',
    duration_ms,
    status: 'ok',
    waits_for: 'queue',
    detail: {},
    ...fields,
  } as NewSpan
}

const READY = { kind: 'ready', waits_for: null } as const

describe('the timeline of a trace', () => {
  test('places waits between the steps, which add up to the time until ready', () => {
    const row = request()
    const spans = [
      span('create', 15, 5),
      span('start', 21, 4, { waits_for: 'boot' }),
      span('running', 8_000, 6, { ...READY }),
    ]
    const shown = timeline(row, [row], spans, [])
    assert.deepEqual(
      shown.map(({ kind, duration_ms, parent }) => [kind, duration_ms, parent]),
      [
        ['call', 10, null],
        ['transaction', 6, 'POST /v2/instances'],
        ['queue', 5, null],
        ['step', 5, null],
        ['queue', 1, null],
        ['step', 4, null],
        ['boot', 7_975, null],
        ['ready', 6, null],
      ],
    )
    const sum = shown.filter(({ parent }) => parent === null).reduce((sum, { duration_ms }) => sum + duration_ms!, 0)
    assert.equal(sum, 8_006)
  })

  test('the spans of a resource have no gaps and do not overlap, whatever was recorded', () => {
    const recorded = fc.record({
      resource: fc.constantFrom('inst_a', 'inst_b'),
      at: fc.integer({ min: 0, max: 10_000 }),
      duration: fc.double({ min: 0, max: 500, noNaN: true }),
      waits_for: fc.constantFrom(...WAITS),
    })
    fc.assert(
      fc.property(fc.array(recorded, { maxLength: 12 }), (given) => {
        const row = request()
        const spans = given.map(({ resource, at, duration, waits_for }, i) =>
          span(`s${i}`, at, duration, { resource, waits_for }),
        )
        const shown = timeline(row, [row], spans, [])
        for (const resource of new Set(spans.map((each) => each.resource))) {
          const lane = shown.filter(
            (each) => each.resource === resource && !['call', 'transaction'].includes(each.kind),
          )
          const last = lane.pop()!
          assert.deepEqual([last.status, last.duration_ms], ['open', null])
          const sum = 10 + lane.reduce((sum, each) => sum + each.duration_ms!, 0)
          assert.ok(Math.abs(T0 + sum - Date.parse(last.started_at)) < 1 + 0.01 * lane.length, 'it adds up')
          for (const each of lane) assert.ok(each.duration_ms! >= 0)
        }
      }),
    )
  })

  test('a wait for the next step is open, and no wait follows the last step', () => {
    const row = request()
    const booting = timeline(row, [row], [span('start', 20, 5, { waits_for: 'boot' })], []).at(-1)!
    assert.deepEqual([booting.kind, booting.status, booting.duration_ms], ['boot', 'open', null])
    const met = timeline(row, [row], [span('running', 20, 5, { ...READY })], []).at(-1)!
    assert.equal(met.kind, 'ready')
  })

  test('a reused request ID: each write has the later effects on its own resource', () => {
    const first = request()
    const stop = request({ id: 'req_2', ordinal: 2, time: new Date(T0 + 500), route: '/v2/instances/:id/actions/stop' })
    const other = request({ id: 'req_3', ordinal: 3, time: new Date(T0 + 600), resource: 'inst_b' })
    const spans = [span('create', 100, 1), span('power_down', 700, 1), span('create', 800, 1, { resource: 'inst_b' })]
    const names = (row: RequestRow) =>
      timeline(row, [other, stop, first], spans, [])
        .filter(({ kind }) => kind === 'step')
        .map(({ name, resource }) => `${name} ${resource}`)
    assert.deepEqual(names(first), ['create inst_a'])
    assert.deepEqual(names(stop), ['power_down inst_a'])
    assert.deepEqual(names(other), ['create inst_b'])
  })

  test('an event has no duration; a delivery is its child and counts in no sum', () => {
    const row = request()
    const event = {
      id: 'evt_1',
      type: 'instance.ready',
      resource_id: 'inst_a',
      sequence: 7,
      recorded_at: new Date(T0 + 30),
    }
    const delivery = span('attempt', 40, 25, {
      kind: 'delivery',
      resource: 'dlv_1',
      waits_for: null,
      detail: { event: 'instance.ready' },
    })
    const shown = timeline(row, [row], [delivery], [event]).slice(2)
    assert.deepEqual(
      shown.map(({ name, parent, duration_ms }) => [name, parent, duration_ms]),
      [
        ['instance.ready', null, 0],
        ['attempt', 'instance.ready', 25],
      ],
    )
    assert.deepEqual(shown[0]!.detail, { event_id: 'evt_1', sequence: 7 })
  })

  test('a read has no effects, even with the request ID of a write', () => {
    const read = request({ id: 'req_9', ordinal: 9, method: 'GET', transactions: null })
    assert.equal(timeline(read, [request()], [span('create', 15, 5)], []).length, 1)
  })
})
