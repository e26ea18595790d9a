import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { Sql } from '../db/database.ts'
import { compile } from '../db/sql.ts'
import { systemClock } from '../lib/clock.ts'
import { silentLog } from '../lib/log.ts'
import { createKeyUsage } from './usage.ts'

/** A clock that stands until it is moved, and a database that only listens. */
function world(options: { fails?: boolean } = {}) {
  let now = 0
  const alarms: { at: number; callback: () => void }[] = []
  const clock = {
    ...systemClock,
    monotonic: () => now,
    after: (ms: number, callback: () => void) => {
      alarms.push({ at: now + ms, callback })
      return { cancel() {} }
    },
  }
  const written: unknown[][] = []
  const sql = (async (strings: TemplateStringsArray, ...values: unknown[]) => {
    if (options.fails) throw new Error('away')
    written.push(compile({ strings, values }).values)
    return []
  }) as unknown as Sql
  const warnings: object[] = []
  const log = { ...silentLog, warn: (fields: object) => void warnings.push(fields) }
  const usage = createKeyUsage({ sql, clock, log })
  const pass = (ms: number) => {
    now += ms
    for (const { callback } of alarms.splice(0, alarms.length).filter((alarm) => alarm.at <= now)) callback()
    return new Promise(setImmediate)
  }
  return { usage, written, warnings, pass }
}

test('uses of a second are one statement', async () => {
  const { usage, written, pass } = world()
  for (let i = 0; i < 100; i++) usage.note(`key_${i % 3}`, '10.0.0.1')
  assert.equal(written.length, 0)
  await pass(1_000)
  assert.deepEqual(
    written.map(([ids]) => ids),
    [['key_0', 'key_1', 'key_2']],
  )
})

test('what was gathered is written with canonical addresses, and never what is no address', async () => {
  const { usage, written, pass } = world()
  usage.note('key_a', '::ffff:10.0.0.1')
  usage.note('key_b', 'unknown')
  usage.note('key_a', '10.0.0.2')
  await pass(1_000)
  assert.deepEqual(written, [
    [
      ['key_a', 'key_b'],
      ['10.0.0.1', null],
    ],
  ])
  usage.note('key_a', '10.0.0.3')
  await pass(58_999)
  assert.equal(written.length, 1)
  await pass(1)
  usage.note('key_a', '10.0.0.3')
  await pass(1_000)
  assert.deepEqual(written[1], [['key_a'], ['10.0.0.3']])
})

test('a database that is away costs a warning, and the next minute is written again', async () => {
  const { usage, warnings, pass } = world({ fails: true })
  usage.note('key_a', '10.0.0.1')
  await pass(1_000)
  assert.deepEqual(warnings, [{ error: 'away', keys: 1 }])
  usage.note('key_b', '10.0.0.1')
  await pass(1_000)
  assert.equal(warnings.length, 2)
})
