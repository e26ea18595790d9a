import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { type InstanceRow, STATUSES } from '../instances/row.ts'
import { eventsOf, MOVES } from '../instances/status.ts'
import { expectedEvents, isTransition, type RowImage } from './expected-events.ts'

const ROW: RowImage = {
  ...{ status: 'running', name: 'api-1', tags: { env: 'test' }, version: 3, user_data: null },
  ...{
    wanted_plan: 'micro-1x',
    wanted_size_before: null,
    wanted_public_ip: null,
    wanted_disk: 1,
    observed_ready_disk: 1,
  },
}
const changed = (before: Partial<RowImage>, after: Partial<RowImage>) =>
  expectedEvents({ ...ROW, ...before }, { ...ROW, ...after })

test('a new instance is created', () => assert.deepEqual(expectedEvents(null, ROW), ['instance.created']))

test('a guest that is ready emits one event, by what the instance did before', () => {
  for (const [status, type] of [
    ['starting', 'instance.started'],
    ['failed', 'instance.started'],
    ['rebooting', 'instance.rebooted'],
    ['recovering', 'instance.recovered'],
  ] as const) {
    assert.deepEqual(changed({ status }, { status: 'running' }), [type])
  }
  assert.deepEqual(changed({ status: 'provisioning', observed_ready_disk: 0 }, { status: 'running' }), [
    'instance.ready',
  ])
})

test('a complete resize emits scaled and no started or stopped', () => {
  const resizing = { status: 'resizing', wanted_size_before: { plan: 'micro-1x' } }
  assert.deepEqual(changed(resizing, { status: 'running' }), ['instance.scaled'])
  assert.deepEqual(changed(resizing, { status: 'stopped' }), ['instance.scaled'])
  assert.deepEqual(changed(resizing, { ...resizing, status: 'failed' }), ['instance.failed'])
})

test('a change of any column that a client writes is an update', () => {
  assert.deepEqual(changed({}, { name: 'api-2' }), ['instance.updated'])
  assert.deepEqual(changed({}, { tags: {} }), ['instance.updated'])
  assert.deepEqual(changed({}, { wanted_public_ip: '127.90.1.7' }), ['instance.updated'])
  assert.deepEqual(changed({ image: 'a', wanted_disk: 1 }, { image: 'b', wanted_disk: 2 }), [])
  assert.deepEqual(changed({}, { version: 4, observed_ready: true }), [])
})

test('a transition without a rule matches no event', () => {
  assert.deepEqual(changed({ status: 'stopped' }, { status: 'running' }), ['no rule for stopped → running'])
})

test('agrees with the control plane on every change of its transitions', () => {
  const status = fc.constantFrom(...STATUSES)
  const row = fc.record({
    status,
    name: fc.constantFrom('a', 'b'),
    tags: fc.constantFrom({}, { env: 'test' }),
    wanted_plan: fc.constantFrom('micro-1x', 'standard-1x'),
    wanted_size_before: fc.constantFrom(null, { plan: 'micro-1x' }),
    wanted_public_ip: fc.constantFrom(null, '127.90.1.7'),
    wanted_disk: fc.constantFrom(1, 2),
    observed_ready_disk: fc.constantFrom(0, 1, 2),
  })
  fc.assert(
    fc.property(row, row, (before, after) => {
      fc.pre(before.status === after.status || MOVES[before.status].includes(after.status))
      // A guest becomes ready for the first time on each disk.
      fc.pre(before.status !== 'provisioning' || before.observed_ready_disk < after.wanted_disk)
      const [from, to] = [before, after] as unknown as [InstanceRow, InstanceRow]
      assert.deepEqual(expectedEvents(before, after), eventsOf(from, to))
    }),
  )
  for (const from of STATUSES) {
    for (const to of STATUSES) assert.equal(isTransition(from, to), from === to || MOVES[from].includes(to))
  }
})
