import assert from 'node:assert/strict'
import { test } from 'node:test'
import { envelopeOf } from './envelope.ts'

test('serializes the fields in order, the time in whole seconds, and the data unchanged', () => {
  const data = '{"object":{"object":"instance","b":1,"a":"\\u00e9 ü","n":1.0},"previous":{"b": 0}}'
  const row = {
    data,
    request_id: null,
    sequence: 1042,
    created_at: new Date('2030-01-01T12:00:00.987Z'),
    environment: 'test' as const,
    type: 'instance.updated',
    id: 'evt_3x9y2z1a0b5c7d8e4f6g',
  }
  assert.equal(
    envelopeOf(row),
    `{"id":"evt_3x9y2z1a0b5c7d8e4f6g","type":"instance.updated","environment":"test","created_at":"2030-01-01T12:00:00Z","sequence":1042,"request_id":null,"data":${data}}`,
  )
  const named = envelopeOf({ ...row, request_id: 'a "quoted" id' })
  assert.equal(JSON.parse(named).request_id, 'a "quoted" id')
  assert.deepEqual(Object.keys(JSON.parse(named)), [
    'id',
    'type',
    'environment',
    'created_at',
    'sequence',
    'request_id',
    'data',
  ])
})
